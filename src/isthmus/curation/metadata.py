"""Pools of any size whose ids and captions stay in Parquet files: published embeddings, LAION's metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isthmus.curation.encoding import Encoding
from isthmus.curation.pools import PoolSide
from isthmus.data.cells import as_captions
from isthmus.data.columns import SPELLINGS
from isthmus.errors import InputError
from isthmus.store.clip_retrieval import embedding_block, partitions
from isthmus.store.matrix import Rows

CAPTION_COLUMNS = ("caption", *SPELLINGS["caption"])
ID_COLUMNS = ("id", "uid", "sample_id", "key", "image_path")
PICTURES = {"image", "img", "jpg", "png", "webp", "filepath", "file_path", "file_name", "filename", "img_path"}
EXACT_FLOATS = 2.0**53  # float64 cannot represent all larger whole numbers


class ParquetRows:
    """The rows of several Parquet files as one table, read by row group.

    Raises InputError, naming the file, for one that is truncated or no Parquet.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self.groups: list[tuple[int, int]] = []  # (file, row group)
        starts = [0]
        for number, path in enumerate(self.files):
            metadata = _opened(path).metadata
            for group in range(metadata.num_row_groups):
                self.groups.append((number, group))
                starts.append(starts[-1] + metadata.row_group(group).num_rows)
        self.starts = np.array(starts, np.int64)
        self._kept: tuple[tuple[int, tuple[str, ...]], pa.Table] | None = None

    def __len__(self) -> int:
        return int(self.starts[-1])

    def column(self, names: Sequence[str]) -> str | None:
        """The first of `names` that the files have, in any letter case. Raises `InputError` if a file lacks it."""
        columns = [_opened(path).schema_arrow.names for path in self.files]
        spelled = [{name.lower(): name for name in reversed(one)} for one in columns]
        wanted = next((name for name in names if any(name in one for one in spelled)), None)
        if wanted is None:
            return None
        found = next(one[wanted] for one in spelled if wanted in one)
        for path, one in zip(self.files, columns, strict=True):
            if found not in one:
                raise InputError(f"{path}: no column {found!r}, which other files of this set have.")
        return found

    def take(self, index: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """These rows, in this order. A row group is read once per call."""
        order = np.argsort(index, kind="stable")
        ordered = index[order]
        cuts = np.searchsorted(ordered, self.starts)
        parts = [
            self._group(group, columns).take(ordered[low:high] - self.starts[group])
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

    def _group(self, group: int, columns: Sequence[str]) -> pa.Table:
        key = (group, tuple(columns))
        if self._kept is None or self._kept[0] != key:
            number, local = self.groups[group]
            try:
                table = _opened(self.files[number]).read_row_group(local, columns=list(columns))
            except (OSError, pa.ArrowException) as error:
                raise InputError(f"{self.files[number]}: row group {local} cannot be read ({error}).") from None
            self._kept = key, table
        return self._kept[1]


class ClipRetrievalPool:
    """clip-retrieval's embedding folder, in which LAION's embeddings are published; no image is needed.

    `img_emb/img_emb_K.npy` and `text_emb/text_emb_K.npy` beside `metadata/metadata_K.parquet`. Ids are
    `image_path`, as `isthmus import` has them.

    Raises InputError, naming the file, for arrays that are damaged, truncated, or of another length than their
    metadata.
    """

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        counts = partitions(folder)
        self.pairs = sum(counts.values())
        self.table = ParquetRows([folder / "metadata" / f"metadata_{k}.parquet" for k in counts])
        self._rows: dict[PoolSide, Rows] = {}
        for side, name in (("caption", "text_emb"), ("image", "img_emb")):
            if (folder / name).is_dir():
                self._rows[side] = Rows([embedding_block(folder, name, k, rows) for k, rows in counts.items()])  # type: ignore[index]
        self._caption = self.table.column(["caption"])
        if not self._rows:
            raise InputError(f"{folder}: neither img_emb/ nor text_emb/.")
        self.widths = {side: found.blocks[0].shape[1] for side, found in self._rows.items()}
        blocks = [block for found in self._rows.values() for block in found.blocks]
        self.fingerprint = _fingerprint([*self.table.files, *(block.path for block in blocks)])

    def __len__(self) -> int:
        return len(self.table)

    def features(self, side: PoolSide, start: int, stop: int) -> np.ndarray:
        out = np.empty((stop - start, self.widths[side]), np.float32)
        self._rows[side].gather(np.arange(start, stop), out)
        return out

    def captions(self, index: np.ndarray) -> list[str | None]:
        return _captions(self.table, index, self._caption)

    def ids(self, index: np.ndarray) -> list[str]:
        return ids_as_text(self.table.take(index, ["image_path"])["image_path"], self.name)

    def units(self, index: np.ndarray) -> np.ndarray:
        return index


class MetadataPool:
    """Metadata tables with a caption column, LAION's or img2dataset's; captions are encoded as they are scored.

    Captions: `caption`, `TEXT` or another usual name. Ids: `id`, `uid`, `SAMPLE_ID`, `key` or `image_path`, else
    `file:row`; img2dataset's become `shard/key`, the ids that its tars have here. Rows without a caption, or without a
    picture because the download failed, are never chosen. A damaged file is left out and listed in `skipped`.
    """

    def __init__(self, path: Path, files: Sequence[Path], encoding: Encoding) -> None:
        if encoding.text is None:
            raise InputError(f"{path}: captions without features; name a text encoder for them (--encoder URI).")
        broken = {file: reason for file in files if (reason := _damage(file))}
        files = [file for file in files if file not in broken]
        if not files:
            raise InputError(next(iter(broken.values())))
        self.skipped = [(file.name, reason) for file, reason in broken.items()]
        self.name, self.table, self.encode = str(path), ParquetRows(files), encoding.text
        self.pairs = len(self.table)
        self.caption = self.table.column(CAPTION_COLUMNS)
        if self.caption is None:
            columns = ", ".join(_opened(files[0]).schema_arrow.names)
            raise InputError(f"{files[0]}: no caption column (caption, text, title, …) among {columns}.")
        self.id = self.table.column(ID_COLUMNS)
        self.downloaded = self.table.column(["status"]) == "status" and self.table.column(["key"]) == "key"
        self.widths: dict[PoolSide, int] = {"caption": self.encode.width}
        self.fingerprint = _fingerprint(files, encoding.name)

    def __len__(self) -> int:
        return len(self.table)

    def features(self, side: PoolSide, start: int, stop: int) -> np.ndarray:
        index = np.arange(start, stop)
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
        names = ids_as_text(self.table.take(index, [self.id])[self.id], f"{self.name}: column {self.id}")
        if self.downloaded:
            return [f"{stem}/{name}" for (stem, _), name in zip(self.table.places(index), names, strict=True)]
        return names

    def units(self, index: np.ndarray) -> np.ndarray:
        return index


def metadata_files(path: Path) -> list[Path]:
    """The Parquet files at `path` or in that folder, if none has a column of pictures: metadata, not pairs."""
    found = sorted(path.glob("*.parquet")) if path.is_dir() else [path] * (path.suffix == ".parquet")
    whole = [file for file in found if _damage(file) is None]
    pictures = any(PICTURES & {name.lower() for name in _opened(file).schema_arrow.names} for file in whole)
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


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: truncated, or not Parquet ({error}). Fetch this file again.") from None


def _fingerprint(files: Sequence[Path], name: str = "") -> str:
    """A hash of names and sizes; the files are too large to hash their content."""
    digest = hashlib.blake2b(name.encode(), digest_size=16)
    for path in files:
        digest.update(f"{path.name}:{path.stat().st_size}\n".encode())
    return digest.hexdigest()
