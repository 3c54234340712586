"""States of layers on disk, read by item: memory-mapped ragged shards behind one `gather`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from isthmus.data.encoder_record import EncoderRecord
from isthmus.data.matrix import Chosen, Matrix, OnDemand
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

    Where layers differ in width or in an item's number of tokens (stages of a CNN), they are a list of L, each
    [n, T_i, D_l], as `isthmus.encoders.States` has them.

    records: of the layers, in the order of the second axis. layers: their numbers, None the tokens after the final
    norm. widths: D of each. uniform: whether all are alike. rate_hz: tokens per second if time runs, else None.
    """

    def __init__(self, members: Sequence[tuple[list[AnyShard], np.ndarray]], records: Sequence[EncoderRecord]) -> None:
        self.records = list(records)
        self.layers = [record.get("layer") for record in records]
        self.widths: list[int] = [record["width"] for record in records]
        self._members, self._count = list(members), len(members[0][1])
        self._shards: list[RaggedShard] = []
        self._layers = [self._laid_out(shards, where) for shards, where in members]
        rates = {shard.rate_hz for shard in self._shards}
        if len(rates) > 1:
            raise InputError(f"{self.records[0]['uri']}: shards of different rates, {sorted(map(str, rates))} Hz.")
        self.rate_hz = rates.pop() if rates else None
        self.uniform = len(set(self.widths)) == 1 and self._same_lengths()

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        width = self.widths[0] if self.uniform else self.widths
        return f"StatesMatrix([{len(self):,} items, layers {self.layers}, {width} wide], {self.records[0]['uri']})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, L, D). Raises `UsageError` for layers that are not alike, of which each has its own: see `widths`."""
        if not self.uniform:
            raise UsageError(f"{self!r}: its layers differ in width or number of tokens: see widths and lengths.")
        return len(self), len(self.records), self.widths[0]

    def lengths(self, index: Any) -> np.ndarray:
        """Tokens of these items, int64 [n], or of each layer [n, L] where they are not alike. Raises as `gather`."""
        found = self._places(np.asarray(index, np.int64))[2]
        return found[:, 0] if self.uniform else found

    def gather(self, index: Any, out: Any = None) -> tuple[Any, Any]:
        """These items, in this order, padded with zeros to the longest: (values [n, L, T, D], mask [n, T] bool).

        Where layers are not alike: (a list of L values [n, T_l, D_l], a list of L masks [n, T_l]), and so `out`.

        out: float16 or float32 [n, L, T, D], contiguous, T at least that of the longest, filled and returned; else
            float32. Values in the type of `out` are copied as they are, those in int8 multiplied by their scale.

        Raises:
            InputError: an item that is not there or has no states, an `out` of another shape, or a shard that vanished.
        """
        index = np.asarray(index, np.int64)
        if not self.uniform:
            return self._gather_each(index, out)
        block, begin, lengths = self._places(index)
        length = lengths[:, 0]
        longest, (_, layers, width) = int(length.max(initial=0)), self.shape
        if out is None:
            out = np.empty((len(index), layers, longest, width), np.float32)
        tokens = out.shape[2] if out.ndim == 4 else -1
        if out.shape != (len(index), layers, tokens, width) or tokens < longest:
            raise InputError(f"out is {list(out.shape)}, not [{len(index)}, {layers}, ≥ {longest}, {width}].")
        if not out.flags.c_contiguous:
            raise InputError("out must be contiguous: np.ascontiguousarray(out).")
        mask = np.arange(tokens) < length[:, None]
        if mask.any():
            self._fill(block, begin, mask, torch.from_numpy(out))
        else:
            out[...] = 0
        return out, mask

    def _gather_each(self, index: np.ndarray, out: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Layer by layer, as each stands alone."""
        if out is not None and (not isinstance(out, list | tuple) or len(out) != len(self.records)):
            raise InputError(f"out must be a list of {len(self.records)} arrays: {self!r} has layers that differ.")
        given = [None if out is None else out[k][:, None] for k in range(len(self.records))]
        found = [one.gather(index, buffer) for one, buffer in zip(self._each, given, strict=True)]
        return [values[:, 0] for values, _ in found], [mask for _, mask in found]

    @cached_property
    def _each(self) -> list[StatesMatrix]:
        """Every layer by itself."""
        both = zip(self._members, self.records, strict=True)
        return [StatesMatrix([member], [record]) for member, record in both]

    def _same_lengths(self) -> bool:
        """Whether every item has as many tokens in all layers (that it has states of)."""
        first, *others = self._layers
        for layer in others:
            there = np.flatnonzero((first.where >= 0) & (layer.where >= 0))
            if not np.array_equal(first.length[first.where[there]], layer.length[layer.where[there]]):
                return False
        return True

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
        """The shard, the first row and the tokens of each item in each layer, int64 [n, L] each."""
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
        return block, begin, length

    def _fill(self, block: np.ndarray, begin: np.ndarray, mask: np.ndarray, out: torch.Tensor) -> None:
        """Fill `out` [n, L, T, D] with the items that begin at rows `begin` [n, L] of shards `block` [n, L].

        Items that fill all of T are copied in one piece each; else token by token, those beyond an item from a row of
        zeros: to clear them afterwards would take as long again.
        """
        flat, real = out.view(-1, *out.shape[2:]), None
        block, begin = block.ravel(), begin.ravel()
        if not mask.all():
            step, flat = np.arange(out.shape[2]), out.view(-1, 1, out.shape[3])
            real = np.repeat(mask, out.shape[1], axis=0).ravel()
            block, begin = np.repeat(block, len(step)), (begin[:, None] + step).ravel()
        if len(self._sources) > 1 and real is not None:
            out.zero_()  # what belongs to an empty shard is of no source
        for members, number, source in self._sources:
            if len(self._sources) == 1:
                source.gather(number[block], begin, flat, real)
            elif len(mine := np.flatnonzero(members[block])):
                part = torch.empty(len(mine), *flat.shape[1:], dtype=flat.dtype)
                source.gather(number[block[mine]], begin[mine], part, None if real is None else real[mine])
                flat[torch.from_numpy(mine)] = part

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


class NumberedRows(OnDemand):
    """In place of features, the numbers of rows, of states or of a table without any: a matrix [n, 1], for `join`."""

    def __init__(self, states: StatesMatrix | None, count: int) -> None:
        self.records, self.parts, self.shape = [] if states is None else states.records, [1], (count, 1)

    def gather(self, index: np.ndarray) -> np.ndarray:
        return np.asarray(index, np.float32)[:, None]


def rows_of(matrix: Matrix) -> np.ndarray:
    """The numbers, int64 [n], in `NumberedRows` or some of them."""
    if isinstance(matrix, Chosen):
        return np.asarray(matrix.index, np.int64)
    return np.arange(matrix.shape[0]) if isinstance(matrix, NumberedRows) else np.asarray(matrix[:, 0], np.int64)


class _Source:
    """Shards of one dtype, read as one: their values, and the scales of int8."""

    def __init__(self, shards: Sequence[RaggedShard]) -> None:
        self.values = Window([shard.values for shard in shards])
        scales = [shard.scale for shard in shards if shard.scale is not None]
        self.scale = Window(scales) if scales else None

    def gather(self, block: np.ndarray, row: np.ndarray, out: torch.Tensor, real: np.ndarray | None = None) -> None:
        """Fill `out` [k, T, D] with T rows of shard `block[i]` each, from row `row[i]` on, which are all there.

        real: bool [k]; with zeros where it is not.
        """
        count, tokens, width = out.shape
        index = self.values.first[block] + row * width
        if real is not None:
            index = np.where(real, index, self.values.zeros)
        if self.scale is None:
            self.values.copy(index, out.view(count, tokens * width))
            return
        step = max(1, SCALED_AT_ONCE // tokens)
        factor = self.scale.first[block] + row
        if real is not None:
            factor = np.where(real, factor, self.scale.zeros)
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
