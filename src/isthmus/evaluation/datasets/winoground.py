"""Winoground (Thrush et al. 2022, arXiv:2204.03162)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from isthmus.data.parquet import DAMAGE, ParquetTable
from isthmus.data.sources import FileColumn
from isthmus.errors import InputError
from isthmus.evaluation.datasets.questions import (
    Files,
    Question,
    QuestionImage,
    Questions,
    both,
    find_file,
    image_folder,
    json_objects,
    with_ending,
)


def read_winoground(root: str | Path, images: str | Path | None = None) -> Questions:
    """Winoground: `examples.jsonl` (here or in `data/`) beside `images/`, or the Parquet files of its hub page.

    Images are named without their ending (`ex_0_img_0`). Categories are `collapsed_tag`s (Object, Relation, Both).
    """
    root = Path(root)
    tables = [root] if root.suffix == ".parquet" else sorted([*root.glob("*.parquet"), *root.glob("data/*.parquet")])
    if tables:
        return {"winoground": [question for table in tables for question in _winoground_parquet(table)]}
    file = find_file(root, ("examples.jsonl", "data/examples.jsonl"), "Winoground's examples")
    files = Files(image_folder(file.parent, images, ("images",)))
    questions = []
    for line, row in enumerate(json_objects(file), 1):
        place = f"{file}: line {line}"
        captions = both(row, ("caption_0", "caption_1"), place, "captions")
        names = both(row, ("image_0", "image_1"), place, "images")
        pictures = tuple(files.picture(with_ending(files.folder, name)) for name in names)
        questions.append(_winoground(row, pictures, captions, default=str(line - 1)))
    return {"winoground": questions}


def _winoground_parquet(path: Path) -> Iterator[Question]:
    try:
        table = ParquetTable(path)
        columns = [name for name in ("id", "tag", "secondary_tag", "collapsed_tag") if name in table.schema.names]
        parts = table.slices([*columns, "caption_0", "caption_1"])
        rows = [row for part in parts for row in part.to_pylist()]
        sources = [FileColumn(path, column) for column in ("image_0", "image_1")]
        given = [list(source.filled()) for source in sources]
    except (KeyError, *DAMAGE) as error:
        raise InputError(f"{path}: cannot be read as Winoground's Parquet ({error}).") from None
    for i, row in enumerate(rows):
        place = f"{path}: row {i}"
        captions = both(row, ("caption_0", "caption_1"), place, "captions")
        both({f"image_{k}": given[k][i] for k in (0, 1)}, ("image_0", "image_1"), place, "images")
        yield _winoground(row, tuple(QuestionImage(source, i) for source in sources), captions, default=str(i))


def _winoground(
    row: Mapping[str, Any], pictures: tuple[QuestionImage, ...], captions: tuple[str, ...], default: str
) -> Question:
    id = str(row.get("id", default))
    return Question(id, pictures, captions, str(row.get("collapsed_tag") or row.get("tag") or "all"), id)
