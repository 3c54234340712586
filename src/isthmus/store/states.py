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
from isthmus.store.matrix import CONVERTED_AT_ONCE, Window
from isthmus.store.ragged import RaggedShard
from isthmus.store.shards import AnyShard


@dataclass(frozen=True)
class _Layer:
    """Where each stored item of a layer lies: in which block, at which of its rows, how many tokens (int64 [n])."""

    where: np.ndarray
    block: np.ndarray
    begin: np.ndarray
    length: np.ndarray


class StatesMatrix:
    """States [n, L, T_i, D] on disk: item i belongs to row i of the table that it was taken for, whatever the order of
    the files. Nothing is read before `gather`, and then only the items asked for.

    records: of the layers, in the order of the second axis. layers: their numbers, None the tokens after the final
    norm. rate_hz: tokens per second where time runs, else None.
    """

    def __init__(self, members: Sequence[tuple[list[AnyShard], np.ndarray]], records: Sequence[EncoderRecord]) -> None:
        self.records = list(records)
        self.layers = [record.get("layer") for record in records]
        widths = {record["width"] for record in records}
        if len(widths) > 1:
            raise UsageError(
                f"{self.records[0]['uri']}: layers {self.layers} have different widths {sorted(widths)}: "
                "ask for those of one width at a time (layers=)."
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
            InputError: an item that is not there or has no states, layers of different numbers of tokens (a CNN's:
                ask for one at a time), an `out` of another shape, or a shard that vanished.
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
        steps = np.arange(tokens)
        mask = steps < length[:, None]
        if mask.any():
            full = mask.all()
            rows = begin[..., None] + (steps if full else np.where(mask, steps, 0)[:, None])
            self._fill(block, rows, torch.from_numpy(out))
            if not full:
                np.moveaxis(out, 1, 2)[~mask] = 0
        else:
            out[...] = 0
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
            raise InputError(f"{self!r}: its layers have different numbers of tokens: ask for one at a time (layers=).")
        return block, begin, length[:, 0]

    def _fill(self, block: np.ndarray, rows: np.ndarray, out: torch.Tensor) -> None:
        """Fill `out` [n, L, T, D] with rows `rows` [n, L, T] of shards `block` [n, L].

        An item without tokens may lie at the end of its shard: it is read from the first row that there is.
        """
        flat = out.view(-1, out.shape[-1])
        for members, number, source in self._sources:
            mine = members[block]
            place = np.where(mine, number[block], 0)[..., None]
            held = np.array([self._shards[i].values.shape[0] for i in np.flatnonzero(members)])
            row = np.where(mine[..., None], np.minimum(rows, held[place] - 1), 0)
            place = np.broadcast_to(place, rows.shape)
            if len(self._sources) == 1:
                source.gather(place.ravel(), row.ravel(), flat)
            elif mine.any():
                chosen = np.flatnonzero(np.broadcast_to(mine[..., None], rows.shape))
                part = torch.empty(len(chosen), flat.shape[1], dtype=flat.dtype)
                source.gather(place.ravel()[chosen], row.ravel()[chosen], part)
                flat[torch.from_numpy(chosen)] = part

    @cached_property
    def _sources(self) -> list[tuple[np.ndarray, np.ndarray, _Source]]:
        """By dtype and alignment: which shards (bool), the place of each among these, and what reads them."""
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
    """Shards of one dtype as one: their values, and the scales of int8."""

    def __init__(self, shards: Sequence[RaggedShard]) -> None:
        self.values = Window([shard.values for shard in shards])
        scales = [shard.scale for shard in shards if shard.scale is not None]
        self.scale = Window(scales) if scales else None

    def gather(self, block: np.ndarray, row: np.ndarray, out: torch.Tensor) -> None:
        """Fill `out` [k, D] with row `row[i]` of shard `block[i]`."""
        index = torch.from_numpy(self.values.first[block] + row * self.values.width)
        if self.scale is None:
            self.values.copy(index, out)
            return
        factor = torch.from_numpy(self.scale.first[block] + row)
        pieces = (column.split(CONVERTED_AT_ONCE) for column in (index, factor, out))
        for some, factors, part in zip(*pieces, strict=True):
            part.copy_(self.values.rows.index_select(0, some))
            part.mul_(self.scale.rows.index_select(0, factors))


def backbone_uri(uri: str) -> str:
    """An encoder's URI without its layer and pool: what the states of all its layers have in common."""
    name, _, query = uri.partition("?")
    options = [one for one in query.split("&") if one and not one.startswith(("layer=", "pool="))]
    return name + ("?" + "&".join(options) if options else "")
