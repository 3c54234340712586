"""Sources of images: where the bytes of image i are, and reading them on demand. Every `read` is thread-safe."""

from __future__ import annotations

import io
import os
import stat
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from PIL import Image

from isthmus.data.arrow import ArrowTable
from isthmus.data.cells import FETCH, base64_picture, is_inline, is_url
from isthmus.data.images import MAX_BYTES, BadImage, from_array, to_rgb, upright
from isthmus.data.parquet import ParquetTable
from isthmus.errors import InputError

# Usual folders of data sets for images, beside the list that names them.
BESIDE = (
    *("images", "Images", "image", "imgs", "flickr30k-images", "flickr30k_images", "Flicker8k_Dataset"),
    *("Flickr8k_Dataset", "val2014", "train2014", "val2017", "train2017", "coco"),
)
GREY16 = ("I;16",)  # kept as they are, so that a range given by the user applies to them


class ImageSource(Protocol):
    """Images by number, in the order in which the data was read."""

    def read(self, index: int) -> bytes:
        """The encoded image (JPEG, PNG, …). Raises `BadImage` if it cannot be read."""

    def signature(self, index: int) -> str | None:
        """A string that changes when the image changes, found without reading it; None if there is none."""


def file_signature(path: Path) -> str | None:
    """Size and time of the last change; None for a file that is not accessible."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return f"{status.st_size}:{status.st_mtime_ns}"


def read_file(path: Path) -> bytes:
    """The bytes of one image file. Raises `BadImage`; never opens pipes, devices or files that are far too large."""
    try:
        status = path.stat()
        usable = stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES
        data = path.read_bytes() if usable else b""
    except FileNotFoundError:
        raise BadImage(f"no such file: {path}") from None
    except (OSError, ValueError) as error:
        raise BadImage(f"cannot read {path}: {error}") from None
    if not stat.S_ISREG(status.st_mode):
        folder = " (a folder: name the files in it)" if stat.S_ISDIR(status.st_mode) else ""
        raise BadImage(f"not a regular file: {path}{folder}")
    _check_bytes(status.st_size)
    return data


@dataclass(frozen=True)
class Folders:
    """Folders in which images named by a path are searched, in order.

    by_name: also try the last part of a path, because files of data sets often lie elsewhere than their lists say.
    """

    tried: tuple[Path, ...]
    by_name: bool = False

    @classmethod
    def beside(cls, table: Path, images: str | os.PathLike[str] | None = None, *, by_name: bool = False) -> Folders:
        """The folder of a table and those that data sets keep images in, there and (`by_name`) above; or the folder
        that the user names instead. Raises `InputError` if that does not exist.
        """
        if images is None:
            homes = [home / name for home in (table.parent, table.parent.parent)[: 1 + by_name] for name in BESIDE]
            return cls((table.parent, *(home for home in homes if home.is_dir())), by_name)
        if not Path(images).is_dir():
            raise InputError(f"{images}: no such folder of images.")
        return cls((Path(images),), by_name=True)

    def path(self, cell: str) -> Path:
        """The file that a cell names; if there is none, the first path that was tried."""
        first = self.tried[0] / cell
        if len(self.tried) == 1 and not self.by_name and "\\" not in cell:
            return first
        spelled = [cell, *([cell.replace("\\", "/")] if "\\" in cell else [])]  # as Windows writes paths
        if self.by_name:
            spelled += [one.rpartition("/")[2] for one in spelled]
        return next((path for one in spelled for folder in self.tried if (path := folder / one).is_file()), first)


HERE = Folders((Path(),))


def cell_bytes(cell: Any, folders: Folders = HERE) -> bytes:
    """The bytes behind a table's cell: bytes, a path, a picture in base64, `{"bytes": …, "path": …}`, one in a list."""
    if isinstance(cell, list) and cell and isinstance(cell[0], int):
        cell = _from_numbers(cell)
    if isinstance(cell, list | tuple) and len(cell) == 1:
        cell = cell[0]
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, os.PathLike):
        cell = os.fspath(cell)
    if isinstance(cell, str) and is_url(cell):
        raise BadImage(FETCH)
    if isinstance(cell, str) and cell:
        return base64_picture(cell) or read_file(folders.path(cell))
    if not isinstance(cell, bytes | bytearray | memoryview | None):
        raise BadImage(f"a {type(cell).__name__} is neither a picture, bytes nor a path.")
    if not cell:
        raise BadImage("no image in this row.")
    _check_bytes(len(cell))
    return bytes(cell)


def _from_numbers(cell: list[int]) -> bytes:
    try:
        return bytes(cell)
    except (ValueError, TypeError):
        raise BadImage("a list of numbers that are no bytes is no picture.") from None


def _check_bytes(size: int) -> None:
    if size > MAX_BYTES:
        raise BadImage(f"{size:,} bytes are more than the {MAX_BYTES:,} allowed for one file: cut or shrink it.")


class ImageColumn:
    """A column in memory: paths."""

    def __init__(self, cells: pa.Array | pa.ChunkedArray, folders: Folders) -> None:
        self.cells, self.folders = cells, folders

    def __len__(self) -> int:
        return len(self.cells)

    def read(self, index: int) -> bytes:
        return cell_bytes(self.cells[index].as_py(), self.folders)

    def signature(self, index: int) -> str | None:
        cell = self.cells[index].as_py()
        return file_signature(self.folders.path(cell)) if isinstance(cell, str) and not is_inline(cell) else None


class TableFile(Protocol):
    """A file of columns, in parts (row groups of Parquet, batches of Arrow): `ParquetTable`, `ArrowTable`."""

    path: Path
    schema: pa.Schema
    starts: list[int]

    def __len__(self) -> int: ...

    def slices(self, columns: Sequence[str], rows: int = 1024) -> Iterator[pa.RecordBatch]: ...

    def group(self, number: int, column: str) -> pa.ChunkedArray: ...

    def first_value(self, column: str) -> Any: ...


ARROW = (".arrow", ".feather")


def is_file_of_columns(path: Path) -> bool:
    """Whether a file is, by its name, one that `open_table` opens."""
    return path.suffix.lower() in (".parquet", *ARROW)


def open_table(path: Path) -> TableFile:
    """A file of columns by its name: Arrow, or Parquet. Raises as `ParquetTable` and `ArrowTable` do."""
    return ArrowTable(path) if path.suffix.lower() in ARROW else ParquetTable(path)


class FileColumn:
    """A column of a file of columns, read part by part; the last few parts stay in memory."""

    KEPT = 3

    def __init__(self, path: Path, column: str, folders: Folders | None = None) -> None:
        self.path, self.column, self.folders = path, column, folders or Folders.beside(path)
        self.table = open_table(path)
        self.kept: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self.lock = threading.Lock()  # a file is not made for several readers

    def __len__(self) -> int:
        return len(self.table)

    def __reduce__(self) -> tuple[type[FileColumn], tuple[Path, str, Folders]]:
        """In another process the file is opened again, because neither it nor the lock can be pickled."""
        return FileColumn, (self.path, self.column, self.folders)

    def read(self, index: int) -> bytes:
        number = bisect_right(self.table.starts, index) - 1
        with self.lock:
            cells = self._part(number)
        return cell_bytes(cells[index - self.table.starts[number]].as_py(), self.folders)

    def filled(self) -> Iterator[bool]:
        """Whether each row holds anything, without decoding any."""
        for number in range(len(self.table.starts) - 1):
            for cells in self._part(number).chunks:
                parts = cells.flatten() if pa.types.is_struct(cells.type) else [cells]
                there = [part.is_valid().to_numpy(zero_copy_only=False) for part in parts]
                yield from np.logical_or.reduce(there).tolist()

    def signature(self, index: int) -> str | None:
        return None  # the cell holds the picture, and reading a table again is cheap

    def _part(self, number: int) -> pa.ChunkedArray:
        if number not in self.kept:
            try:
                self.kept[number] = self.table.group(number, self.column)
            except (OSError, ValueError, RuntimeError, MemoryError, pa.ArrowException) as error:
                raise BadImage(f"{self.path}: row group {number} cannot be read ({error}).") from None
            if len(self.kept) > self.KEPT:
                self.kept.popitem(last=False)
        self.kept.move_to_end(number)
        return self.kept[number]


class TarMembers:
    """Members of uncompressed tars, by shard number, offset and size in bytes; nothing is extracted."""

    def __init__(self, shards: Sequence[Path], members: Sequence[tuple[int, int, int]]) -> None:
        self.shards = shards
        self.members = np.array(members, dtype=np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self.members)

    def read(self, index: int) -> bytes:
        shard, offset, size = self.members[index].tolist()
        try:
            with open(self.shards[shard], "rb", buffering=0) as file:
                file.seek(offset)
                data = file.read(size)
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


class Joined:
    """The images of several sources, one source after the other."""

    def __init__(self, sources: Sequence[Any]) -> None:
        self.sources = list(sources)
        self.starts: list[int] = [0, *np.cumsum([len(source) for source in sources], dtype=np.int64).tolist()]

    def __len__(self) -> int:
        return self.starts[-1]

    def _at(self, index: int) -> tuple[ImageSource, int]:
        number = bisect_right(self.starts, index) - 1
        return self.sources[number], index - self.starts[number]

    def read(self, index: int) -> bytes:
        source, inner = self._at(index)
        return source.read(inner)

    def signature(self, index: int) -> str | None:
        source, inner = self._at(index)
        return source.signature(inner)


class Items:
    """Python objects: paths, bytes, PIL images or arrays [H, W], [H, W, 3] or [H, W, 4]."""

    def __init__(self, items: Sequence[Any], folders: Folders = HERE) -> None:
        self.items, self.folders = items, folders

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> bytes:
        item = self.items[index]
        if isinstance(item, Image.Image | np.ndarray):
            return to_png(item)
        return cell_bytes(item, self.folders)

    def signature(self, index: int) -> str | None:
        item = self.items[index]
        if isinstance(item, os.PathLike):
            item = os.fspath(item)
        return file_signature(self.folders.path(item)) if isinstance(item, str) and not is_inline(item) else None


def to_png(picture: Image.Image | np.ndarray) -> bytes:
    """A picture in memory as the bytes of a file that decodes to the same pixels. Raises `BadImage`."""
    image = from_array(picture) if isinstance(picture, np.ndarray) else picture
    file = io.BytesIO()
    image = upright(image) if image.mode in GREY16 else to_rgb(image)
    try:
        image.save(file, "PNG", compress_level=1)
    except (OSError, ValueError) as error:
        raise BadImage(f"cannot use this {image.mode} picture: {error}") from None
    return file.getvalue()


def file_of(source: ImageSource, index: int) -> Path | None:
    """The file that holds image `index` alone; None for one in a tar, a table or memory."""
    while isinstance(source, Joined):
        source, index = source._at(index)
    if not isinstance(source, ImageColumn | Items):
        return None
    cell = source.cells[index].as_py() if isinstance(source, ImageColumn) else source.items[index]
    cell = os.fspath(cell) if isinstance(cell, os.PathLike) else cell
    return source.folders.path(cell) if isinstance(cell, str) and not is_inline(cell) else None
