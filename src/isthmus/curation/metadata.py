"""Pools of any size whose ids and captions stay in Parquet files: published embeddings, LAION's metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isthmus.curation.encoding import Encoding
from isthmus.curation.pools import MODALITY, PoolSide
from isthmus.data.cells import as_captions
from isthmus.data.columns import SPELLINGS
from isthmus.data.parquet import DAMAGE, GROUP_BYTES, ParquetTable, spread_bytes, value_type
from isthmus.errors import InputError
from isthmus.store.clip_retrieval import open_partitions
from isthmus.store.matrix import Rows

CAPTION_COLUMNS = ("caption", *SPELLINGS["caption"])
ID_COLUMNS = ("id", "uid", "sample_id", "key", "image_path")
PICTURES = {"image", "img", "jpg", "png", "webp", "filepath", "file_path", "file_name", "filename", "img_path"}
EXACT_FLOATS = 2.0**53  # float64 cannot represent all larger whole numbers


class ParquetRows:
    """The rows of several Parquet files as one table, read by row group, in bounded memory.

    A row group that cannot be read is listed, in `damaged`, when it is come to; its rows are null. Raises InputError,
    naming the file, for one that is truncated or no Parquet.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self.groups: list[tuple[int, int]] = []  # (file, row group)
        self.damaged: dict[int, str] = {}  # by group, why
        self._names: list[list[str]] = []  # of the columns, by file
        starts = [0]
        for number, path in enumerate(self.files):
            table = _opened(path)
            self._names.append(table.schema.names)
            for group, (start, stop) in enumerate(pairwise(table.starts)):
                self.groups.append((number, group))
                starts.append(starts[-1] + stop - start)
        self.starts = np.array(starts, np.int64)
        self._kept: tuple[int, dict[str, pa.ChunkedArray]] = -1, {}
        self._known: set[int] = set()  # groups that were read once

    def __len__(self) -> int:
        return int(self.starts[-1])

    def column(self, names: Sequence[str]) -> str | None:
        """The first of `names`, in any case, that the files have. Raises `InputError` for a file that lacks it."""
        spelled = [{name.lower(): name for name in reversed(one)} for one in self._names]
        wanted = next((name for name in names if any(name in one for one in spelled)), None)
        if wanted is None:
            return None
        found = next(one[wanted] for one in spelled if wanted in one)
        for path, one in zip(self.files, self._names, strict=True):
            if found not in one:
                raise InputError(f"{path}: no column {found!r}, which other files of this set have.")
        return found

    def take(self, index: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """These rows, in this order. A row group is read once per call."""
        order = np.argsort(index, kind="stable")
        ordered = index[order]
        cuts = np.searchsorted(ordered, self.starts)
        parts = [
            self._taken(group, columns, ordered[low:high] - self.starts[group])
            for group, (low, high) in enumerate(pairwise(cuts))
            if low < high
        ]
        if not parts:
            return pa.table({column: [] for column in columns})
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return pa.concat_tables(parts, promote_options="permissive").take(back)

    def places(self, index: np.ndarray) -> list[tuple[str, int]]:
        """The stem of each row's file, and the row's number in that file."""
        file_of = np.array([file for file, _ in self.groups], np.int64)
        first = np.array([self.starts[np.argmax(file_of == file)] for file in range(len(self.files))])
        file = file_of[np.searchsorted(self.starts, index, side="right") - 1]
        return [
            (self.files[one].stem, row) for one, row in zip(file.tolist(), (index - first[file]).tolist(), strict=True)
        ]

    def readable(self, start: int, stop: int, columns: Sequence[str]) -> np.ndarray:
        """bool [stop - start]: rows that can be read."""
        first, last = (int(np.searchsorted(self.starts, row, side="right")) - 1 for row in (start, stop - 1))
        found = np.ones(stop - start, bool)
        for group in range(first, last + 1):
            if group not in self._known:
                self._group(group, columns)
            if group in self.damaged:
                low, high = (int(one) - start for one in self.starts[group : group + 2])
                found[max(0, low) : high] = False
        return found

    def list_damage(self, columns: Sequence[str]) -> list[tuple[str, str]]:
        """(file, reason) of the row groups that cannot be read; those that nobody has come to are looked at."""
        self.readable(0, len(self), columns)
        return [(self.files[self.groups[group][0]].name, why) for group, why in sorted(self.damaged.items())]

    def _taken(self, group: int, columns: Sequence[str], rows: np.ndarray) -> pa.Table:
        """Some rows of a group, each text by itself."""
        held = self._group(group, columns)
        if held is None:
            return pa.table({column: pa.nulls(len(rows)) for column in columns})
        taken = {column: held[column].take(rows) for column in columns}
        size = sum(spread_bytes(chunk) for cells in taken.values() for chunk in cells.chunks)
        if size > GROUP_BYTES:
            path = self.files[self.groups[group][0]]
            raise InputError(f"{path}: {len(rows):,} rows hold {size:,} bytes, more than {GROUP_BYTES:,}.")
        return pa.table({column: cells.cast(value_type(cells.type)) for column, cells in taken.items()})

    def _group(self, group: int, columns: Sequence[str]) -> dict[str, pa.ChunkedArray] | None:
        """Columns of a row group, among others; None where it is damaged."""
        if group in self.damaged:
            return None
        held = self._kept[1] if self._kept[0] == group else {}
        number, local = self.groups[group]
        try:
            table = _opened(self.files[number]) if set(columns) - set(held) else None
            held = held | {
                column: table.group(local, column) for column in columns if table is not None and column not in held
            }
        except (ValueError, MemoryError, *DAMAGE) as error:
            self.damaged[group] = f"row group {local} cannot be read ({error})."
            return None
        self._known.add(group)
        self._kept = group, held
        return held


class _TablePool:
    """What both pools have of their tables, of which the files or row groups that are damaged are left out."""

    table: ParquetRows
    _columns: list[str]
    _left_out: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.table)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(file, reason) of what cannot be read."""
        return self._left_out + self.table.list_damage(self._columns)

    @property
    def usable(self) -> np.ndarray | None:
        """bool [rows]: those that can be read; None where all can."""
        return None if (found := self.table.readable(0, len(self), self._columns)).all() else found


class ClipRetrievalPool(_TablePool):
    """clip-retrieval's embedding folder, in which LAION's embeddings are published; no image is needed.

    `img_emb/img_emb_K.npy` and `text_emb/text_emb_K.npy` beside `metadata/metadata_K.parquet`. Ids are
    `image_path`, as `isthmus import` has them.

    Partitions and row groups that cannot be read, or do not belong to the others, are left out and listed in
    `skipped`. Raises InputError, naming the file, where none is left.
    """

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        parts, self._left_out = open_partitions(folder)
        self.table = ParquetRows([part.metadata for part in parts])
        self.pairs = len(self.table)
        names: dict[str, PoolSide] = {"text": "caption", "image": "image"}
        there = [modality for modality in names if modality in parts[0].blocks]
        self._rows = {names[modality]: Rows([part.blocks[modality] for part in parts]) for modality in there}
        self._caption = self.table.column(["caption"])
        self._columns = ["image_path", *([self._caption] if self._caption else [])]
        self.widths: dict[PoolSide, int] = {side: parts[0].blocks[MODALITY[side]].shape[1] for side in self._rows}
        blocks = [block for found in self._rows.values() for block in found.blocks]
        self.fingerprint = _fingerprint([*self.table.files, *(block.path for block in blocks)])

    def features(self, side: PoolSide, start: int, stop: int) -> np.ndarray:
        out = np.empty((stop - start, self.widths[side]), np.float32)
        self._rows[side].gather(np.arange(start, stop), out)
        out[~self.table.readable(start, stop, self._columns)] = np.nan
        return out

    def captions(self, index: np.ndarray) -> list[str | None]:
        return _captions(self.table, index, self._caption)

    def ids(self, index: np.ndarray) -> list[str]:
        return _ids(self.table, index, "image_path", self.name)

    def units(self, index: np.ndarray) -> np.ndarray:
        return index


class MetadataPool(_TablePool):
    """Metadata tables with a caption column, LAION's or img2dataset's; captions are encoded as they are scored.

    Captions: `caption`, `TEXT` or another usual name. Ids: `id`, `uid`, `SAMPLE_ID`, `key` or `image_path`, else
    `file:row`; img2dataset's become `shard/key`, the ids that its tars have here. Rows without a caption, and those
    that img2dataset could not download, are never chosen. A damaged file or row group is left out and listed in
    `skipped`.
    """

    def __init__(self, path: Path, files: Sequence[Path], encoding: Encoding) -> None:
        if encoding.text is None:
            raise InputError(f"{path}: captions without features; name a text encoder for them (--encoder URI).")
        broken = {file: reason for file in files if (reason := _damage(file))}
        files = [file for file in files if file not in broken]
        if not files:
            raise InputError(next(iter(broken.values())))
        self._left_out = [(file.name, reason) for file, reason in broken.items()]
        self.name, self.table, self.encode = str(path), ParquetRows(files), encoding.text
        self.pairs = len(self.table)
        self.caption = self.table.column(CAPTION_COLUMNS)
        if self.caption is None:
            columns = ", ".join(_opened(files[0]).schema.names)
            raise InputError(f"{files[0]}: no caption column (caption, text, title, …) among {columns}.")
        self.id = self.table.column(ID_COLUMNS)
        self.downloaded = self.table.column(["status"]) == "status" and self.table.column(["key"]) == "key"
        wanted = [self.caption, self.id, "status" if self.downloaded else None]
        self._columns = [column for column in wanted if column is not None]
        self.widths: dict[PoolSide, int] = {"caption": self.encode.width}
        self.fingerprint = _fingerprint(files, encoding.name)

    def features(self, side: PoolSide, start: int, stop: int) -> np.ndarray:
        index = np.arange(start, stop)
        self.table.readable(start, stop, self._columns)
        captions = self.captions(index)
        wanted = [bool(caption) for caption in captions]
        if self.downloaded:
            status = self.table.take(index, ["status"])["status"]
            wanted = [one and two for one, two in zip(wanted, pc.equal(status, "success").to_pylist(), strict=True)]
        out = np.full((stop - start, self.widths[side]), np.nan, np.float32)
        chosen = np.flatnonzero(wanted)
        if len(chosen):
            out[chosen] = self.encode([captions[row] for row in chosen.tolist()])
        return out

    def captions(self, index: np.ndarray) -> list[str | None]:
        return _captions(self.table, index, self.caption)

    def ids(self, index: np.ndarray) -> list[str]:
        if self.id is None:
            return [f"{stem}:{row}" for stem, row in self.table.places(index)]
        names = _ids(self.table, index, self.id, f"{self.name}: column {self.id}")
        if self.downloaded:
            return [f"{stem}/{name}" for (stem, _), name in zip(self.table.places(index), names, strict=True)]
        return names

    def units(self, index: np.ndarray) -> np.ndarray:
        return index


def metadata_files(path: Path) -> list[Path]:
    """The Parquet files at `path` or in that folder, if none has a column of pictures: metadata, not pairs."""
    found = sorted(path.glob("*.parquet")) if path.is_dir() else [path] * (path.suffix == ".parquet")
    whole = [file for file in found if _damage(file) is None]
    pictures = any(PICTURES & {name.lower() for name in _opened(file).schema.names} for file in whole)
    return [] if pictures else found


def _damage(path: Path) -> str | None:
    """Why a file cannot be opened; None if it can."""
    try:
        _opened(path)
    except InputError as error:
        return str(error)
    return None


def _captions(table: ParquetRows, index: np.ndarray, column: str | None) -> list[str | None]:
    """The caption of every row: the first of several, None if there is none."""
    if column is None:
        return [None] * len(index)
    cells = [as_captions(cell) for cell in table.take(index, [column])[column].to_pylist()]
    return [cell[0] if cell and isinstance(cell[0], str) else None for cell in cells]


def _ids(table: ParquetRows, index: np.ndarray, column: str, where: str) -> list[str]:
    """The ids of rows; of those that cannot be read, which are never chosen, where they are."""
    cells = table.take(index, [column])[column]
    lost = [row for row in index.tolist() if not table.readable(row, row + 1, [column])[0]] if table.damaged else []
    if not lost:
        return ids_as_text(cells, where)
    found = dict(zip(lost, (f"{stem}:{row}" for stem, row in table.places(np.array(lost))), strict=True))
    read = np.array([row for row in index.tolist() if row not in found], np.int64)
    found |= dict(zip(read.tolist(), _ids(table, read, column, where) if len(read) else [], strict=True))
    return [found[row] for row in index.tolist()]


def ids_as_text(column: pa.ChunkedArray, where: str) -> list[str]:
    """Ids as strings, digit for digit.

    Raises InputError for nulls, and for float columns with ids that a float64 cannot tell apart.
    """
    if column.null_count:
        raise InputError(f"{where}: {column.null_count:,} of the ids are null.")
    if pa.types.is_floating(column.type):
        values = column.to_numpy()
        if (np.abs(values) >= EXACT_FLOATS).any() or (values != np.floor(values)).any():
            raise InputError(f"{where}: ids are floats, which do not hold them exactly; save them as text or int64.")
        return [str(int(value)) for value in values]
    try:
        return column.cast(pa.string()).to_pylist()
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{where}: its ids cannot be read as text ({error}).") from None


def _opened(path: Path) -> ParquetTable:
    try:
        return ParquetTable(path)
    except DAMAGE as error:
        raise InputError(f"{path}: truncated, or not Parquet ({error}). Fetch this file again.") from None


def _fingerprint(files: Sequence[Path], name: str = "") -> str:
    """A hash of names and sizes; the files are too large to hash their content."""
    digest = hashlib.blake2b(name.encode(), digest_size=16)
    for path in files:
        digest.update(f"{path.name}:{path.stat().st_size}\n".encode())
    return digest.hexdigest()
