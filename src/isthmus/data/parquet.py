"""Tables in bounded memory: read in slices, equal values once, and no more of them than the file's size warrants.

A file's size says little: 5 kB can hold one picture a million times over. Parquet is read here, Arrow in `data.arrow`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isthmus.errors import BadFile
from isthmus.owned import regular

SLICE_BYTES = 2**28  # of the rows of a table that are read at once
GROUP_BYTES = 2**31  # of the pictures of a row group
FREE_BYTES = 2**29  # of all cells of a table, whatever its file's size
MAX_SPREAD = 1000  # bytes of cells for a byte of the file
MAX_ROWS_A_BYTE = 8  # of a Parquet file: ids alone take more, however they are packed
FREE_ROWS = 10**6
FEW_ROWS = 16  # of lists whose texts are not all in a dictionary
CELL_BYTES = 64  # of any Python object
# What pyarrow raises for a damaged file; a text that is no UTF-8 shows when it is taken.
DAMAGE = (pa.ArrowException, OSError, RuntimeError, UnicodeDecodeError)


class ParquetTable:
    """A Parquet file as a table that is read in slices, or a row group at a time.

    schema: of its columns. starts: the first row of each row group, and behind the last how many rows there are.
    verify: whether the checksums of pages count, where there are any. Raises as `open_parquet`.
    """

    def __init__(self, path: Path, *, verify: bool = False) -> None:
        self.path, self._verify = path, verify
        self._plain = open_parquet(path, verify=verify)
        sizes = [self._plain.metadata.row_group(group).num_rows for group in range(self._plain.num_row_groups)]
        self.starts: list[int] = [0, *np.cumsum(sizes, dtype=np.int64).tolist()]
        self.schema: pa.Schema = self._plain.schema_arrow

    @cached_property
    def _files(self) -> tuple[pq.ParquetFile, pq.ParquetFile]:
        """The file as `row_group` takes it: with nested texts as dictionaries, and without."""
        return open_parquet(self.path, nested=True, verify=self._verify), self._plain

    def __len__(self) -> int:
        return self.starts[-1]

    def slices(self, columns: Sequence[str], rows: int = 1024) -> Iterator[pa.RecordBatch]:
        """The rows of some columns; see `budgeted`."""
        yield from budgeted(self.path, self._pieces(columns, rows))

    def group(self, number: int, column: str) -> pa.ChunkedArray:
        """One column of a row group. Raises ValueError where it becomes more than `GROUP_BYTES`."""
        return row_group(self._files, number, column)

    def first_value(self, column: str) -> Any:
        """The first cell that is not null; None where there is none."""
        file = self._plain
        groups = range(file.num_row_groups)  # one by one: a later one may be damaged
        parts = (part for group in groups for part in file.iter_batches(FEW_ROWS, row_groups=[group], columns=[column]))
        return next((cells[0].as_py() for part in parts if len(cells := part[0].drop_null())), None)

    def _pieces(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        for group in range(len(self.starts) - 1):
            metadata = self._plain.metadata.row_group(group)
            # Of all columns: to ask for one of a damaged file can end the process (a C++ exception gets through).
            stored, held = metadata.total_byte_size, metadata.num_rows
            few = max(1, min(rows, SLICE_BYTES * held // max(1, stored)))
            yield from _group_batches(self._files, group, columns, few)


def open_parquet(path: Path, *, nested: bool = False, verify: bool = False) -> pq.ParquetFile:
    """A Parquet file whose texts and bytes are read as dictionaries, so that what it holds once is in memory once.

    nested: also those inside lists and structs, which pyarrow can where all of a row group is written as dictionaries.
    Raises `InputError` for more rows than so small a file can say anything about, and for what is no file.
    """
    file = pq.ParquetFile(regular(path), page_checksum_verification=verify)
    check_rows(path, file.metadata.num_rows)
    leaves = [file.schema.column(index) for index in range(len(file.schema))]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and (nested or "." not in leaf.path)]
    if not texts:
        return file
    return pq.ParquetFile(path, metadata=file.metadata, read_dictionary=texts, page_checksum_verification=verify)


def check_rows(path: Path, rows: int) -> None:
    """`InputError` for more rows than a file of its size can say anything about."""
    size = path.stat().st_size
    if rows > FREE_ROWS + MAX_ROWS_A_BYTE * size:
        raise BadFile(f"{path}: {rows:,} rows in {size:,} bytes: they are empty. Write the table again.")


def slices(path: Path, columns: Sequence[str], rows: int = 1024) -> Iterator[pa.RecordBatch]:
    """The rows of some columns of a Parquet file; see `budgeted`."""
    yield from ParquetTable(path).slices(columns, rows)


def read_columns(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Those of some columns (default: all) that a Parquet file has, within the bounds of `budgeted`; checksums count.

    Texts are plain, not dictionaries. Raises as `ParquetTable` does.
    """
    table = ParquetTable(path, verify=True)
    names = [name for name in table.schema.names if columns is None or name in columns]
    own = pq.read_schema(path)
    schema = pa.schema([pa.field(name, value_type(own.field(name).type)) for name in names])
    parts = [part.cast(schema) for part in table.slices(names, 65_536)]
    return pa.Table.from_batches(parts, schema)


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values of a column, also of one that holds each of them once."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts, in any of Arrow's ways."""
    kind = value_type(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def budgeted(path: Path, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches of a table, cut into fewer rows where they hold much.

    Raises `InputError`, naming the row, where one alone holds more than `SLICE_BYTES`, and where all that were read
    hold much more than their file, as equal texts do, each of which will be in memory by itself.
    """
    start, total, most = 0, 0, FREE_BYTES + MAX_SPREAD * path.stat().st_size
    for batch in batches:
        for part in _cut(batch):
            size = spread_bytes(part)
            total += size
            if len(part) == 1 and size > SLICE_BYTES:
                raise BadFile(f"{path}: row {start} holds {size:,} bytes, more than the {SLICE_BYTES:,} of a row.")
            start += len(part)
            if total > most:
                raise BadFile(f"{path}: {start:,} rows hold {total:,} bytes in a small file: equal texts, repeated.")
            yield part


def _group_batches(
    files: tuple[pq.ParquetFile, pq.ParquetFile], group: int, columns: Sequence[str], rows: int
) -> Iterator[pa.RecordBatch]:
    """Batches of a row group by the first file; from where that one cannot go on, by the second, few at a time."""
    done = 0
    options: dict[str, Any] = {"row_groups": [group], "columns": list(columns)}
    try:
        for batch in files[0].iter_batches(rows, **options):
            done += len(batch)
            yield batch
        return
    except pa.ArrowNotImplementedError:  # texts inside lists, some of them not in the dictionary
        pass
    for batch in files[1].iter_batches(min(rows, FEW_ROWS), **options):
        skipped = min(done, len(batch))
        done -= skipped
        if skipped < len(batch):
            yield batch.slice(skipped)


def _cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if len(batch) <= 1 or spread_bytes(batch) <= SLICE_BYTES:
        yield batch
        return
    half = len(batch) // 2
    yield from _cut(batch.slice(0, half))
    yield from _cut(batch.slice(half))


def spread_bytes(cells: pa.RecordBatch | pa.Array) -> int:
    """Bytes of values as Python objects, each by itself, also where the file and Arrow hold equal ones once."""
    if isinstance(cells, pa.RecordBatch):
        return sum(map(spread_bytes, cells.columns))
    return CELL_BYTES * len(cells) + _inside_bytes(cells)


def _inside_bytes(cells: pa.Array) -> int:
    """Bytes of what is inside the cells of an array."""
    kind = cells.type
    if isinstance(kind, pa.BaseExtensionType):
        return _inside_bytes(cells.storage)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _repeated_bytes(cells)
    if pa.types.is_struct(kind):
        return sum(map(spread_bytes, cells.flatten()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return spread_bytes(cells.flatten())
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):  # which may show the same values again
        shown = pc.sum(cells.sizes).as_py() or 0
        return CELL_BYTES * shown if CELL_BYTES * shown > SLICE_BYTES else spread_bytes(cells.flatten())
    if pa.types.is_map(kind):
        first, last = cells.offsets[0].as_py(), cells.offsets[-1].as_py()
        return sum(spread_bytes(part.slice(first, last - first)) for part in (cells.keys, cells.items))
    if pa.types.is_union(kind):
        raise pa.ArrowNotImplementedError(f"a column of {kind} is not read")
    lengths = _lengths(cells)
    return 0 if lengths is None else pc.sum(lengths).as_py() or 0


def _repeated_bytes(cells: pa.Array) -> int:
    """Of an array that holds each value once: what they are, each for itself."""
    if pa.types.is_dictionary(cells.type):
        values, index = cells.dictionary, cells.indices
    else:
        runs = pa.array(range(len(cells.values)), pa.int64())
        numbers = pa.RunEndEncodedArray.from_arrays(cells.run_ends, runs)
        values, index = cells.values, pc.run_end_decode(numbers.slice(cells.offset, len(cells)))
    counted = pc.value_counts(index.drop_null())
    used, times = values.take(counted.field("values")), counted.field("counts")
    if pa.types.is_nested(used.type):
        return int(_inside_bytes(used) * (pc.max(times).as_py() or 0))
    lengths = _lengths(used)
    return 0 if lengths is None else pc.sum(pc.multiply(lengths, times)).as_py() or 0


def _lengths(values: pa.Array) -> pa.Array | None:
    """Bytes of each text, int64; None for values that have no length."""
    kind = values.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):  # each says its length, then where it is
        views = np.frombuffer(values.buffers()[1], np.int32).reshape(-1, 4)[values.offset :][: len(values), 0]
        return pa.array(views, pa.int64())
    measured = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string, pa.types.is_large_string)
    return pc.cast(pc.binary_length(values), pa.int64()) if any(test(kind) for test in measured) else None


def row_group(files: tuple[pq.ParquetFile, pq.ParquetFile], group: int, column: str) -> pa.ChunkedArray:
    """One column of a row group, in steps, from a file opened with and without `nested`.

    Raises ValueError where it becomes more than `GROUP_BYTES`.
    """
    rows = files[0].metadata.row_group(group).num_rows
    _check_group(files[0].metadata.row_group(group).total_byte_size)
    for file in files:
        try:
            chunks: list[pa.Array] = []
            for batch in file.iter_batches(max(64, rows // 16), row_groups=[group], columns=[column]):
                chunks.append(batch.column(0))
                _check_group(sum(chunk.nbytes for chunk in chunks))  # the file's own number may be wrong
            return pa.chunked_array(chunks, file.schema_arrow.field(column).type)
        except pa.ArrowNotImplementedError:
            if file is files[-1]:
                raise
    raise AssertionError("unreachable")


def _check_group(nbytes: int) -> None:
    if nbytes > GROUP_BYTES:
        raise ValueError(f"it becomes more than {GROUP_BYTES:,} bytes; write smaller row groups")
