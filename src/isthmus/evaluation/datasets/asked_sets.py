"""Questions in any form that is read: VQAv2, GQA and SNLI-VE as published, or a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isthmus.data.asked import AskedQuestions
from isthmus.data.asked_table import TABLES, read_asked_table
from isthmus.errors import InputError
from isthmus.evaluation.datasets.gqa import read_gqa
from isthmus.evaluation.datasets.snli_ve import read_snli_ve
from isthmus.evaluation.datasets.vqav2 import read_vqav2

# By the files that a folder holds; a file of one's own is told by its name.
PUBLISHED = (
    (("v2_OpenEnded_mscoco_*2014_questions.json",), read_vqav2),
    (tuple(f"{folder}*_balanced_questions.json" for folder in ("", "questions/", "questions1.2/")), read_gqa),
    (("snli_ve_*.jsonl", "data/snli_ve_*.jsonl"), read_snli_ve),
)
TABLE = "questions"  # the stem of the table in a folder


def read_asked(
    data: AskedQuestions | str | Path, *, split: str | None = None, images: str | Path | None = None
) -> AskedQuestions:
    """Questions from a folder as VQAv2, GQA or SNLI-VE publish it, a folder with `questions.csv`, or a table.

    split: of a published set, default the one that papers report (val, testdev, test); of a table, default all.
    images: the folder of pictures, where they are not in their usual place.

    Raises `InputError` for what is none of these, or is incomplete; `UsageError` for a split that is not there.
    """
    if isinstance(data, AskedQuestions):
        return data.of_split(split)
    path, chosen = Path(data), {} if split is None else {"split": split}
    for patterns, read in PUBLISHED:
        if any(next(path.glob(pattern), None) for pattern in patterns):
            reader: Any = read
            return reader(path, images=images, **chosen)
    tables = [path] if path.is_file() else [path / f"{TABLE}{ending}" for ending in TABLES]
    found = next((table for table in tables if table.is_file()), None)
    if found is None:
        raise InputError(
            f"{path}: holds no questions. Expected a table with image, question and answer ({TABLE}.csv), or VQAv2, "
            "GQA or SNLI-VE as they are published."
        )
    return read_asked_table(found, images).of_split(split)
