"""The plan of work: which items make a unit, and which of them share a forward pass.

A unit is what one worker does at a time, what one shard holds, and what a kill costs at most. Units and batches
are a function of the pairs and the batch size alone: neither time, nor the number of workers, nor an
interruption moves a boundary. So the same plan, on the same type of machine with the same number of threads,
gives the same bytes, whoever computes which unit (a matrix product rounds by the shape of its batch).

Small units lose little work at a kill, large ones make few files. 1,024 items are a minute's work of a small
image encoder on two cores and 2 MiB of 1,024-wide features. Beyond 4 million items units grow instead of
multiplying, so that a store opens quickly: at most 4,096 of them, each cut into shards of 64 MiB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from isthmus.store.keys import to_keys

LEAST_ITEMS = 1024
MOST_UNITS = 4096


@dataclass(frozen=True)
class Unit:
    """Consecutive items of the plan, to be encoded in batches of `batch_size`.

    items: row numbers of images (int64 [n]), or n captions. keys: uint8 [n, 16], what each is stored under.
    needed: bool [networks, n], what is not in the store yet. An item that is not needed keeps its place: the
        others stay in the batch they were planned for.
    """

    items: Sequence[int] | Sequence[str]
    keys: np.ndarray
    needed: np.ndarray
    batch_size: int

    def batches(self) -> Iterator[range]:
        """The positions in each batch."""
        for start in range(0, len(self.items), self.batch_size):
            yield range(start, min(start + self.batch_size, len(self.items)))


def unit_size(items: int, batch_size: int) -> int:
    """Items per unit: whole batches, at least LEAST_ITEMS, and so many that there are at most MOST_UNITS units."""
    least = max(LEAST_ITEMS, -(-items // MOST_UNITS))
    return -(-least // batch_size) * batch_size


def plan_images(hashes: Sequence[str | None]) -> tuple[list[int], np.ndarray]:
    """Distinct images in order of first appearance: the row of each, and its key (uint8 [n, 16]).

    hashes: the content hash of every row, None where the image cannot be read.
    """
    first: dict[str, int] = {}
    for row, content in enumerate(hashes):
        if content is not None:
            first.setdefault(content, row)
    return list(first.values()), to_keys(first)


def plan_captions(captions: pa.Table) -> tuple[list[str], np.ndarray]:
    """Distinct captions, shortest first so that a batch holds little padding, and their keys (uint8 [n, 16])."""
    texts = dict(zip(captions["content_hash"].to_pylist(), captions["caption"].to_pylist(), strict=True))
    ordered = sorted(texts.items(), key=lambda one: (len(one[1]), one[0]))
    return [text for _, text in ordered], to_keys(content for content, _ in ordered)


def cut(items: Sequence[int] | Sequence[str], keys: np.ndarray, needed: np.ndarray, batch_size: int) -> Iterator[Unit]:
    """The units of a plan in which something is still needed (bool [networks, n])."""
    size = unit_size(len(items), batch_size)
    for start in range(0, len(items), size):
        some = slice(start, start + size)
        if needed[:, some].any():
            yield Unit(items[some], keys[some], needed[:, some], batch_size)
