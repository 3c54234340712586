"""Scenes with questions: answers are what the scene shows, splits share no drawing, all follows from the seed."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from isthmus.cli import main
from isthmus_demo.question_run import run_questions, trial_rows
from isthmus_demo.questions import (
    COLOURS,
    FEWEST,
    KINDS,
    LABELS,
    NUMBERS,
    PLACES,
    QuestionScene,
    article,
    content,
    plural,
    question_scene,
    scene_questions,
    scene_statements,
    split_cutouts,
    write_question_scenes,
)
from isthmus_demo.scenes import Cutout, names, read_cutouts
from toy_fusion import views

NAMES = ("bus", "cat", "dog", "fish", "umbrella")


def drawing(name: str, number: int = 0) -> Cutout:
    """A grey disc with a hole, in place of a drawing."""
    grey = 60 + 10 * NAMES.index(name)
    image = Image.new("RGBA", (60, 48 + number))
    shape = ImageDraw.Draw(image)
    shape.ellipse((2, 2, 56, 44 + number), (grey, grey, grey, 255))
    shape.ellipse((20, 10, 30, 20), (200, 200, 200, 255))
    return Cutout(f"{name}-{number}", name, None, image)


CUTOUTS = [drawing(name) for name in NAMES]


def scenes(count: int = 60) -> list[tuple[QuestionScene, np.random.Generator]]:
    rngs = [np.random.default_rng([7, number]) for number in range(count)]
    return [(question_scene(CUTOUTS, rng), rng) for rng in rngs]


def test_every_kind_is_asked_and_answers_are_what_the_things_are() -> None:
    asked = set()
    for scene, rng in scenes():
        things = {thing.name: thing for thing in scene.things}
        for one in scene_questions(scene, rng):
            asked.add((one.kind, one.answer))
            words = one.question.rstrip("?").split()
            thing = next((things[name] for name in things if name in words or plural(name) in words), None)
            if thing is None:
                assert one.kind == "exists" and one.answer == "no" and words[-1] in scene.absent
                continue
            expected = {
                "colour": thing.colour,
                "blur": "yes" if thing.blurred else "no",
                "size": "large" if thing.large else "small",
                "count": NUMBERS[len(thing.cells) - 1],
                "where": PLACES[thing.cells[0]],
                "exists": "yes",
                "flip": "yes" if thing.turned else "no",
            }
            if one.kind == "left of":
                first, second = (things[words[k]] for k in (2, 6))
                assert one.answer == ("yes" if first.cells[0] % 2 < second.cells[0] % 2 else "no")
                assert first.cells[0] % 2 != second.cells[0] % 2
            else:
                assert one.answer == expected[one.kind]
    assert {kind for kind, _ in asked} == set(KINDS)
    assert {answer for kind, answer in asked if kind == "where"} == set(PLACES)
    assert all({"yes", "no"} <= {answer for kind, answer in asked if kind == one} for one in ("blur", "exists", "flip"))


def test_a_thing_is_where_and_of_the_colour_that_is_said() -> None:
    """By pixels: what differs from the border's colour lies in the quarter, and is nearest to the tint."""
    looked = 0
    for scene, _ in scenes(120):
        (first, *others) = scene.things
        pixels = np.asarray(scene.image, float)
        if others or len(first.cells) > 1 or first.colour is None or first.blurred or pixels[:2].std((0, 1)).max() > 1:
            continue
        away = np.abs(pixels - pixels[0, 0]).sum(-1) > 60
        y, x = np.argwhere(away).mean(0) / len(pixels)
        assert int(x > 0.5) + 2 * int(y > 0.5) == first.cells[0]
        tints = {name: np.array(rgb) / sum(rgb) for name, rgb in COLOURS.items()}
        body = pixels[away].mean(0) / pixels[away].mean(0).sum()
        assert min(tints, key=lambda name: float(np.abs(tints[name] - body).sum())) == first.colour
        looked += 1
    assert looked >= 3


def test_statements_are_worded_alike_and_each_class_occurs_as_often() -> None:
    counts = dict.fromkeys(LABELS, 0)
    for scene, rng in scenes():
        colour_of = {thing.name: thing.colour for thing in scene.things}
        for said, label in scene_statements(scene, rng):
            _, name, _, colour = said.rstrip(".").split()
            truth = "neutral" if name not in colour_of else LABELS[0] if colour_of[name] == colour else LABELS[2]
            assert label == truth
            counts[label] += 1
    assert len(set(counts.values())) == 1 and counts["neutral"] > 10


def test_a_scene_follows_from_its_seed() -> None:
    (one, _), (again, _), (other, _) = (scenes(2)[k] for k in (0, 0, 1))
    assert one.image.tobytes() == again.image.tobytes() and one.things == again.things
    assert one.image.tobytes() != other.image.tobytes()


def test_near_duplicates_and_equal_drawings_stay_in_one_split() -> None:
    cutouts = [drawing(name, number) for name in NAMES for number in range(12)]
    cutouts.append(Cutout("copy", "cat", None, cutouts[12].image.copy()))  # of cat-0, under another id
    groups = {f"dog-{number}": f"dogs {number // 2}" for number in range(12)}
    found = split_cutouts(cutouts, groups)
    where = {one.id: split for split, some in found.items() for one in some}
    assert where["copy"] == where["cat-0"]
    assert all(where[f"dog-{number}"] == where[f"dog-{number + 1}"] for number in range(0, 12, 2))
    for split, least in FEWEST.items():
        assert all(sum(one.name == name for one in found[split]) >= least for name in NAMES)


@pytest.mark.parametrize(("name", "many"), [("bus", "buses"), ("butterfly", "butterflies"), ("monkey", "monkeys")])
def test_names_in_the_plural_and_with_an_article(name: str, many: str) -> None:
    assert plural(name) == many
    assert [article(one) for one in ("umbrella", "apple", "unicorn", "dog")] == ["an", "an", "a", "a"]


def test_too_few_scenes_are_refused_by_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["demo", "questions", "--limit", "3", "--out", str(tmp_path)]) == 2
    assert "scenes=3: too few to train on" in capsys.readouterr().err


@pytest.mark.slow
def test_packaged_scenes_share_no_drawing_between_splits() -> None:
    cutouts = read_cutouts(split=None)
    found = split_cutouts(cutouts)
    pixels = {split: {content(one) for one in some} for split, some in found.items()}
    ids = {split: {one.id for one in some} for split, some in found.items()}
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not pixels[a] & pixels[b] and not ids[a] & ids[b]
    assert names(found["train"]) == names(found["val"]) == names(found["test"])
    assert len(names(found["test"])) >= 10


@pytest.mark.slow
def test_the_whole_way_trains_asks_and_writes_a_page(tmp_path: Path) -> None:
    encoders = views(tmp_path / "encoders")
    how = {"overrides": ("fusion.width=16", "fusion.heads=2", "fusion.depth=2", "optim.epochs=1", "fusion.grid=0")}
    found = run_questions(
        tmp_path, scenes=12, held_out={"val": 4, "test": 20}, image=encoders["image"], text=encoders["text"], **how
    )
    assert len(found.trials) == 20 and len({one.asked.kind for one in found.trials}) >= len(KINDS) - 1
    assert all(0 < one.probability <= 1 for one in found.trials)
    assert [len(row) for row in trial_rows(found.trials)] == [4] * 20
    assert found.result["n"]["images"] == 20 and "Which layers it reads" in (tmp_path / "layers.html").read_text()
    rows = list(csv.DictReader((tmp_path / "scenes" / "questions.csv").open()))
    assert {row["split"] for row in rows} == {"train", "val"}
    again = write_question_scenes(tmp_path / "again", {"train": 12, "val": 4})
    assert again.read_text() == (tmp_path / "scenes" / "questions.csv").read_text()
