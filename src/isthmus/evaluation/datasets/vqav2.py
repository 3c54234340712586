"""VQAv2 (Goyal et al. 2017, arXiv:1612.00837)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isthmus.data.asked import Asked, AskedQuestions, asked_questions
from isthmus.errors import InputError
from isthmus.evaluation.datasets.archive import json_of
from isthmus.evaluation.datasets.questions import image_folder
from isthmus.evaluation.datasets.vqa_answers import normalise, soft_scores

MARK = "v2_OpenEnded_mscoco_{split}2014_questions.json"
ANSWERS = "v2_mscoco_{split}2014_annotations.json"
SPLITS = ("val", "train")


def read_vqav2(root: Path, split: str = "val", images: str | Path | None = None) -> AskedQuestions:
    """The two files of a split, as they are unpacked, beside `val2014/COCO_val2014_000000000042.jpg`.

    The kind of a question is its `answer_type`: yes/no, number, other. Raises `InputError`.
    """
    if split not in SPLITS:
        raise InputError(f"{root}: VQAv2 publishes answers of {' and '.join(SPLITS)} alone, not of {split!r}.")
    folder = image_folder(root, images, (f"{split}2014", f"images/{split}2014", f"coco/{split}2014"))
    questions = _rows(root / MARK.format(split=split), "questions")
    answers = {row.get("question_id"): row for row in _rows(root / ANSWERS.format(split=split), "annotations")}
    prefix = f"COCO_{split}2014_"
    asked = _asked(root / MARK.format(split=split), questions, answers, prefix, split)
    return asked_questions(str(root), asked, lambda name: folder / name, normalise)


def _rows(file: Path, key: str) -> list[dict[str, Any]]:
    found = json_of(file)
    rows = found.get(key) if isinstance(found, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{file}: holds no list of {key}, as VQAv2's files do.")
    return rows


def _asked(
    file: Path, questions: list[dict[str, Any]], answers: dict[Any, dict[str, Any]], prefix: str, split: str
) -> Iterator[Asked]:
    for number, row in enumerate(questions):
        place = f"{file}: question {row.get('question_id', number)}"
        own = answers.get(row.get("question_id"))
        if own is None:
            raise InputError(f"{place}: the annotations hold no answers to it; files of different splits?")
        try:
            name = f"{prefix}{int(row['image_id']):012d}.jpg"
            given = [str(one["answer"]) for one in own["answers"]]
            question, kind = str(row["question"]).strip(), str(own.get("answer_type", ""))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{place}: is not in VQAv2's format ({error!r}).") from None
        if not given or not question:
            raise InputError(f"{place}: has no {'question' if given else 'answers'}.")
        yield Asked(name, question, soft_scores(given), kind, split, place)
