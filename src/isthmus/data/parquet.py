"""Parquet in bounded memory: read in slices, with equal values stored once and limits that depend on the file's size.

A file's size says little: 5 kB can hold one picture a million times over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isthmus.errors import InputError

SLICE_BYTES = 2**28  # of the rows of a table that are read at once
GROUP_BYTES = 2**31  # of the pictures of a row group
FREE_BYTES = 2**29  # of all cells of a table, whatever its file's size
MAX_SPREAD = 1000  # bytes of cells for a byte of the file
MAX_ROWS_A_BYTE = 8  # of a Parquet file: ids alone take more, however they are packed
FREE_ROWS = 10**6
FEW_ROWS = 16  # of lists whose texts are not all in a dictionary


def open_parquet(path: Path, *, nested: bool = False) -> pq.ParquetFile:
    """A Parquet file whose texts and bytes are read as dictionaries, so that what it holds once is in memory once.

    nested: also those inside lists and structs, which pyarrow can where all of a row group is written as dictionaries.
    Raises `InputError` if there are more rows than a file of this size can hold values for.
    """
    file = pq.ParquetFile(path)
    rows, size = file.metadata.num_rows, path.stat().st_size
    if rows > FREE_ROWS + MAX_ROWS_A_BYTE * size:
        raise InputError(f"{path}: {rows:,} rows in {size:,} bytes: they are empty. Write the table again.")
    leaves = [file.schema.column(index) for index in range(len(file.schema))]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and (nested or "." not in leaf.path)]
    return pq.ParquetFile(path, read_dictionary=texts) if texts else file


def slices(path: Path, columns: Sequence[str], rows: int = 1024) -> Iterator[pa.RecordBatch]:
    """The rows of some columns, at most `rows` at a time and fewer where they hold much.

    Raises `InputError`, naming the row, where one alone holds more than `SLICE_BYTES`, and where all that were read
    hold much more than their file, as equal texts do, each of which will be in memory by itself.
    """
    files = open_parquet(path, nested=True), open_parquet(path)
    start, total, most = 0, 0, FREE_BYTES + MAX_SPREAD * path.stat().st_size
    for group in range(files[0].num_row_groups):
        metadata = files[0].metadata.row_group(group)
        # Of all columns: the size of one column of a damaged file can end the process (a C++ exception in pyarrow).
        stored, held = metadata.total_byte_size, metadata.num_rows
        few = max(1, min(rows, SLICE_BYTES * held // max(1, stored)))
        for batch in _group_batches(files, group, columns, few):
            for part in _cut(batch):
                size = spread_bytes(part)
                total += size
                if len(part) == 1 and size > SLICE_BYTES:
                    raise InputError(
                        f"{path}: row {start} holds {size:,} bytes, more than the {SLICE_BYTES:,} of a row."
                    )
                start += len(part)
                if total > most:
                    raise InputError(
                        f"{path}: {start:,} rows hold {total:,} bytes in a small file: equal texts, repeated."
                    )
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
    kind = cells.type
    if pa.types.is_dictionary(kind):
        sizes = pc.fill_null(pc.take(_lengths(cells.dictionary), cells.indices), 0)
        return 64 * len(cells) + (pc.sum(sizes).as_py() or 0)
    if pa.types.is_struct(kind):
        return 64 * len(cells) + sum(map(spread_bytes, cells.flatten()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return 64 * len(cells) + spread_bytes(cells.flatten())
    lengths = _lengths(cells)
    return 64 * len(cells) + (pc.sum(lengths).as_py() or 0)


def _lengths(values: pa.Array) -> pa.Array:
    kind = values.type
    measured = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string, pa.types.is_large_string)
    if any(test(kind) for test in measured):
        return pc.cast(pc.binary_length(values), pa.int64())
    return pa.array([0] * 0, pa.int64()) if not len(values) else pa.repeat(pa.scalar(0, pa.int64()), len(values))


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
