"""Segments: the embeddings of some contents, their keys and small pictures of them, written once.

`embeddings.npy` float16 [n, d], L2-normalised; `keys.npy` uint8 [n, 16], the content of each; `pictures.arrow` with
width, height (pixels of the picture, upright) and thumbnail (the bytes of a JPEG file, or null). All are memory-mapped.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from isthmus.data.contents import KEY_BYTES
from isthmus.errors import InputError
from isthmus.files import atomic_path, sync_folder
from isthmus.index.layout import SEGMENTS, KeptFile, SegmentRecord

EMBEDDINGS, KEYS, PICTURES = "embeddings.npy", "keys.npy", "pictures.arrow"
PICTURE_SCHEMA = pa.schema({"width": pa.int32(), "height": pa.int32(), "thumbnail": pa.binary()})


@dataclass
class Part:
    """Some contents: keys uint8 [n, 16], embeddings float16 [n, d], and their pictures (`PICTURE_SCHEMA`)."""

    keys: np.ndarray
    embeddings: np.ndarray
    pictures: pa.Table


class Segment:
    """An open segment, memory-mapped.

    embeddings: float16 [n, d]. keys: uint8 [n, 16]. pictures: a table of n rows.
    """

    def __init__(self, root: Path, record: SegmentRecord, width: int) -> None:
        self.record = record
        self.embeddings = _mapped(record.files["embeddings"].check(root), np.float16, (record.rows, width))
        self._keys = record.files["keys"].check(root)
        self._pictures = record.files["pictures"].check(root)

    def __len__(self) -> int:
        return self.record.rows

    @property
    def keys(self) -> np.ndarray:
        return _mapped(self._keys, np.uint8, (len(self), KEY_BYTES))

    def pictures(self) -> pa.Table:
        return open_arrow(self._pictures)

    def part(self, rows: np.ndarray) -> Part:
        """Some of its rows, in memory."""
        return Part(self.keys[rows], self.embeddings[rows], self.pictures().take(rows))


def _mapped(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: damaged ({error}). Build the index again with `isthmus index`.") from None
    if found.dtype != dtype or found.shape != shape:
        raise InputError(f"{path}: {found.dtype} {list(found.shape)}, where index.json says {list(shape)}.")
    return found


def open_arrow(path: Path) -> pa.Table:
    """A table of ours, memory-mapped."""
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: damaged ({error}). Build the index again with `isthmus index`.") from None


def write_arrow(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Tables one after the other as one file, atomically."""
    with atomic_path(path) as aside, pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for table in tables:
            writer.write_table(table)


def write_segment(root: Path, rows: int, width: int, parts: Iterable[Part]) -> SegmentRecord:
    """A new segment of so many rows; the parts are read once, one after the other."""
    name = f"segment-{secrets.token_hex(8)}"
    folder = root / SEGMENTS / name
    folder.mkdir(parents=True)

    def pictures() -> Iterable[pa.Table]:
        start = 0
        for part in parts:
            some = slice(start, start + len(part.keys))
            embeddings[some], keys[some] = part.embeddings, part.keys
            start = some.stop
            yield part.pictures
        if start != rows:
            raise InputError(f"{root}: {start:,} of {rows:,} rows of a segment; run `isthmus index` again.")

    with atomic_path(folder / EMBEDDINGS) as first, atomic_path(folder / KEYS) as second:
        embeddings = _new(first, np.float16, (rows, width))
        keys = _new(second, np.uint8, (rows, KEY_BYTES))
        write_arrow(folder / PICTURES, pictures(), PICTURE_SCHEMA)
        embeddings.flush()
        keys.flush()
    sync_folder(folder.parent)
    named = {"embeddings": EMBEDDINGS, "keys": KEYS, "pictures": PICTURES}
    return SegmentRecord(name, rows, {what: KeptFile.of(root, folder / file) for what, file in named.items()})


def _new(path: Path, dtype: Any, shape: tuple[int, ...]) -> Any:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
