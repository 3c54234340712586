"""Writing to a disk that may be full, and telling so."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from isthmus.errors import InputError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turn "no space left" while writing `path` into an error that says what was kept and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise InputError(
            f"{path}: {error.strerror or 'no space left'}. What was written before is kept: make room "
            "and run the same command again."
        ) from error


def write_parquet(table: pa.Table, path: Path) -> None:
    """One table, zstd; the same table gives the same bytes."""
    pq.write_table(table.combine_chunks(), path, compression="zstd")
