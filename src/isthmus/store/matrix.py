"""Feature matrices on disk, read by row: memory-mapped shards behind one `gather`."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from isthmus.data.encoder_record import EncoderRecord
from isthmus.data.matrix import OnDemand
from isthmus.errors import InputError
from isthmus.store.blocks import MappedArray

CONVERTED_AT_ONCE = 512  # rows that stay in a core's cache between reading and conversion


class Rows:
    """The rows of many blocks (files) as one array [n, width], each row copied straight out of its mapped file."""

    def __init__(self, blocks: Sequence[MappedArray]) -> None:
        self.blocks = [block for block in blocks if block.shape[0]]
        self.starts = np.cumsum([0, *(block.shape[0] for block in self.blocks)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def gather(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Fill `out` [len(rows), width], float16 or float32, with these rows."""
        if not len(rows):
            return
        block = np.searchsorted(self.starts, rows, side="right") - 1
        local = rows - self.starts[block]
        target = torch.from_numpy(out)
        for members, window in self._windows:
            if len(self._windows) == 1:
                window.gather(block, local, target)
            elif len(mine := np.flatnonzero(members[block])):
                part = torch.empty(len(mine), target.shape[1], dtype=target.dtype)
                window.gather(np.cumsum(members)[block[mine]] - 1, local[mine], part)
                target[torch.from_numpy(mine)] = part

    @cached_property
    def _windows(self) -> list[tuple[np.ndarray, Window]]:
        """One window per dtype (and alignment in the file), with its blocks (bool); mostly a single one."""
        kinds = [(block.dtype, block.offset % block.dtype.itemsize) for block in self.blocks]
        found = []
        for kind in dict.fromkeys(kinds):
            members = np.array([other == kind for other in kinds])
            found.append((members, Window([self.blocks[i] for i in np.flatnonzero(members)])))
        return found


class Window:
    """Mapped blocks of one dtype as a single tensor, so that one call gathers from all of them.

    It spans all addresses from the first block to the end of the last and has a row at every element: row e is the
    `width` elements from e on. Only rows within blocks are read, and the one at `zeros`, which belongs to no block;
    memory in between is not touched.
    """

    def __init__(self, blocks: Sequence[MappedArray]) -> None:
        self._storages = [block.storage() for block in blocks]  # they own the memory
        dtype, self.width = blocks[0].dtype, blocks[0].shape[1]
        pairs = zip(self._storages, blocks, strict=True)
        first = np.array([storage.data_ptr() + block.offset for storage, block in pairs])
        self._zeros = np.frombuffer(
            mmap.mmap(-1, (self.width + 1) * dtype.itemsize), np.uint8
        )  # mapped near the blocks
        zeros = self._zeros.ctypes.data
        zeros += (first[0] - zeros) % dtype.itemsize  # aligned as they are
        begin = min(first.min(), zeros)
        ends = np.append(first + [block.nbytes for block in blocks], zeros + self.width * dtype.itemsize)
        memory = (ctypes.c_char * int(ends.max() - begin)).from_address(int(begin))
        self._flat = torch.frombuffer(memory, dtype=getattr(torch, dtype.name))
        self.rows = self._flat.as_strided((len(self._flat) - self.width + 1, self.width), (1, 1))
        self.first, self.zeros = (first - begin) // dtype.itemsize, (zeros - begin) // dtype.itemsize

    def gather(self, block: np.ndarray, row: np.ndarray, out: torch.Tensor) -> None:
        """Fill `out` [n, width] with row `row[i]` of block `block[i]`."""
        self.copy(self.first[block] + row * self.width, out)

    def copy(self, begin: np.ndarray, out: torch.Tensor) -> None:
        """Fill `out` [n, k] with the k elements from element `begin[i]` on, which are all within blocks."""
        index, rows = torch.from_numpy(begin), self.rows
        if out.shape[1] != self.width:
            rows = self._flat.as_strided((len(self._flat) - out.shape[1] + 1, out.shape[1]), (1, 1))
        if out.dtype == rows.dtype:
            torch.index_select(rows, 0, index, out=out)
            return
        for some, part in zip(index.split(CONVERTED_AT_ONCE), out.split(CONVERTED_AT_ONCE), strict=True):
            part.copy_(rows.index_select(0, some))


class FeatureMatrix(OnDemand):
    """Features [n, D] on disk; several encoders stand side by side as columns. Row i belongs to row i of its table
    (`Store.images` or `Store.captions`), in any order of files.

    records: the encoders, left to right. parts: the widths of what is concatenated in them.
    """

    def __init__(self, members: Sequence[tuple[Rows, np.ndarray]], records: Sequence[EncoderRecord]) -> None:
        self._members = list(members)
        self.records = list(records)
        self.parts: list[int] = [width for record in self.records for width in record["parts"]]
        self.shape = (len(self._members[0][1]), sum(record["width"] for record in self.records))

    def __repr__(self) -> str:
        names = " + ".join(record["uri"] for record in self.records)
        return f"FeatureMatrix([{len(self):,}, {self.width}] {self.dtype}, {names})"

    @property
    def width(self) -> int:
        return self.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """The widest dtype on disk; `gather` gives float32 unless `out` has another."""
        found = [block.dtype for rows, _ in self._members for block in rows.blocks]
        return np.result_type(np.float16, *found)

    @property
    def record(self) -> EncoderRecord:
        """The encoder's record, if there is one encoder."""
        (record,) = self.records
        return record

    def gather(self, rows: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Rows in the given order, float32 [len(rows), width].

        out: float16 or float32 [len(rows), width], filled and returned if given; rows of its own dtype on disk are
            copied as they are.

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
