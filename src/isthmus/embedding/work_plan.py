"""The plan of work: which items make a unit, and which of them share a forward pass.

A unit is the work of one worker at a time, the content of one shard, and the most that a kill loses. Units and batches
are a function of the pairs, the batch size and the kind of device alone: time, the number of workers and interruptions
do not move boundaries. So the same plan, on the same type of machine with the same number of threads, gives the same
bytes, whichever worker computes a unit (rounding in a matrix product depends on the shape of its batch).

Small units lose little work at a kill; large units make few files. 1,024 items are a minute's work of a small image
encoder on two cores and 2 MiB of 1,024-wide features. Beyond 4 million items units grow instead of multiplying, so that
a store opens quickly: at most 4,096 of them, each cut into shards of 64 MiB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch

from isthmus.store.keys import to_keys

LEAST_ITEMS = 1024
UNIT_BYTES = 256 * 2**20  # bytes of states in float32: they are long, so units with states have fewer items
MOST_UNITS = 4096

# Where no batch size is given. On a CPU the maps of some images stay in the cache: a CNN in float32 loses a tenth by
# 16 and up to half by 32, a ViT in bf16 gains a third by 16. A GPU needs larger batches.
CPU_IMAGES, GPU_IMAGES = 16, 64
BATCH_CHARACTERS = 8192  # tokens of a batch of captions, including padding
MOST_CAPTIONS = 256


@dataclass(frozen=True)
class Unit:
    """Consecutive items of the plan, and where each batch of them ends.

    items: row numbers of images (int64 [n]), or n captions. keys: uint8 [n, 16], what each is stored under.
    needed: bool [networks, n], True if not in the store yet. An item that is not needed keeps its place, so that the
        others stay in their planned batch.
    ends: ascending int64 [batches], the last being n.
    """

    items: Sequence[int] | Sequence[str]
    keys: np.ndarray
    needed: np.ndarray
    ends: np.ndarray

    def batches(self) -> Iterator[range]:
        """The positions in each batch."""
        return (range(start, stop) for start, stop in pairwise([0, *self.ends.tolist()]))


def even_batches(items: int, batch_size: int) -> np.ndarray:
    """Where batches of `batch_size` items end; the last one may be smaller."""
    return np.append(np.arange(batch_size, items, batch_size), [items] * bool(items)).astype(np.int64)


def image_batches(images: int, batch_size: int | None, device: torch.device, held: bool = False) -> np.ndarray:
    """Where the batches of images end, or of other files. held: see `ModalitySpec`."""
    usual = 1 if held else CPU_IMAGES if device.type == "cpu" else GPU_IMAGES
    return even_batches(images, batch_size or usual)


def caption_batches(captions: Sequence[str], batch_size: int | None) -> np.ndarray:
    """Where the batches of captions, shortest first, end: filled by cost, which depends on length."""
    if batch_size:
        return even_batches(len(captions), batch_size)
    ends, start = [], 0
    for position, caption in enumerate(captions):
        many = position - start
        if many and (many == MOST_CAPTIONS or (many + 1) * len(caption) > BATCH_CHARACTERS):
            ends.append(position)
            start = position
    return np.array([*ends, *[len(captions)] * bool(captions)], np.int64)


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


def unit_items(items: int, states: int = 0) -> int:
    """How many of `items` a unit has at least; states: bytes of those of one item, 0 where none are wanted."""
    least = max(LEAST_ITEMS, -(-items // MOST_UNITS))
    return min(least, max(1, UNIT_BYTES // states)) if states else least


def cut(
    items: Sequence[int] | Sequence[str], keys: np.ndarray, needed: np.ndarray, ends: np.ndarray, states: int = 0
) -> Iterator[Unit]:
    """The units of a plan in which something is still needed (bool [networks, n]); `ends` are those of its batches.

    A unit is of whole batches, of at least LEAST_ITEMS items, and of so many that there are at most MOST_UNITS; of
    fewer where it holds `states` bytes of each item.
    """
    least = unit_items(len(items), states)
    start = first = 0
    while start < len(items):
        last = int(np.searchsorted(ends, min(start + least, len(items))))
        some = slice(start, int(ends[last]))
        if needed[:, some].any():
            yield Unit(items[some], keys[some], needed[:, some], ends[first : last + 1] - start)
        start, first = some.stop, last + 1
