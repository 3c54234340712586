"""Questions about pictures: VQAv2, GQA and SNLI-VE in miniature as published, tables, and scores of answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from isthmus.data.asked import AskedQuestions
from isthmus.errors import InputError, UsageError
from isthmus.evaluation.datasets.asked_sets import read_asked
from isthmus.evaluation.datasets.vqa_answers import normalise, soft_scores
from toys import picture, png


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(picture("red", "dark", "left")))


def vqav2(root: Path) -> None:
    touch(root / "val2014", "COCO_val2014_000000000042.jpg", "COCO_val2014_000000000073.jpg")
    asked = [(42, 42000, "What is it?"), (42, 42001, "Is it  red?"), (73, 73000, "How many?")]
    questions = [{"image_id": image, "question_id": id, "question": text} for image, id, text in asked]
    given = [["cat"] * 3 + ["a Cat."] + ["dog"] * 6, ["yes"] * 10, ["2"] * 2 + ["two"] + ["3"] * 7]
    kinds = ("other", "yes/no", "number")
    answers = [
        {"question_id": id, "answer_type": kind, "answers": [{"answer": one, "answer_id": 1} for one in some]}
        for (_, id, _), some, kind in zip(asked, given, kinds, strict=True)
    ]
    for name, key, rows in (
        ("v2_OpenEnded_mscoco_val2014_questions.json", "questions", questions),
        ("v2_mscoco_val2014_annotations.json", "annotations", answers),
    ):
        (root / name).write_text(json.dumps({"data_subtype": "val2014", key: rows}))


def gqa(root: Path) -> None:
    touch(root / "images", "2370799.jpg", "n161313.jpg")
    rows = {
        "201": {"imageId": "2370799", "question": "Is it red?", "answer": "yes", "types": {"structural": "verify"}},
        "202": {"imageId": "n161313", "question": "What is it?", "answer": "cat", "types": {"structural": "query"}},
    }
    (root / "questions1.2").mkdir()
    (root / "questions1.2" / "testdev_balanced_questions.json").write_text(json.dumps(rows))


def snli_ve(root: Path) -> None:
    touch(root / "flickr30k-images", "1007129816.jpg")
    rows = [
        {"Flickr30K_ID": "1007129816", "sentence1": "A man.", "sentence2": said, "gold_label": label, "pairID": f"x{n}"}
        for n, (said, label) in enumerate((("A man.", "entailment"), ("A cat.", "contradiction"), ("Tom.", "neutral")))
    ]
    (root / "snli_ve_test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def table(root: Path) -> None:
    touch(root / "images", "a.png", "b.png")
    rows = ["image,question,answer,kind,split", "images/a.png,Is it red?,yes,colour,test"]
    rows += ["images/a.png,How many?,two,count,test", "images/b.png,Is it red?,no,colour,train"]
    (root / "questions.csv").write_text("\n".join(rows))


LAYOUTS: dict[str, tuple[Callable[[Path], None], int, set[str]]] = {
    "vqav2": (vqav2, 3, {"other", "yes/no", "number"}),
    "gqa": (gqa, 2, {"verify", "query"}),
    "snli-ve": (snli_ve, 3, {"entailment", "neutral", "contradiction"}),
    "table": (table, 3, {"colour", "count"}),
}


def read(name: str, root: Path, **options: Any) -> AskedQuestions:
    root.mkdir(exist_ok=True)
    LAYOUTS[name][0](root)
    return read_asked(root, **options)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_question_is_of_a_picture_that_can_be_read(name: str, tmp_path: Path) -> None:
    found = read(name, tmp_path)
    _, count, kinds = LAYOUTS[name]
    assert len(found) == count and {one.kind for one in found.asked} == kinds
    ids = found.pairs.images["id"].to_pylist()
    assert {one.image for one in found.asked} == set(ids)
    assert [found.pairs.decode(row).size for row in range(len(ids))] == [found.pairs.decode(0).size] * len(ids)
    captions = found.pairs.captions.to_pylist()
    assert {(row["id"], row["caption"]) for row in captions} == {(one.image, one.question) for one in found.asked}


def test_vqav2_scores_count_agreement_after_spelling(tmp_path: Path) -> None:
    what, red, many = (found := read("vqav2", tmp_path)).asked
    assert what.scores == pytest.approx({"cat": 1.0, "dog": 1.0})
    assert many.scores == pytest.approx({"2": 0.9, "3": 1.0})
    assert found.score(what, "The CAT") == 1.0 and found.score(red, "no") == 0.0
    assert found.score(many, "two") == pytest.approx(0.9)


def test_soft_score_is_the_mean_over_all_nine_of_ten() -> None:
    """The official code leaves each of the ten out in turn; here with loops."""
    for count in range(11):
        answers = ["x"] * count + [f"y{i}" for i in range(10 - count)]
        nines = [sum(one == "x" for one in some) for some in combinations(answers, 9)]
        expected = sum(min(1.0, n / 3) for n in nines) / 10
        assert soft_scores(answers).get("x", 0.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("written", "spelt"),
    [
        ("A dog.", "dog"),
        ("Two", "2"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("couldntve", "couldntve"),
        ("couldn'tve", "couldn't've"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("black/white", "black white"),
        ("black / white", "black  white".replace("  ", " ")),
        ("t-shirt", "t shirt"),
        ("yes\n", "yes"),
        ("  The  man ", "man"),
    ],
)
def test_answers_are_spelt_as_vqa_spells_them(written: str, spelt: str) -> None:
    assert normalise(written) == spelt


def test_a_split_of_a_table_is_chosen_and_an_unknown_one_named(tmp_path: Path) -> None:
    found = read("table", tmp_path, split="test")
    assert [one.question for one in found.asked] == ["Is it red?", "How many?"] and len(found.pairs) == 1
    with pytest.raises(UsageError, match="splits are: test, train"):
        read_asked(tmp_path, split="val")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["image,question,answer", ",Is it red?,yes"], r"line 2: has no picture: a question is asked of one"),
        (["image,question,answer", "a.png,,yes"], r"line 2: has no question"),
        (["image,question,answer", "a.png,Is it?,"], r"line 2: has no answer"),
        (["image,question", "a.png,Is it?"], r"no column `answer` \(answer, label, gold_label\)"),
        (["image,question,answer"], r"no questions"),
    ],
)
def test_bad_rows_are_named(rows: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "questions.csv").write_text("\n".join(rows))
    with pytest.raises(InputError, match=message):
        read_asked(tmp_path)


def test_what_holds_no_questions_is_said_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="VQAv2, GQA or SNLI-VE"):
        read_asked(tmp_path)
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(InputError, match="not a table of questions"):
        read_asked(tmp_path / "x.png")
    vqav2(tmp_path)
    (tmp_path / "v2_mscoco_val2014_annotations.json").write_text('{"annotations": []}')
    with pytest.raises(InputError, match="question 42000: the annotations hold no answers"):
        read_asked(tmp_path)
    with pytest.raises(InputError, match="publishes answers of val and train alone"):
        read_asked(tmp_path, split="test")
    with pytest.raises(InputError, match="Name their folder with --images"):
        read_asked(tmp_path, split="train")
