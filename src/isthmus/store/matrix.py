"""Feature matrices on disk, read by row: memory-mapped shards behind one `gather`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from isthmus.errors import InputError
from isthmus.store.shards import Block

OPEN_MAPS = 32  # per encoder: a map holds a file handle, and systems allow about a thousand


class Rows:
    """The rows of many blocks (files) as one array [n, width]."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = list(blocks)
        self.starts = np.cumsum([0, *(block.shape[0] for block in self.blocks)])
        self._map = lru_cache(maxsize=OPEN_MAPS)(Block.map)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def gather(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Fill `out` [len(rows), width] with these rows. Each block is visited once, in file order."""
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        cuts = np.searchsorted(ordered, self.starts)
        for block, start, low, high in zip(self.blocks, self.starts, cuts, cuts[1:], strict=False):
            if low < high:
                out[order[low:high]] = self._map(block)[ordered[low:high] - start]


class FeatureMatrix:
    """Features [n, D] on disk; several encoders stand side by side as columns. Row i belongs to row i of the
    table it was taken for (`Store.images` or `Store.captions`), whatever the order of the files.

    records: the encoders, left to right. parts: the widths of what is concatenated in them.
    """

    def __init__(self, members: Sequence[tuple[Rows, np.ndarray]], records: Sequence[dict[str, Any]]) -> None:
        self._members = list(members)
        self.records = list(records)
        self.parts: list[int] = [width for record in self.records for width in record["parts"]]
        self.width: int = sum(record["width"] for record in self.records)

    def __len__(self) -> int:
        return len(self._members[0][1])

    def __repr__(self) -> str:
        names = " + ".join(record["uri"] for record in self.records)
        return f"FeatureMatrix([{len(self):,}, {self.width}] {self.dtype}, {names})"

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.width

    @property
    def dtype(self) -> np.dtype:
        """The widest dtype on disk; `gather` always gives float32."""
        found = [block.dtype for rows, _ in self._members for block in rows.blocks]
        return np.result_type(np.float16, *found)

    @property
    def record(self) -> dict[str, Any]:
        """The encoder's record, where there is one encoder."""
        (record,) = self.records
        return record

    def gather(self, rows: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Rows in the order asked for, float32 [len(rows), width]; `out` is filled and returned if given.

        Raises:
            InputError: a row that is not there or has no features, or a shard that vanished.
        """
        rows = np.asarray(rows, np.int64)
        outside = rows[(rows < 0) | (rows >= len(self))]
        if len(outside):
            raise InputError(f"{self!r}: row {outside[0]} is not there.")
        if out is None:
            out = np.empty((len(rows), self.width), np.float32)
        left = 0
        for (stored, where), record in zip(self._members, self.records, strict=True):
            missing = int((where[rows] < 0).sum())
            if missing:
                raise InputError(
                    f"features by {record['uri']} are missing for {missing:,} of {len(rows):,} rows. Run the same "
                    "`isthmus embed` again: it computes only these."
                )
            stored.gather(where[rows], out[:, left : left + record["width"]])
            left += record["width"]
        return out
