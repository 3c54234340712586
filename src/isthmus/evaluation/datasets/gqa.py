"""GQA (Hudson & Manning 2019, arXiv:1902.09506)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isthmus.data.asked import Asked, AskedQuestions, asked_questions
from isthmus.errors import InputError
from isthmus.evaluation.datasets.archive import json_of
from isthmus.evaluation.datasets.questions import find_file, image_folder, texts

NAME = "{split}_balanced_questions.json"
FOLDERS = ("", "questions/", "questions1.2/")
SPLITS = ("testdev", "val", "train")


def read_gqa(root: Path, split: str = "testdev", images: str | Path | None = None) -> AskedQuestions:
    """`testdev_balanced_questions.json` (here or in `questions1.2/`), `{id: {imageId, question, answer, types}}`,
    beside `images/2370799.jpg`.

    The kind of a question is its structural type: verify, query, choose, logical, compare. One answer is right, letter
    for letter. Raises `InputError`.
    """
    if split not in SPLITS:
        raise InputError(f"{root}: GQA publishes answers of {', '.join(SPLITS)}, not of {split!r}.")
    file = find_file(root, [folder + NAME.format(split=split) for folder in FOLDERS], f"GQA's questions of {split}")
    folder = image_folder(root, images, ("images", "../images"))
    found = json_of(file)
    if not isinstance(found, dict):
        raise InputError(f"{file}: is no object of questions by their id, as GQA's files are.")
    return asked_questions(str(root), _asked(file, found, split), lambda name: folder / name)


def _asked(file: Path, found: dict[str, Any], split: str) -> Iterator[Asked]:
    for id, row in found.items():
        place = f"{file}: question {id}"
        if not isinstance(row, dict):
            raise InputError(f"{place}: is no object.")
        image, question, answer = texts(row, ("imageId", "question", "answer"), place)
        types = row.get("types")
        kind = str(types.get("structural", "")) if isinstance(types, dict) else ""
        yield Asked(f"{image}.jpg", question, {answer: 1.0}, kind, split, place)
