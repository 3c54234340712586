"""Collects the rows of any table in an `Intake`, with the images that rows name or hold."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import pyarrow as pa
from PIL import Image

from isthmus.data.cells import FETCH, is_inline, is_nan, is_url, plain
from isthmus.data.columns import Columns
from isthmus.data.records import CaptionRule, Intake, encodable, text
from isthmus.data.sources import Folders, ImageColumn, ImageSource, Items, Joined

GatheredRow = dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """How to read pairs: whether captions are needed, which columns are which, where the images are.

    split: for rows without one, from the file or folder of a split. within: a folder (`train/`) with which the ids of a
    part of the data begin.
    """

    captions: CaptionRule = "required"
    columns: Columns = field(default_factory=dict)
    images: str | os.PathLike[str] | None = None
    split: str | None = None
    within: str = ""


@dataclass
class Gathered:
    """What has been read so far: pairs, where their images are, remarks for the user. Every reader adds to this.

    folders: the class folders, in order, if labels come from folders; otherwise empty.
    """

    reading: Reading
    intake: Intake
    sources: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    @classmethod
    def empty(cls, reading: Reading) -> Gathered:
        """Nothing yet."""
        return cls(reading, Intake(reading.captions))

    def of(self, **part: Any) -> Gathered:
        """The same object for a part of the data: one with its own split, or below a folder."""
        return replace(self, reading=replace(self.reading, **part))

    @property
    def first(self) -> int:
        """The number of images so far, which is the number of the next source's first image."""
        return sum(map(len, self.sources))

    @property
    def source(self) -> ImageSource:
        """The source of all images."""
        return self.sources[0] if len(self.sources) == 1 else Joined(self.sources)

    def places(self, table: Path, by_name: bool = False) -> Folders:
        """Where a table's images are; by_name: also try the last part of each path."""
        return Folders.beside(table, self.reading.images, by_name=by_name)

    def fields(self, record: Mapping[str, Any], columns: Columns) -> GatheredRow:
        """The fields of a row under the names that `Intake` uses."""
        found = {name: record[column] for name, column in columns.items() if column in record}
        split = self.reading.split
        return found if split is None or found.get("split") else found | {"split": split}

    def rows(self, where: str, records: Iterable[tuple[Any, GatheredRow]], folders: Folders) -> None:
        """Rows (number, fields) whose images are files, or are in memory with the row; `where` is "pairs.csv: line"."""
        cells: list[Any] = []
        first, within = self.first, self.reading.within
        try:
            for number, fields in records:
                here = f"{where} {number}"
                image = _image(fields.get("image"))
                reason = _refusal(image)
                if reason:
                    self.intake.skip(text(fields.get("id"), here, "id") or here, reason)
                    continue
                path = _path(image)
                known = None if path is None else f"{within}{path}"
                id = known or f"{within}{number}"
                if self.intake.add(here, fields, default_id=id, source=first + len(cells), image=known):
                    cells.append(image)
        finally:  # also where a file breaks off: whoever goes on with others keeps what was read
            paths = all(isinstance(cell, str) for cell in cells)
            self.sources.append(
                ImageColumn(pa.array(cells, pa.large_string()), folders) if paths else Items(cells, folders)
            )

    def numbered(self, where: str, records: Iterable[tuple[int, GatheredRow]], source: Any) -> None:
        """Rows whose images `source` holds by the row's number, which is the id unless there is one."""
        first = self.first
        try:
            for row, fields in records:
                self.intake.add(f"{where} {row}", fields, default_id=f"{self.reading.within}{row}", source=first + row)
        finally:  # as in `rows`
            self.sources.append(source)


def _image(cell: Any) -> Any:
    """A cell of images as `cell_bytes` takes it; a list of one picture is the picture."""
    if (isinstance(cell, np.ndarray) and cell.ndim >= 2) or isinstance(cell, Image.Image):
        return cell
    cell = plain(cell)
    if isinstance(cell, list | tuple) and len(cell) == 1 and not isinstance(cell[0], int):
        cell = plain(cell[0])
    if isinstance(cell, os.PathLike):
        cell = os.fspath(cell)
    if isinstance(cell, bytes) and 0 < len(cell) < 4096 and is_path(cell):
        cell = cell.decode("utf-8")
    if isinstance(cell, str) and cell.lower().startswith("file://"):
        cell = unquote(urlparse(cell).path)
    return cell


def is_path(cell: bytes) -> bool:
    """Whether bytes are a path written as bytes, and not a picture: text with no control characters."""
    try:
        return cell.decode("utf-8").isprintable() and not cell.startswith((b"II*", b"GIF8", b"<"))
    except UnicodeDecodeError:
        return False


def _path(image: Any) -> str | None:
    if isinstance(image, dict) and image.get("bytes") is None:
        image = image.get("path")
    return image if isinstance(image, str) and not is_inline(image) else None


def _refusal(image: Any) -> str | None:
    """Why a row's image is invalid, as far as is known without reading it."""
    if isinstance(image, np.ndarray | Image.Image):
        return None
    if image is None or (isinstance(image, str) and not image) or is_nan(image):
        return "no image in this row."
    path = _path(image)
    if path is None:
        known = str | bytes | dict | list | tuple
        return None if isinstance(image, known) else f"image is {type(image).__name__}, not a path."
    if not encodable(path):
        return "its path is not valid Unicode."
    return FETCH if is_url(path) else None
