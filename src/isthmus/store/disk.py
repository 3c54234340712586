"""Parquet files of ours: the same table gives the same bytes, and a damaged page is noticed when it is read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_parquet(table: pa.Table, path: Path) -> None:
    """One table, zstd, with checksums."""
    pq.write_table(table.combine_chunks(), path, compression="zstd", write_page_checksum=True)
