"""Arrow files (streams, files, Feather) in bounded memory: what their messages hold is added up before one is unpacked.

Their buffers may be packed, and nothing of pyarrow says how much they become: the messages are read here. The layout:
https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc and
https://flatbuffers.dev/internals.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from isthmus.data.parquet import GROUP_BYTES, budgeted, check_rows
from isthmus.errors import BadFile, InputError
from isthmus.owned import regular

MAGIC = b"ARROW1"
DICTIONARY, BATCH = 2, 3  # kinds of messages


class ArrowTable:
    """An Arrow file as a table that is read in slices, or a record batch at a time; it is mapped into memory.

    schema: of its columns. starts: the first row of each batch, and behind the last how many rows there are.
    Raises `InputError` for more rows than so small a file can say anything about, and for batches that would become
    too much; else what pyarrow raises for a damaged file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = pa.memory_map(str(regular(path)))
        start = self._data.read(len(MAGIC))
        if start.startswith(b"FEA1"):
            raise BadFile(f"{path}: Feather of the first version, which is not read. Write it again as Parquet.")
        self._is_file, self._packed = start == MAGIC, False
        self._opened: dict[tuple[str, ...], Callable[[int], pa.RecordBatch]] = {}  # by columns, what gives a batch
        try:
            batches = self._measured()
        except (struct.error, IndexError, OverflowError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise pa.ArrowInvalid(f"its messages are damaged: {error}") from None
        self.starts: list[int] = [0, *np.cumsum(batches, dtype=np.int64).tolist()]
        check_rows(path, self.starts[-1])
        self.schema: pa.Schema = self._open().schema

    def __len__(self) -> int:
        return self.starts[-1]

    def slices(self, columns: Sequence[str], rows: int = 1024) -> Iterator[pa.RecordBatch]:
        """The rows of some columns; see `isthmus.data.parquet.budgeted`."""
        yield from budgeted(self.path, self._pieces(columns, rows))

    def group(self, number: int, column: str) -> pa.ChunkedArray:
        """One column of a batch."""
        cells = self._batches(columns=[column], only=number)
        return pa.chunked_array([batch.column(0) for batch in cells], self.schema.field(column).type)

    def first_value(self, column: str) -> Any:
        """The first cell that is not null; None where there is none."""
        for batch in self._batches([column]):
            there = np.flatnonzero(batch.column(0).is_valid().to_numpy(zero_copy_only=False))
            if len(there):
                return batch.column(0)[int(there[0])].as_py()
        return None

    def _pieces(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        for batch in self._batches(columns):
            for start in range(0, len(batch), rows):
                yield batch.slice(start, rows)

    def _batches(self, columns: Sequence[str], only: int | None = None) -> Iterator[pa.RecordBatch]:
        """The batches, or one of them."""
        wanted = range(len(self.starts) - 1) if only is None else [only]
        for number, batch in zip(wanted, self._found(tuple(columns), wanted), strict=True):
            chosen = batch.select(list(columns))
            chosen.validate(full=True)  # to believe what a damaged file says of itself would end the process
            if len(chosen) != self.starts[number + 1] - self.starts[number]:
                raise pa.ArrowInvalid(f"batch {number} has {len(chosen):,} rows, not the number in its header")
            yield chosen

    def _found(self, columns: tuple[str, ...], wanted: Sequence[int]) -> Iterator[pa.RecordBatch]:
        """These batches, with these columns at least. Those of a packed stream are unpacked one after the other."""
        if not self._is_file and self._packed:
            return (batch for number, batch in enumerate(self._open(columns)) if number in wanted)
        if columns not in self._opened:
            opened = self._open(columns)
            self._opened[columns] = opened.get_batch if self._is_file else list(opened).__getitem__
        return map(self._opened[columns], wanted)

    def _open(self, columns: Sequence[str] | None = None) -> Any:
        fields = None if columns is None else sorted(self.schema.get_field_index(column) for column in columns)
        self._data.seek(0)
        opened = pa.ipc.open_file if self._is_file else pa.ipc.open_stream
        return opened(self._data, options=pa.ipc.IpcReadOptions(included_fields=fields))

    def _measured(self) -> list[int]:
        """The rows of each batch; `InputError` where one, or all dictionaries together, would become too much."""
        rows: list[int] = []
        dictionaries = 0
        for message in _messages(self._data, self._is_file):
            header = _Message(message)
            size = header.nbytes
            self._packed |= header.packed
            if header.kind == DICTIONARY:
                size = dictionaries = dictionaries + size
            elif header.kind == BATCH:
                rows.append(header.rows)
            if size > GROUP_BYTES:
                what = "its dictionaries become" if header.kind == DICTIONARY else f"batch {len(rows) - 1} becomes"
                raise BadFile(f"{self.path}: {what} {size:,} bytes, more than {GROUP_BYTES:,}; write smaller ones.")
        return rows


def _messages(data: pa.MemoryMappedFile, is_file: bool) -> Iterator[pa.Message]:
    """The messages that a reader of the file reads: of a stream one after the other, of a file those of its footer."""
    size = data.size()
    if not is_file:
        data.seek(0)
        reader = pa.ipc.MessageReader.open_stream(data)
        while True:
            try:
                yield reader.read_next_message()
            except StopIteration:
                return
    data.seek(size - len(MAGIC) - 4)
    (length,) = struct.unpack("<i", data.read(4))
    data.seek(size - len(MAGIC) - 4 - length)
    footer = _Flat.root(data.read(length))
    for field in (2, 3):  # dictionaries, record batches
        for offset, _, _ in footer.structs(field, "<qi4xq"):
            data.seek(offset)
            yield pa.ipc.read_message(data)


class _Message:
    """What a message says of itself. kind: `DICTIONARY`, `BATCH` or another. nbytes: of its buffers, unpacked."""

    def __init__(self, message: pa.Message) -> None:
        head = _Flat.root(message.metadata.to_pybytes())
        self.kind = head.scalar(1, "<B")
        self.rows, self.nbytes, self.packed = 0, 0, False
        if self.kind not in (DICTIONARY, BATCH):
            return
        batch = head.table(2) if self.kind == BATCH else head.table(2).table(1)
        self.rows = batch.scalar(0, "<q")
        if self.rows < 0:
            raise ValueError(f"{self.rows} rows")
        body, self.packed = memoryview(message.body), batch.has(3)
        for offset, length in batch.structs(2, "<qq"):
            inside = self.packed and length > 8
            self.nbytes += max(length, struct.unpack_from("<q", body, offset)[0] if inside else 0)


@dataclass(frozen=True)
class _Flat:
    """A table of a flatbuffer: fields by number, in the order in which its schema names them."""

    data: bytes
    at: int

    @classmethod
    def root(cls, data: bytes) -> _Flat:
        return cls(data, struct.unpack_from("<I", data)[0])

    def _field(self, number: int) -> int:
        """Where a field is; 0 where it is left out."""
        vtable = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        inside = 4 + 2 * number
        if vtable < 0 or inside >= struct.unpack_from("<H", self.data, vtable)[0]:
            return 0
        offset = struct.unpack_from("<H", self.data, vtable + inside)[0]
        return self.at + offset if offset else 0

    def has(self, number: int) -> bool:
        return self._field(number) > 0

    def scalar(self, number: int, form: str) -> int:
        place = self._field(number)
        return struct.unpack_from(form, self.data, place)[0] if place else 0

    def table(self, number: int) -> _Flat:
        place = self._field(number)
        return _Flat(self.data, place + struct.unpack_from("<I", self.data, place)[0])

    def structs(self, number: int, form: str) -> Iterator[tuple[int, ...]]:
        """The entries of a vector of structs."""
        place = self._field(number)
        if not place:
            return
        start = place + struct.unpack_from("<I", self.data, place)[0]
        (count,) = struct.unpack_from("<I", self.data, start)
        whole = self.data[start + 4 : start + 4 + count * struct.calcsize(form)]
        yield from struct.iter_unpack(form, whole)
