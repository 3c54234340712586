"""Images with a mask each: a folder of both, or a table of pairs with a column `mask`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from isthmus.data.cells import plain
from isthmus.data.columns import find_columns
from isthmus.data.delimited import Delimited
from isthmus.data.feature_pairs import SIDES
from isthmus.data.groups import whole_groups
from isthmus.data.images import BadImage, decode_mask
from isthmus.data.labels import class_names
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.data.parquet import is_text
from isthmus.data.sources import FileColumn, TableFile, is_file_of_columns, open_table, read_file
from isthmus.data.text import bare_name, json_lines
from isthmus.errors import InputError

IGNORE = 255  # a pixel that belongs to no class and does not count
BACKGROUND = "background"
CLASSES = "classes.txt"
LAYOUT = "expected images/, masks/ (PNG, the same names) and classes.txt, or a table of pairs with a column `mask`"


@dataclass(frozen=True)
class MaskedImages:
    """Images, the masks that belong to them, and the names of the classes that masks number from 0.

    masks: for each image a function that reads its mask, and its name in messages.
    """

    pairs: Pairs
    classes: list[str]
    masks: list[tuple[str, Callable[[], bytes]]]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def ids(self) -> list[str]:
        return list(self.pairs.images["id"].to_pylist())

    @property
    def groups(self) -> np.ndarray:
        """[n] numbers of near-duplicate groups; an image without a group is its own."""
        return whole_groups(self.pairs.images["group"].to_pylist(), np.arange(len(self)))

    def image(self, index: int) -> Image.Image:
        """RGB. Raises `BadImage`."""
        return self.pairs.decode(index)

    def mask(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """uint8 [H, W], `IGNORE` where there is no class. size: width and height of the image.

        Raises `InputError`, naming the file, for a mask that cannot be read, of another size than its image, or with a
        value that is no class.
        """
        name, read = self.masks[index]
        try:
            values = decode_mask(read(), max_pixels=self.pairs.max_pixels)
        except BadImage as error:
            raise InputError(f"{name}: {error.reason}") from None
        except OSError as error:
            raise InputError(f"{name}: cannot be read ({error.strerror}).") from None
        if values.shape != size[::-1]:
            height, width = values.shape
            raise InputError(
                f"{name}: the mask has {width} × {height} pixels, its image {size[0]} × {size[1]}. Make both the same; "
                "a mask is resized without interpolation (nearest)."
            )
        foreign = np.unique(values[(values != IGNORE) & ((values < 0) | (values >= len(self.classes)))])
        if len(foreign):
            raise InputError(
                f"{name}: has the value {foreign[0]}, but there are {len(self.classes)} classes, numbered 0 to "
                f"{len(self.classes) - 1} ({IGNORE} does not count). Give the list of classes that the masks were made "
                "with, or renumber them."
            )
        return values.astype(np.uint8)


def read_masked_images(
    data: str | Path, classes: str | Path | Sequence[str] | None = None, *, split: str | None = None
) -> MaskedImages:
    """A folder with `images/`, `masks/` and `classes.txt`, or a table of pairs with a column `mask`.

    classes: names, or a file with one a line, in the order of the masks' values; default `classes.txt` in the folder,
    or beside the table. split: only these rows of a table.

    Raises `InputError` for an image without a mask, no class names, or no masks at all.
    """
    path = Path(data)
    names = _classes(classes if classes is not None else (path if path.is_dir() else path.parent) / CLASSES)
    found = _folder(path) if path.is_dir() else _table(path, split)
    return MaskedImages(found[0], names, found[1])


def _folder(path: Path) -> tuple[Pairs, list[tuple[str, Callable[[], bytes]]]]:
    for part in ("images", "masks"):
        if not (path / part).is_dir():
            raise InputError(f"{path}: has no folder {part}/: {LAYOUT}.")
    pairs = read_pairs(path / "images", captions="optional")
    files = [(path / "masks" / id).with_suffix(".png") for id in pairs.images["id"].to_pylist()]
    for id, file in zip(pairs.images["id"].to_pylist(), files, strict=True):
        if not file.is_file():
            raise InputError(f"{path / 'images' / id}: its mask {file} is missing. Add it, or take the image away.")
    return pairs, [(str(file), partial(read_file, file)) for file in files]


def _table(path: Path, split: str | None) -> tuple[Pairs, list[tuple[str, Callable[[], bytes]]]]:
    pairs = read_pairs(path, captions="optional", split=split).side(SIDES[0])
    cells = _mask_cells(path)
    masks: list[tuple[str, Callable[[], bytes]]] = []
    for id in pairs.images["id"].to_pylist():
        cell = cells.get(id)
        if not cell:
            raise InputError(f"{path}: image {id!r} has no mask. Fill the column `mask`, or leave the row out.")
        if callable(cell):
            masks.append((f"{path}: mask of {id!r}", cell))
        elif (file := path.parent / cell).is_file():
            masks.append((str(file), partial(read_file, file)))
        else:
            raise InputError(f"{path}: image {id!r}: its mask {file} is missing.")
    return pairs, masks


def _mask_cells(path: Path) -> dict[str, Any]:
    """What column `mask` holds, by the image's id: what reads bytes, or a path relative to the table."""
    cells: dict[str, Any] = {}
    names, records = _records(path)
    if "mask" not in names:
        raise InputError(f"{path}: has no column `mask`: {LAYOUT}.")
    columns, _ = find_columns(path, names, "optional")
    kept = _kept_masks(path)
    for row, record in enumerate(records):
        image = record.get(columns["image"])
        id = record.get(columns["id"]) if "id" in columns else None
        cells[str(id or (image if isinstance(image, str) else row))] = kept[row] if kept else plain(record.get("mask"))
    return cells


def _kept_masks(path: Path) -> list[Any]:
    """What reads the mask of each row, None where there is none, of a file of columns that holds masks as pictures."""
    if not is_file_of_columns(path) or is_text(open_table(path).schema.field("mask").type):
        return []
    column = FileColumn(path, "mask")
    return [partial(column.read, row) if there else None for row, there in enumerate(column.filled())]


def _records(path: Path) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """The columns, and the rows without pictures in them; `read_pairs` has read the table before."""
    if is_file_of_columns(path):
        table = open_table(path)
        texts = [field.name for field in table.schema if is_text(field.type) or field.name in ("id", "uid")]
        return table.schema.names, _rows(table, texts)
    if bare_name(path).endswith((".csv", ".tsv", ".tab")):
        lines = Delimited(path)
        return lines.names, (record for _, record in lines.records())
    rows = [record for _, record in json_lines(path)]
    return list({name: None for row in rows for name in row}), iter(rows)


def _rows(table: TableFile, columns: list[str]) -> Iterator[dict[str, Any]]:
    for part in table.slices(columns) if columns else ():
        yield from part.to_pylist()
    if not columns:
        yield from ({} for _ in range(len(table)))


def _classes(given: str | Path | Sequence[str]) -> list[str]:
    names = class_names(given)
    if not names:
        raise InputError("classes: there are none.")
    return names
