"""Questions in a table of one's own: a row for each, with its picture and its answer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from isthmus.data.asked import Asked, AskedQuestions, asked_questions
from isthmus.data.delimited import Delimited
from isthmus.data.splits import normalise_split
from isthmus.data.text import bare_name, json_lines
from isthmus.errors import InputError

# The columns, and other usual names of each.
NAMES = {
    "image": ("image", "image_path", "filepath", "file_name", "filename"),
    "question": ("question", "statement", "hypothesis", "sentence2"),
    "answer": ("answer", "label", "gold_label"),
    "kind": ("kind", "type", "category"),
    "split": ("split",),
}
NEEDED = ("image", "question", "answer")
LINES = (".jsonl", ".ndjson", ".jsonlines")
TABLES = (".csv", ".tsv", ".tab", *LINES, ".parquet")


def read_asked_table(path: Path, images: str | Path | None = None) -> AskedQuestions:
    """A CSV, JSON Lines or Parquet table with `image`, `question` and `answer`; optional `kind` and `split`.

    A row asks one question; many rows may be about one picture, whose path is relative to the table or to `images`.
    Statements (`statement` or `hypothesis`, with a `label`) are questions too. Raises `InputError` naming the row.
    """
    folder = path.parent if images is None else Path(images)
    asked = (_asked(place, row) for place, row in _rows(path))
    return asked_questions(str(path), asked, lambda name: folder / name)


def _asked(place: str, row: Mapping[str, Any]) -> Asked:
    found = {field: _text(row, names) for field, names in NAMES.items()}
    for field in NEEDED:
        if not found[field]:
            what = "no picture: a question is asked of one" if field == "image" else f"no {field}"
            raise InputError(f"{place}: has {what} (column `{field}`). Fill the cell, or remove the row.")
    split = normalise_split(found["split"]) if found["split"] else None
    answer = {found["answer"]: 1.0}
    return Asked(os.path.normpath(found["image"]), found["question"], answer, found["kind"], split, place)


def _text(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    value = next((row[name] for name in names if name in row), None)
    return "" if value is None else str(value).strip()


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, row) of a table; the columns of CSV and Parquet are looked at first."""
    name = bare_name(path)
    if name.endswith(LINES):
        yield from ((f"{path}: line {line}", row) for line, row in json_lines(path))
    elif name.endswith(".parquet"):
        from isthmus.data.parquet import DAMAGE, ParquetTable

        try:
            table = ParquetTable(path)
            _check(path, table.schema.names)
            wanted = [one for names in NAMES.values() for one in names if one in table.schema.names]
            rows = [row for part in table.slices(wanted) for row in part.to_pylist()]
        except DAMAGE as error:
            raise InputError(f"{path}: cannot be read as Parquet ({error}).") from None
        yield from ((f"{path}: row {number}", row) for number, row in enumerate(rows))
    elif name.endswith(TABLES):
        delimited = Delimited(path)
        _check(path, delimited.names)
        yield from ((f"{path}: line {line}", row) for line, row in delimited.records())
    else:
        raise InputError(f"{path}: not a table of questions; those are {', '.join(TABLES)} files.")


def _check(path: Path, columns: list[str]) -> None:
    """Raise `InputError` for a table without one of the columns that are needed."""
    for field in NEEDED:
        if not set(NAMES[field]) & set(columns):
            raise InputError(
                f"{path}: no column `{field}` ({', '.join(NAMES[field])}); its columns are {', '.join(columns)}."
            )
