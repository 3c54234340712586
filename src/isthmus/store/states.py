"""States of layers on disk, read by item: memory-mapped ragged shards behind one `gather`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from isthmus.data.encoder_record import EncoderRecord
from isthmus.errors import InputError, UsageError
from isthmus.store.matrix import Window
from isthmus.store.ragged import RaggedShard
from isthmus.store.shards import AnyShard

SCALED_AT_ONCE = 2048  # tokens of int8: few enough for the cache, enough to keep all threads busy


@dataclass(frozen=True)
class _Layer:
    """The place of each stored item of a layer: block, row in it, and number of tokens (int64 [n])."""

    where: np.ndarray
    block: np.ndarray
    begin: np.ndarray
    length: np.ndarray


class StatesMatrix:
    """States [n, L, T_i, D] on disk: item i belongs to row i of its table, in any order of files. Only `gather` reads,
    and only the given items.

    records: of the layers, in the order of the second axis. layers: their numbers, None the tokens after the final
    norm. rate_hz: tokens per second if tokens follow time, else None.
    """

    def __init__(self, members: Sequence[tuple[list[AnyShard], np.ndarray]], records: Sequence[EncoderRecord]) -> None:
        self.records = list(records)
        self.layers = [record.get("layer") for record in records]
        widths = {record["width"] for record in records}
        if len(widths) > 1:
            raise UsageError(
                f"{self.records[0]['uri']}: layers {self.layers} have different widths {sorted(widths)}: "
                "take those of one width at a time (layers=)."
            )
        self.shape = (len(members[0][1]), len(self.records), widths.pop())
        self._shards: list[RaggedShard] = []
        self._layers = [self._laid_out(shards, where) for shards, where in members]
        rates = {shard.rate_hz for shard in self._shards}
        if len(rates) > 1:
            raise InputError(f"{self.records[0]['uri']}: shards of different rates, {sorted(map(str, rates))} Hz.")
        self.rate_hz = rates.pop() if rates else None

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        count, _, width = self.shape
        return f"StatesMatrix([{count:,} items, layers {self.layers}, {width} wide], {self.records[0]['uri']})"

    def lengths(self, index: Any) -> np.ndarray:
        """Tokens of these items, int64 [n]. Raises as `gather`."""
        return self._places(np.asarray(index, np.int64))[2]

    def gather(self, index: Any, out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """These items, in this order, padded with zeros to the longest: (values [n, L, T, D], mask [n, T] bool).

        out: float16 or float32 [n, L, T, D], contiguous, T at least that of the longest, filled and returned; else
            float32. Values in the type of `out` are copied as they are, those in int8 multiplied by their scale.

        Raises:
            InputError: an item that is not there or has no states, layers of different numbers of tokens (a CNN's: take
                one at a time), an `out` of another shape, or a shard that vanished.
        """
        index = np.asarray(index, np.int64)
        block, begin, length = self._places(index)
        longest = int(length.max(initial=0))
        if out is None:
            out = np.empty((len(index), self.shape[1], longest, self.shape[2]), np.float32)
        tokens = out.shape[2] if out.ndim == 4 else -1
        if out.shape != (len(index), self.shape[1], tokens, self.shape[2]) or tokens < longest:
            raise InputError(
                f"out is {list(out.shape)}, not [{len(index)}, {self.shape[1]}, ≥ {longest}, {self.shape[2]}]."
            )
        if not out.flags.c_contiguous:
            raise InputError("out must be contiguous: np.ascontiguousarray(out).")
        mask = np.arange(tokens) < length[:, None]
        if mask.any():
            self._fill(block, begin, length, torch.from_numpy(out))
        for row in np.flatnonzero(length < tokens):  # faster than by a mask
            out[row, :, length[row] :] = 0
        return out, mask

    def _laid_out(self, shards: Sequence[AnyShard], where: np.ndarray) -> _Layer:
        held = [shard for shard in shards if isinstance(shard, RaggedShard)]
        first = len(self._shards)
        self._shards += held
        empty = [np.empty(0, np.int64)]
        return _Layer(
            where,
            np.repeat(np.arange(first, first + len(held)), [len(shard) for shard in held]),
            np.concatenate([shard.offsets for shard in held] or empty),
            np.concatenate([shard.lengths for shard in held] or empty),
        )

    def _places(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The shard and the first row of each item in each layer (int64 [n, L]), and its tokens (int64 [n])."""
        outside = index[(index < 0) | (index >= len(self))]
        if len(outside):
            raise InputError(f"{self!r}: item {outside[0]} is not there.")
        found = []
        for layer, record in zip(self._layers, self.records, strict=True):
            at = layer.where[index]
            missing = int((at < 0).sum())
            if missing:
                raise InputError(
                    f"states by {record['uri']} are missing for {missing:,} of {len(index):,} items. Run the same "
                    "`isthmus embed` again: it computes only these."
                )
            found.append((layer.block[at], layer.begin[at], layer.length[at]))
        block, begin, length = (np.stack(column, axis=1) for column in zip(*found, strict=True))
        if (length != length[:, :1]).any():
            raise InputError(f"{self!r}: its layers have different numbers of tokens: take one at a time (layers=).")
        return block, begin, length[:, 0]

    def _fill(self, block: np.ndarray, begin: np.ndarray, length: np.ndarray, out: torch.Tensor) -> None:
        """Fill `out` [n, L, T, D] with the items that begin at rows `begin` [n, L] of shards `block` [n, L].

        Each is copied in one piece of T tokens, whatever its length, and the caller clears what follows an item. If a
        shard ends earlier, only the item's own tokens are copied.
        """
        tokens, flat = out.shape[2], out.view(-1, *out.shape[2:])
        block, begin, length = block.ravel(), begin.ravel(), np.repeat(length, out.shape[1])
        held = np.array([shard.values.shape[0] for shard in self._shards])
        fits = begin + tokens <= held[block]
        for members, number, source in self._sources:
            place = number[block]
            whole, cut = np.flatnonzero(members[block] & fits), np.flatnonzero(members[block] & ~fits)
            if len(self._sources) == 1 and len(whole):
                some = np.where(fits, np.arange(len(block)), whole[0])  # items at the end of a shard follow below
                source.gather(place[some], begin[some], flat)
            elif len(whole):
                part = torch.empty(len(whole), *flat.shape[1:], dtype=flat.dtype)
                source.gather(place[whole], begin[whole], part)
                flat[torch.from_numpy(whole)] = part
            item, step = np.nonzero(np.arange(tokens) < length[cut, None])
            if len(item):
                part = torch.empty(len(item), 1, flat.shape[2], dtype=flat.dtype)
                source.gather(place[cut[item]], begin[cut[item]] + step, part)
                flat[torch.from_numpy(cut[item]), torch.from_numpy(step)] = part[:, 0]

    @cached_property
    def _sources(self) -> list[tuple[np.ndarray, np.ndarray, _Source]]:
        """By dtype and alignment: which shards (bool), the position of each among these, and their reader."""
        kinds = [
            (shard.values.dtype, shard.values.offset % shard.values.dtype.itemsize) if shard.values.shape[0] else None
            for shard in self._shards
        ]
        found = []
        for kind in dict.fromkeys(kinds):
            members = np.array([kind is not None and other == kind for other in kinds])
            if members.any():
                source = _Source([self._shards[i] for i in np.flatnonzero(members)])
                found.append((members, np.cumsum(members) - 1, source))
        return found


class _Source:
    """Shards of one dtype, read as one: their values, and the scales of int8."""

    def __init__(self, shards: Sequence[RaggedShard]) -> None:
        self.values = Window([shard.values for shard in shards])
        scales = [shard.scale for shard in shards if shard.scale is not None]
        self.scale = Window(scales) if scales else None

    def gather(self, block: np.ndarray, row: np.ndarray, out: torch.Tensor) -> None:
        """Fill `out` [k, T, D] with T rows of shard `block[i]` each, from row `row[i]` on, which are all there."""
        count, tokens, width = out.shape
        index = self.values.first[block] + row * width
        if self.scale is None:
            self.values.copy(index, out.view(count, tokens * width))
            return
        step = max(1, SCALED_AT_ONCE // tokens)
        factor = self.scale.first[block] + row
        for start in range(0, count, step):
            some = slice(start, start + step)
            whole = torch.empty(len(index[some]), tokens * width, dtype=torch.int8)
            scale = torch.empty(len(index[some]), tokens)
            self.values.copy(index[some], whole)
            self.scale.copy(factor[some], scale)
            out[some].copy_(whole.view(-1, tokens, width).float().mul_(scale[..., None]))


def backbone_uri(uri: str) -> str:
    """An encoder's URI without layer and pool, which the states of all its layers share."""
    name, _, query = uri.partition("?")
    options = [one for one in query.split("&") if one and not one.startswith(("layer=", "pool="))]
    return name + ("?" + "&".join(options) if options else "")
