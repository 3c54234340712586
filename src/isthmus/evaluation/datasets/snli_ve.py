"""SNLI-VE: visual entailment on Flickr30k's pictures (Xie et al. 2019, arXiv:1901.06706)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from isthmus.data.asked import Asked, AskedQuestions, asked_questions
from isthmus.data.text import json_lines
from isthmus.errors import InputError
from isthmus.evaluation.datasets.flickr30k import FOLDERS
from isthmus.evaluation.datasets.questions import find_file, image_folder, texts

NAME = "snli_ve_{split}.jsonl"
SPLITS = ("test", "dev", "train")
CLASSES = ("entailment", "neutral", "contradiction")


def read_snli_ve(root: Path, split: str = "test", images: str | Path | None = None) -> AskedQuestions:
    """`snli_ve_test.jsonl` (`Flickr30K_ID`, `sentence2`, `gold_label`) beside `flickr30k-images/ID.jpg`.

    The split is called val where the authors say dev. Raises `InputError`.
    """
    name = "dev" if split == "val" else split
    if name not in SPLITS:
        raise InputError(f"{root}: SNLI-VE has the splits {', '.join(SPLITS)}, but no {split!r}.")
    file = find_file(root, (NAME.format(split=name), f"data/{NAME.format(split=name)}"), f"SNLI-VE's {name}")
    folder = image_folder(root, images, FOLDERS)
    return asked_questions(str(root), _asked(file, split), lambda name: folder / name)


def _asked(file: Path, split: str) -> Iterator[Asked]:
    for line, row in json_lines(file):
        place = f"{file}: line {line}"
        statement, label = texts(row, ("sentence2", "gold_label"), place)
        image = str(row.get("Flickr30K_ID") or row.get("Flickr30kID") or "").removesuffix(".jpg")
        if not image:
            raise InputError(f"{place}: names no picture (Flickr30K_ID).")
        if label not in CLASSES:
            raise InputError(f"{place}: gold_label {label!r} is none of {', '.join(CLASSES)}.")
        yield Asked(f"{image}.jpg", statement, {label: 1.0}, label, split, place)
