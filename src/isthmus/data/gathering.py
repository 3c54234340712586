"""Collects the rows of any table in an `Intake`, with the images that rows name or hold."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import pyarrow as pa
from PIL import Image

from isthmus.data.cells import FETCH, is_inline, is_nan, is_url, plain
from isthmus.data.columns import Columns, find_columns
from isthmus.data.feature_pairs import SIDES
from isthmus.data.records import CaptionRule, Intake, Placed, encodable, text
from isthmus.data.sources import Folders, ImageColumn, ImageSource, Items, Joined
from isthmus.modality import Modality, others

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

    Of pairs without images, the items in their place are called so here (`Intake.modality`).

    folders: the class folders, in order, if labels come from folders; otherwise empty. beside: by modality, where the
    items of further ones are.
    """

    reading: Reading
    intake: Intake
    sources: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    beside: dict[Modality, list[Any]] = field(default_factory=dict)

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
        return _joined(self.sources)

    def source_beside(self, modality: Modality) -> ImageSource:
        """Where all items of a further modality are."""
        return _joined(self.beside[modality])

    def first_beside(self, modality: Modality) -> int:
        """The number of the next item of a further modality."""
        return sum(map(len, self.beside.get(modality, [])))

    def find_columns(self, where: Any, names: Sequence[str], known: Columns | None = None) -> tuple[Columns, list[str]]:
        """`find_columns`, and what the rows are of; where these are no images, their column is called `image` here."""
        found, remarks = find_columns(where, names, self.reading.captions, known or self.reading.columns)
        first = next(name for name in (SIDES[0], *others()) if name in found)
        self.intake.holds(first, where)
        return {SIDES[0] if field == first else field: column for field, column in found.items()}, remarks

    def places(self, table: Path, by_name: bool = False) -> Folders:
        """Where a table's images are; by_name: also by the last part of what it calls them."""
        return Folders.beside(table, self.reading.images, by_name=by_name)

    def fields(self, record: Mapping[str, Any], columns: Columns) -> GatheredRow:
        """The fields of a row, by the names that `Intake` knows."""
        found = {name: record[column] for name, column in columns.items() if column in record}
        split = self.reading.split
        return found if split is None or found.get("split") else found | {"split": split}

    def rows(self, where: str, records: Iterable[tuple[Any, GatheredRow]], folders: Folders) -> None:
        """Rows (number, fields) whose images are files, or are in memory with the row; `where` is "pairs.csv: line"."""
        cells: list[Any] = []
        first, within = self.first, self.reading.within
        beside, parts = _Beside(self, folders), _parts_of(self.intake.modality)
        try:
            for number, fields in records:
                here = f"{where} {number}"
                image = _image(fields.get("image"))
                reason = _refusal(image, self.intake.modality)
                if reason:
                    self.intake.skip(text(fields.get("id"), here, "id") or here, reason)
                    continue
                part, path = _part(parts, fields), _path(image)
                known = None if path is None else f"{within}{path}{part or ''}"
                told: Any = {"image": known, "part": part, "beside": beside.placed(here, fields)}
                if self.intake.add(
                    here, fields, default_id=known or f"{within}{number}", source=first + len(cells), **told
                ):
                    cells.append(image)
        finally:  # also where a file breaks off: whoever goes on with others keeps what was read
            self.sources.append(_cells(cells, folders))
            beside.finish()

    def numbered(
        self,
        where: str,
        records: Iterable[tuple[int, GatheredRow]],
        source: Any,
        stored: Mapping[Modality, Any],
        begin: int = 0,
    ) -> None:
        """Rows whose images `source` holds by the row's number, which is the id unless there is one.

        stored: those of further modalities that such sources hold. begin: what ids and messages call the first row.
        """
        first = self.first
        beside, parts = _Beside(self, source.folders, stored), _parts_of(self.intake.modality)
        try:
            for row, fields in records:
                here, id = f"{where} {begin + row}", f"{self.reading.within}{begin + row}"
                told: Any = {"part": _part(parts, fields), "beside": beside.placed(here, fields, row)}
                self.intake.add(here, fields, default_id=id, source=first + row, **told)
        finally:  # as in `rows`
            self.sources.append(source)
            beside.finish()


class _Beside:
    """The cells of further modalities in the rows of one table, as they are met.

    stored: by modality, what holds the items of all rows by the row's number.
    """

    def __init__(self, into: Gathered, folders: Folders, stored: Mapping[Modality, Any] | None = None) -> None:
        self.into, self.folders, self.stored = into, folders, stored or {}
        self.known = {name: spec.part for name, spec in others().items() if name != into.intake.modality}
        self.first = {name: into.first_beside(name) for name in self.known}
        self.cells: dict[Modality, list[Any]] = {}

    def placed(self, here: str, fields: GatheredRow, row: int | None = None) -> dict[Modality, Placed]:
        """Where the items of a row will be; what cannot be one is listed."""
        found: dict[Modality, Placed] = {}
        for name, parts in self.known.items():
            part = _part(parts, fields)
            if name in self.stored and row is not None:
                found[name] = Placed(self.first[name] + row, part)
            elif (cell := _image(fields.get(name))) is not None:
                if reason := _refusal(cell, name):
                    self.into.intake.skip(text(fields.get("id"), here, "id") or here, reason)
                    continue
                path = _path(cell)
                listed = self.cells.setdefault(name, [])
                known = None if path is None else f"{path}{part or ''}"
                found[name] = Placed(self.first[name] + len(listed), part, known)
                listed.append(cell)
        return found

    def finish(self) -> None:
        for name, cells in self.cells.items():
            self.into.beside.setdefault(name, []).append(_cells(cells, self.folders))
        for name, source in self.stored.items():
            self.into.beside.setdefault(name, []).append(source)


def _parts_of(modality: Modality | None) -> tuple[str, ...]:
    """The columns that say which part of a file an item of these rows is."""
    known = others()
    return known[modality].part if modality in known else ()


def _part(names: Sequence[str], fields: GatheredRow) -> str | None:
    """Which part of its file an item is, as JSON; None where its row does not say."""
    if not names:
        return None
    told = {name: plain(fields[name]) for name in names if fields.get(name) not in (None, "")}
    told = {name: value for name, value in told.items() if not is_nan(value)}
    return json.dumps(told, sort_keys=True, default=str) if told else None


def _cells(cells: list[Any], folders: Folders) -> ImageColumn | Items:
    paths = all(isinstance(cell, str) for cell in cells)
    return ImageColumn(pa.array(cells, pa.large_string()), folders) if paths else Items(cells, folders)


def _joined(sources: list[Any]) -> Any:
    return sources[0] if len(sources) == 1 else Joined(sources)


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


def _refusal(image: Any, modality: Modality | None) -> str | None:
    """Why a row's image, or item of another modality, is invalid, as far as is known without reading it."""
    what = modality or SIDES[0]
    if isinstance(image, np.ndarray | Image.Image):
        return None
    if image is None or (isinstance(image, str) and not image) or is_nan(image):
        return f"no {what} in this row."
    path = _path(image)
    if path is None:
        known = str | bytes | dict | list | tuple
        return None if isinstance(image, known) else f"{what} is {type(image).__name__}, not a path."
    if not encodable(path):
        return "its path is not valid Unicode."
    return FETCH if is_url(path) else None
