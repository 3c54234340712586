"""Winoground (Thrush et al. 2022, arXiv:2204.03162)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from isthmus.data.parquet import slices
from isthmus.data.sources import ParquetColumn
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
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        columns = [name for name in ("id", "tag", "secondary_tag", "collapsed_tag") if name in names]
        parts = slices(path, [*columns, "caption_0", "caption_1"])
        rows = [row for part in parts for row in part.to_pylist()]
        given = [_filled(path, column) for column in ("image_0", "image_1")]
        sources = [ParquetColumn(path, column) for column in ("image_0", "image_1")]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InputError(f"{path}: cannot be read as Winoground's Parquet ({error}).") from None
    for i, row in enumerate(rows):
        place = f"{path}: row {i}"
        captions = both(row, ("caption_0", "caption_1"), place, "captions")
        both({f"image_{k}": given[k][i] for k in (0, 1)}, ("image_0", "image_1"), place, "images")
        yield _winoground(row, tuple(QuestionImage(source, i) for source in sources), captions, default=str(i))


def _filled(path: Path, column: str) -> list[bool]:
    """Whether each row of a column of images holds an image; nothing is decoded."""
    batches = slices(path, [column], 64)
    return [cell is not None and cell != {"bytes": None, "path": None} for b in batches for cell in b[0].to_pylist()]


def _winoground(
    row: Mapping[str, Any], pictures: tuple[QuestionImage, ...], captions: tuple[str, ...], default: str
) -> Question:
    id = str(row.get("id", default))
    return Question(id, pictures, captions, str(row.get("collapsed_tag") or row.get("tag") or "all"), id)
