"""Winoground, MMVP, SugarCrepe, ARO and What's Up: their layouts in miniature, scores worked out by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from isthmus.cli import main
from isthmus.errors import InputError
from isthmus.evaluation.aro import aro
from isthmus.evaluation.compositional import compositional, score
from isthmus.evaluation.datasets.aro import read_aro
from isthmus.evaluation.datasets.mmvp import read_mmvp
from isthmus.evaluation.datasets.questions import NONE, Files, Question
from isthmus.evaluation.datasets.sugarcrepe import read_sugarcrepe
from isthmus.evaluation.datasets.whatsup import read_whatsup
from isthmus.evaluation.datasets.winoground import read_winoground
from isthmus.evaluation.mmvp import mmvp
from isthmus.evaluation.sugarcrepe import sugarcrepe
from isthmus.evaluation.whatsup import whatsup
from isthmus.evaluation.winoground import winoground
from toys import png

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
WORDS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}


class Colours:
    """An image is its mean colour, a caption the sum of the colours it names, in any order: a bag of words."""

    def encode_image(self, images: Sequence[Image.Image], batch_size: int = 32) -> np.ndarray:
        return np.stack([np.asarray(image, np.float32).mean((0, 1)) / 255 + 1e-6 for image in images])

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([np.sum([WORDS.get(w, (1e-3,) * 3) for w in text.split()], axis=0) for text in texts])


def paint(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def winoground_folder(root: Path) -> Path:
    """Three examples: right, a tie (the same words), and right by a narrow margin."""
    captions = [("red thing", "green thing"), ("red on green", "green on red"), ("red", "red red red blue")]
    images = [(RED, GREEN), (RED, GREEN), (RED, (255, 0, 60))]
    rows = []
    for i, (texts, colours) in enumerate(zip(captions, images, strict=True)):
        for k, colour in enumerate(colours):
            paint(root / "images" / f"ex_{i}_img_{k}.png", colour)
        names = {f"image_{k}": f"ex_{i}_img_{k}" for k in (0, 1)} | {f"caption_{k}": texts[k] for k in (0, 1)}
        tags = {"tag": "Noun", "secondary_tag": "", "num_main_preds": 1, "collapsed_tag": ("Object", "Relation")[i % 2]}
        rows.append({"id": i, **names, **tags})
    (root / "examples.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return root


def question(*captions: str, images: int = 1, category: str = "all", group: str = "0", within: Any = ()) -> Question:
    files = Files(Path("nowhere"))
    return Question("q", tuple(files.picture(str(k)) for k in range(images)), captions, category, group, within)


def test_winoground_scores_are_those_of_the_paper() -> None:
    """s[caption, image] of five examples: all right, text only, image only, none, a tie in each."""
    tables = [
        [[0.9, 0.1], [0.2, 0.8]],  # text, image, group
        [[0.5, 0.7], [0.4, 0.9]],  # text only: image 1 suits both captions better
        [[0.5, 0.4], [0.7, 0.9]],  # image only: caption 1 suits both images better
        [[0.1, 0.9], [0.9, 0.1]],  # swapped
        [[0.5, 0.5], [0.5, 0.5]],  # ties
    ]
    questions = [question("a", "b", images=2, group=str(i)) for i in range(5)]
    found = score(questions, [np.array(t, np.float32) for t in tables], bootstrap=0)
    names = ("text_score", "image_score", "group_score", "matching_score")
    assert found["metrics"] == pytest.approx(dict(zip(names, (2 / 5, 2 / 5, 1 / 5, 3 / 5), strict=True)))
    assert found["chance"] == pytest.approx(dict(zip(names, (1 / 4, 1 / 4, 1 / 6, 1 / 2), strict=True)))
    assert found["ties"] == dict.fromkeys(names, 1)


def test_chance_is_what_random_scores_reach() -> None:
    random = np.random.default_rng(0).random((20_000, 2, 2), np.float32)
    questions = [question("a", "b", images=2, group=str(i)) for i in range(len(random))]
    found = score(questions, list(random), bootstrap=0)
    assert found["metrics"] == pytest.approx(found["chance"], abs=0.01)
    sets = [question("a", "b", "c", "d", group=str(i // 4), within=(("set", str(i // 4)),)) for i in range(len(random))]
    found = score(sets, list(random.reshape(-1, 4, 1)), bootstrap=0)
    assert found["chance"] == pytest.approx({"accuracy": 1 / 4, "set_accuracy": 1 / 256})
    assert found["metrics"] == pytest.approx(found["chance"], abs=0.01)


def test_a_choice_needs_a_strictly_greater_score_and_sets_need_all() -> None:
    columns = [[0.9, 0.1], [0.3, 0.3], [0.6, 0.5], [0.2, 0.7]]
    kinds = ["x", "x", "y", NONE]
    questions = [
        question("right", "wrong", category=kinds[i], group=str(i), within=(("pair", str(i // 2)),)) for i in range(4)
    ]
    found = score(questions, [np.array(c, np.float32)[:, None] for c in columns], bootstrap=200)
    assert found["metrics"]["accuracy"] == pytest.approx(2 / 4)
    assert found["metrics"]["mean_per_category_accuracy"] == pytest.approx((1 / 2 + 1) / 2)  # the last has none
    assert found["metrics"]["pair_accuracy"] == 0
    assert found["ties"] == {"accuracy": 1, "pair_accuracy": 1}
    assert [(row["category"], row["n"], row["metrics"]["accuracy"]) for row in found["per_category"]] == [
        ("x", 2, 0.5),
        ("y", 1, 1.0),
    ]
    low, high = found["ci95"]["accuracy"]
    assert 0 <= low < 0.5 < high <= 1


def test_none_right_leaves_room_for_some() -> None:
    """No resample of ten wrong answers has a right one; ten misses still allow for 31 % (Clopper and Pearson)."""
    scores = [np.array([[0.0], [1.0]], np.float32)] * 10
    asked = [question("a", "b", category="xy"[i % 2], group=str(i)) for i in range(10)]
    found = score(asked, scores, bootstrap=100)
    assert found["ci95"]["accuracy"] == pytest.approx([0, 0.3085], abs=1e-4)
    assert found["per_category"][0]["ci95"]["accuracy"] == pytest.approx([0, 0.5218], abs=1e-4)  # of five
    found = score(asked, [1 - cosines for cosines in scores], bootstrap=100)
    assert found["ci95"]["accuracy"] == pytest.approx([0.6915, 1], abs=1e-4)
    assert score(asked, scores, bootstrap=0)["ci95"] == {}


def test_questions_on_one_picture_are_drawn_together() -> None:
    """Ten questions on one picture and one on another: two units, so the interval is as wide as can be."""
    scores = [np.array([[1.0], [0.0]], np.float32)] * 10 + [np.array([[0.0], [1.0]], np.float32)]
    questions = [question("a", "b", group="many")] * 10 + [question("a", "b", group="one")]
    found = score(questions, scores, bootstrap=500)
    assert found["ci95"]["accuracy"] == pytest.approx([0, 1], abs=0.02)
    assert found["n"]["groups"] == 2


def test_winoground_layout(tmp_path: Path) -> None:
    (found,) = winoground(Colours(), winoground_folder(tmp_path), bootstrap=100)
    assert found["dataset"] == "winoground"
    names = ("text_score", "image_score", "group_score", "matching_score")
    assert found["metrics"] == pytest.approx(dict.fromkeys(names, 2 / 3))
    assert found["ties"] == dict.fromkeys(names, 1)
    by = {row["category"]: row["metrics"]["group_score"] for row in found["per_category"]}
    assert by == {"Object": 1.0, "Relation": 0.0}


def test_winoground_in_parquet_gives_the_same(tmp_path: Path) -> None:
    folder = winoground_folder(tmp_path / "folder")
    rows = [json.loads(line) for line in (folder / "examples.jsonl").read_text().splitlines()]
    for row in rows:
        for k in (0, 1):
            file = folder / "images" / f"{row[f'image_{k}']}.png"
            row[f"image_{k}"] = {"bytes": file.read_bytes(), "path": file.name}
    (tmp_path / "hub" / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "hub" / "data" / "test-00000-of-00001.parquet")
    a, b = (winoground(Colours(), at, bootstrap=0)[0] for at in (folder, tmp_path / "hub"))
    assert a["metrics"] == b["metrics"] and a["per_category"] == b["per_category"]

    rows[1]["image_1"] = None
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "one.parquet")
    with pytest.raises(InputError, match=r"one\.parquet: row 1: no image_1"):
        read_winoground(tmp_path / "one.parquet")


@pytest.mark.parametrize("missing", ["image_1", "caption_0"])
def test_a_winoground_row_with_one_image_is_named(tmp_path: Path, missing: str) -> None:
    folder = winoground_folder(tmp_path)
    rows = [json.loads(line) for line in (folder / "examples.jsonl").read_text().splitlines()]
    del rows[2][missing]
    (folder / "examples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match=rf"examples\.jsonl: line 3: no {missing}: an example has two"):
        read_winoground(folder)


def test_a_missing_image_is_named_and_its_question_left_out(tmp_path: Path) -> None:
    folder = winoground_folder(tmp_path)
    (folder / "images" / "ex_1_img_0.png").unlink()
    (found,) = winoground(Colours(), folder, bootstrap=0)
    assert found["metrics"]["text_score"] == 1 and found["n"]["questions"] == 2
    assert found["skipped"][0][0] == "1" and "ex_1_img_0.png" in found["skipped"][0][1]
    for file in (folder / "images").iterdir():
        file.unlink()
    with pytest.raises(InputError, match=r"None of the 3 questions can be used.*ex_0_img_0\.png"):
        winoground(Colours(), folder, bootstrap=0)


def test_mmvp_layout(tmp_path: Path) -> None:
    """A pair is right where each statement finds its image."""
    for i, colour in enumerate([RED, GREEN, RED, (255, 0, 60)], 1):
        paint(tmp_path / "MLLM_VLM Images" / ("Color", "Texts")[(i - 1) // 2] / f"{i}.jpg", colour)
    rows = [(1, "Color", "red"), (2, "Color", "green"), (3, "Texts", "blue"), (4, "Texts", "red")]
    with open(tmp_path / "Questions.csv", "w", newline="") as file:
        csv.writer(file).writerows([("Question ID", "Type", "Statement"), *rows])
    asked = read_mmvp(tmp_path)["mmvp"]
    assert asked[0].captions == ("a photo of red", "a photo of green") and asked[1].id == "3-4"
    (found,) = mmvp(Colours(), tmp_path, bootstrap=100)
    assert found["metrics"]["pair_accuracy"] == 1 / 2 and found["chance"]["pair_accuracy"] == 1 / 4
    assert {row["category"]: row["metrics"]["pair_accuracy"] for row in found["per_category"]} == {
        "Color": 1.0,
        "Texts": 0.0,
    }
    with open(tmp_path / "Questions.csv", "a", newline="") as file:
        csv.writer(file).writerow((5, "Texts", "red"))
    with pytest.raises(InputError, match="the last line has no partner"):
        read_mmvp(tmp_path)


def test_sugarcrepe_layout(tmp_path: Path) -> None:
    paint(tmp_path / "val2017" / "000000000001.jpg", RED)
    paint(tmp_path / "val2017" / "000000000002.jpg", GREEN)
    row = {"filename": "000000000001.jpg", "caption": "red", "negative_caption": "green"}
    other = {"filename": "000000000002.jpg", "caption": "red", "negative_caption": "green"}
    swap = {"filename": "000000000001.jpg", "caption": "red on green", "negative_caption": "green on red"}
    (tmp_path / "replace_att.json").write_text(json.dumps({"0": row, "7": other}))
    (tmp_path / "swap_obj.json").write_text(json.dumps({"0": swap}))
    found = {one["dataset"]: one for one in sugarcrepe(Colours(), tmp_path, bootstrap=0)}
    assert found["sugar_crepe/replace_att"]["metrics"] == {"accuracy": 0.5}
    assert found["sugar_crepe/swap_obj"]["metrics"] == {"accuracy": 0.0}
    assert found["sugar_crepe/swap_obj"]["ties"] == {"accuracy": 1}
    (tmp_path / "swap_obj.json").write_text(json.dumps({"0": {"filename": "x.jpg", "caption": "red"}}))
    with pytest.raises(InputError, match=r"swap_obj\.json: 0: 'negative_caption' is missing"):
        read_sugarcrepe(tmp_path)


def test_aro_layout_cuts_the_box_out(tmp_path: Path) -> None:
    picture = Image.new("RGB", (20, 10), RED)
    picture.paste(Image.new("RGB", (10, 10), GREEN), (10, 0))
    (tmp_path / "images").mkdir()
    picture.save(tmp_path / "images" / "1.png")
    box = {"bbox_x": 10, "bbox_y": 0, "bbox_w": 10, "bbox_h": 10}
    row = {"image_id": "1", "image_path": "1.png", **box, "true_caption": "green", "false_caption": "red"}
    relation = [{**row, "relation_name": "on"}, {**row, "bbox_x": 0, "relation_name": "behind"}]
    (tmp_path / "visual_genome_relation.json").write_text(json.dumps(relation))
    attribution = [{**row, "attributes": ["old", "white"]}] * 25 + [{**row, "attributes": ["rare", "white"]}]
    (tmp_path / "visual_genome_attribution.json").write_text(json.dumps(attribution))
    order = [{"image": "1.png", "caption_options": ["green red", "blue", "blue red", "blue green", "blue blue"]}]
    (tmp_path / "coco_order.json").write_text(json.dumps(order))
    found = {one["dataset"]: one for one in aro(Colours(), tmp_path, bootstrap=0)}
    assert {row["category"]: row["metrics"]["accuracy"] for row in found["vg_relation"]["per_category"]} == {
        "behind": 0.0,
        "on": 1.0,
    }
    assert [row["category"] for row in found["vg_attribution"]["per_category"]] == ["old_white"]
    assert found["vg_attribution"]["n"] == {"questions": 26, "images": 1, "groups": 1}
    assert found["coco_order"]["metrics"] == {"accuracy": 1.0}
    assert found["coco_order"]["chance"] == pytest.approx({"accuracy": 1 / 5})
    relation[0]["bbox_x"] = 400
    (tmp_path / "visual_genome_relation.json").write_text(json.dumps(relation))
    (outside, *_) = aro(Colours(), tmp_path, bootstrap=0)
    assert "lies outside of 20 × 10 pixels" in outside["skipped"][0][1]


def test_whatsup_layout(tmp_path: Path) -> None:
    """Four relations of one pair of objects; paths carry the authors' own folder."""
    relations = {"left_of": "red", "right_of": "green", "on": "blue", "under": "red green"}
    rows = []
    for relation, right in relations.items():
        name = f"mug_{relation}_table.jpeg"
        paint(tmp_path / "controlled_images" / name, RED if right == "red" else GREEN if right == "green" else BLUE)
        wrong = [caption for caption in relations.values() if caption != right]
        rows.append({"image_path": f"data/controlled_images/{name}", "caption_options": [right, *wrong]})
    (tmp_path / "controlled_images_dataset.json").write_text(json.dumps(rows))
    paint(tmp_path / "val2017" / "000000000009.jpg", RED)
    (tmp_path / "coco_qa_two_obj.json").write_text(json.dumps([[9, "A red left of it", "A green right of it"]]))
    controlled, coco = whatsup(Colours(), tmp_path, bootstrap=0)
    assert controlled["metrics"]["accuracy"] == 3 / 4  # the last picture is blue
    assert controlled["metrics"]["pair_accuracy"] == 1 / 2 and controlled["metrics"]["set_accuracy"] == 0
    assert controlled["chance"]["pair_accuracy"] == 1 / 16 and controlled["chance"]["set_accuracy"] == 1 / 256
    assert coco["metrics"] == {"accuracy": 1.0} and coco["per_category"][0]["category"] == "left of"
    (tmp_path / "controlled_images" / "mug_on_table.jpeg").unlink()
    assert "set_accuracy" not in whatsup(Colours(), tmp_path, bootstrap=0)[0]["metrics"]


@pytest.mark.parametrize(
    ("reader", "says"),
    [
        (read_winoground, "no examples.jsonl"),
        (read_mmvp, "no Questions.csv"),
        (read_sugarcrepe, "no JSON files of SugarCrepe"),
        (read_aro, "none of ARO's files"),
        (read_whatsup, "none of What's Up's files"),
    ],
)
def test_an_empty_folder_says_what_belongs_there(tmp_path: Path, reader: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        reader(tmp_path)


def test_a_missing_folder_of_images_is_named(tmp_path: Path) -> None:
    folder = winoground_folder(tmp_path / "here")
    (folder / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"no images/ with the images.*--images"):
        read_winoground(folder)
    assert len(read_winoground(folder, tmp_path / "elsewhere")["winoground"]) == 3


def test_each_picture_and_caption_is_encoded_once() -> None:
    seen: list[int] = []

    class Counting(Colours):
        def encode_image(self, images: Sequence[Image.Image], batch_size: int = 32) -> np.ndarray:
            seen.append(len(images))
            return super().encode_image(images)

    class One:
        def read(self, index: int) -> bytes:
            return png(Image.new("RGB", (4, 4), RED))

        def signature(self, index: int) -> None:
            return None

    from isthmus.evaluation.datasets.questions import QuestionImage

    picture = QuestionImage(One(), 0)
    asked = [Question(str(i), (picture,), ("red", "blue"), "all", "one") for i in range(50)]
    assert compositional(Counting(), asked)["metrics"] == {"accuracy": 1.0}
    assert seen == [1]


def test_the_command_line_shows_chance_ties_and_what_was_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = winoground_folder(tmp_path)
    (folder / "images" / "ex_0_img_0.png").unlink()
    monkeypatch.setattr("isthmus.evaluation.compositional.opened", lambda model: (Colours(), "colours"))
    assert main(["eval", str(tmp_path), "winoground", str(folder), "--json", str(tmp_path / "out.json")]) == 3
    shown = capsys.readouterr().out
    assert "chance 25.0" in shown and "by category" in shown and "skipped 0: no such file" in shown
    assert "ties, which are no answers: text_score 1" in shown
    assert json.loads((tmp_path / "out.json").read_text())["metrics"]["text_score"] == 0.5
