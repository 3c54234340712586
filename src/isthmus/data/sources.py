"""Where the bytes of image i are, and how to read them when they are wanted. Every `read` is thread-safe."""

from __future__ import annotations

import io
import os
import stat
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from PIL import Image

from isthmus.data.budget import open_parquet, row_group
from isthmus.data.images import MAX_BYTES, BadImage

PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


class Source(Protocol):
    """Images by number, in the order in which the data was read."""

    def read(self, index: int) -> bytes:
        """The encoded image (JPEG, PNG, …). Raises `BadImage` if it is not to be had."""

    def signature(self, index: int) -> str | None:
        """A word that changes when the image does, got without reading it; None where there is none."""


def file_signature(path: Path) -> str | None:
    """Size and time of the last change; None for a file that cannot be looked at."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return f"{status.st_size}:{status.st_mtime_ns}"


def read_file(path: Path) -> bytes:
    """The bytes of one image file. Raises `BadImage`; never opens a pipe, a device or an absurd size."""
    try:
        status = path.stat()
        usable = stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES
        data = path.read_bytes() if usable else b""
    except FileNotFoundError:
        raise BadImage(f"no such file: {path}") from None
    except (OSError, ValueError) as error:
        raise BadImage(f"cannot read {path}: {error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise BadImage(f"not a regular file: {path}")
    _check_bytes(status.st_size)
    return data


def cell_bytes(cell: Any, folder: Path) -> bytes:
    """The bytes behind a table's cell: bytes, a path (relative to `folder`), or `{"bytes": …, "path": …}`."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, str):
        return read_file(folder / cell)
    if not cell:
        raise BadImage("no image in this row.")
    _check_bytes(len(cell))
    return bytes(cell)


def _check_bytes(size: int) -> None:
    if size > MAX_BYTES:
        raise BadImage(f"{size:,} bytes are more than the {MAX_BYTES:,} allowed for one image.")


class Column:
    """A column in memory or memory-mapped: paths, or Hugging Face's Arrow files."""

    def __init__(self, cells: pa.Array | pa.ChunkedArray, folder: Path) -> None:
        self.cells, self.folder = cells, folder

    def read(self, index: int) -> bytes:
        return cell_bytes(self.cells[index].as_py(), self.folder)

    def signature(self, index: int) -> str | None:
        cell = self.cells[index].as_py()
        return file_signature(self.folder / cell) if isinstance(cell, str) else None


class ParquetColumn:
    """A column of a Parquet file, read by row group; the last few row groups stay in memory."""

    KEPT = 3

    def __init__(self, path: Path, column: str) -> None:
        self.path, self.column = path, column
        self.file, self._plain = open_parquet(path, nested=True), open_parquet(path)
        groups = range(self.file.num_row_groups)
        sizes = [self.file.metadata.row_group(group).num_rows for group in groups]
        self.starts: list[int] = [0, *np.cumsum(sizes, dtype=np.int64).tolist()]
        self.kept: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self.lock = threading.Lock()  # a ParquetFile is not made for several readers

    def __reduce__(self) -> tuple[type[ParquetColumn], tuple[Path, str]]:
        """In another process the file is opened again: neither it nor the lock can travel."""
        return ParquetColumn, (self.path, self.column)

    def read(self, index: int) -> bytes:
        group = bisect_right(self.starts, index) - 1
        with self.lock:
            cells = self._row_group(group)
        return cell_bytes(cells[index - self.starts[group]].as_py(), self.path.parent)

    def signature(self, index: int) -> str | None:
        return None  # the cell may be a path as well as bytes, and reading a table again is cheap

    def _row_group(self, group: int) -> pa.ChunkedArray:
        if group not in self.kept:
            try:
                self.kept[group] = row_group((self.file, self._plain), group, self.column)
            except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
                raise BadImage(f"{self.path}: row group {group} cannot be read ({error}).") from None
            if len(self.kept) > self.KEPT:
                self.kept.popitem(last=False)
        self.kept.move_to_end(group)
        return self.kept[group]


class TarMembers:
    """Members of uncompressed tars, by shard number, offset and size in bytes; nothing is extracted."""

    def __init__(self, shards: Sequence[Path], members: Sequence[tuple[int, int, int]]) -> None:
        self.shards = shards
        self.members = np.array(members, dtype=np.int64).reshape(-1, 3)

    def read(self, index: int) -> bytes:
        shard, offset, size = self.members[index].tolist()
        try:
            with open(self.shards[shard], "rb", buffering=0) as file:
                data = os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise BadImage(f"cannot read {self.shards[shard]}: {error}") from None
        if len(data) != size:
            raise BadImage(f"{self.shards[shard]} ends before this image does.")
        return data

    def signature(self, index: int) -> str | None:
        shard, offset, size = self.members[index].tolist()
        return f"{self._shard_signatures[shard]}:{offset}:{size}" if self._shard_signatures[shard] else None

    @cached_property
    def _shard_signatures(self) -> list[str | None]:
        return [file_signature(shard) for shard in self.shards]


class Items:
    """Python objects: paths, bytes, PIL images or uint8 arrays [H, W] or [H, W, 3]."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def read(self, index: int) -> bytes:
        item = self.items[index]
        if isinstance(item, np.ndarray):
            item = _from_array(item)
        if isinstance(item, Image.Image):
            return _to_png(item)
        return cell_bytes(os.fspath(item) if isinstance(item, os.PathLike) else item, Path())

    def signature(self, index: int) -> str | None:
        item = self.items[index]
        return file_signature(Path(item)) if isinstance(item, str | os.PathLike) else None


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in [(), (3,), (4,)]:
        raise BadImage(f"an array of {array.dtype} {list(array.shape)} is not a picture: uint8 [H, W, 3].")
    return Image.fromarray(array)


def _to_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    try:
        (image if image.mode in PNG_MODES else image.convert("RGB")).save(file, "PNG", compress_level=1)
    except (OSError, ValueError) as error:
        raise BadImage(f"cannot use this {image.mode} picture: {error}") from None
    return file.getvalue()
