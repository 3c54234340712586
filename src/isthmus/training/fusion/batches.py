"""States by rows of pairs: held in memory where they fit, with patches on their grid, else read for each batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isthmus.data.feature_pairs import SIDES
from isthmus.encoders.modality import spec_of
from isthmus.fusion import SideStates
from isthmus.models.fusion_model import prepare_states
from isthmus.store.states import StatesMatrix
from isthmus.training.fusion.data import LayeredPairs, StatesSource

RESIDENT_BYTES = 1 << 30  # of each side
LARGEST = 65_000  # that half precision holds
READ_AT_ONCE = 64


class HeldStates:
    """States of the items of one side, on `device`, in float32, without padding that none of those taken needs.

    Equal items (by content) are held once, in half precision, if they take up to 1 GiB; more are read as needed, and
    states that are computed while training are computed anew for every batch, unless they stay the same.

    numbers: of each item, its row in `source`. items: what is equal, uint64. prepare: of what `source.gather` gives,
    the states as they are taken. longest: the most tokens of an item, for computed states that stay the same.
    """

    def __init__(
        self,
        source: StatesSource,
        numbers: np.ndarray,
        items: np.ndarray,
        prepare: Callable[[Any, Any], SideStates],
        device: torch.device,
        longest: int = 0,
    ) -> None:
        self.source, self.numbers, self.prepare, self.device = source, numbers, prepare, device
        self._held: SideStates | None = None
        self._place = torch.empty(0, dtype=torch.int64)
        if longest or isinstance(source, StatesMatrix):
            self._hold(source, items, longest)

    def take(self, rows: np.ndarray) -> SideStates:
        """States of these items."""
        if self._held is not None:
            index = self._place[torch.from_numpy(rows)].to(self.device)
            return self._held.take(index).trimmed().ready(self.device)
        return self._read(self.numbers[rows]).trimmed().ready(self.device)

    def _read(self, numbers: np.ndarray) -> SideStates:
        return self.prepare(*self.source.gather(numbers))

    def _hold(self, source: StatesSource, items: np.ndarray, tokens: int) -> None:
        """Read the states of every different item once, if they fit."""
        _, first, place = np.unique(items, return_index=True, return_inverse=True)
        numbers = self.numbers[first]
        padded = spec_of(str(source.records[0].get("modality"))).padded
        begun = self._read(numbers[:READ_AT_ONCE])
        if isinstance(source, StatesMatrix):
            tokens = int(source.lengths(numbers).max(initial=1)) if padded else begun.mask.shape[1]
        held = begun.each(lambda one: _room(one, len(numbers), tokens))
        if sum(one.nbytes for one in _tensors(held)) > RESIDENT_BYTES:
            return
        held = held.each(lambda one: torch.zeros(one.shape, dtype=one.dtype))  # only now the memory is taken
        for start in range(0, len(numbers), READ_AT_ONCE):
            part = self._read(numbers[start : start + READ_AT_ONCE])
            if any(float(one.abs().max()) > LARGEST for one in _tensors(part) if one.is_floating_point()):
                return
            _put(held, part, start)
        self._held = held.each(lambda one: one.to(self.device))
        self._place = torch.from_numpy(place.ravel())


class StateBatches:
    """States of both sides of `data` by number of a picture or a text, with patches on a grid; see `HeldStates`."""

    def __init__(self, data: LayeredPairs, grid: int, device: torch.device) -> None:
        def held(side: str) -> HeldStates:
            source = data.source(side)
            prepare = partial(prepare_states, source.records, grid)
            return HeldStates(source, data.numbers(side), data.pairs.items(side), prepare, device)

        self._sides = {side: held(side) for side in SIDES}

    def take(self, side: str, rows: np.ndarray) -> SideStates:
        """States of these pictures or texts."""
        return self._sides[side].take(rows)


def _tensors(states: SideStates) -> list[Tensor]:
    marks = [states.mask] if states.breaks is None else [states.mask, states.breaks]
    return [*(states.values if isinstance(states.values, list) else [states.values]), *marks]


def _room(one: Tensor, count: int, tokens: int) -> Tensor:
    """A tensor of `count` items with so many tokens, of no memory yet, in half precision."""
    axis = max(1, one.ndim - 2)
    shape = [count, *one.shape[1:axis], tokens, *one.shape[axis + 1 :]]
    dtype = torch.float16 if one.is_floating_point() else one.dtype
    return torch.empty(1, dtype=dtype).expand(shape)


def _put(held: SideStates, part: SideStates, start: int) -> None:
    for whole, some in zip(_tensors(held), _tensors(part), strict=True):
        axis = max(1, some.ndim - 2)
        whole[start : start + len(some)].narrow(axis, 0, some.shape[axis]).copy_(some)


def positive_groups(data: LayeredPairs) -> tuple[Tensor, Tensor]:
    """Of each text's picture, and of each text, the group that makes both positives of each other: int64 [M]."""
    pairs = data.pairs
    return torch.from_numpy(pairs.image_group[pairs.image_of]), torch.from_numpy(pairs.text_group)


def scored(answers: list[dict[str, float]], names: list[str]) -> Tensor:
    """Scores float32 [n, answers] of questions; answers that are not among `names` are left out."""
    place = {name: column for column, name in enumerate(names)}
    found = torch.zeros(len(answers), len(names))
    for row, told in enumerate(answers):
        for name, score in told.items():
            if name in place:
                found[row, place[name]] = score
    return found


def learned_answers(data: LayeredPairs, least: int) -> list[str]:
    """The answers of at least so many training questions, the most frequent first."""
    counts: dict[str, int] = {}
    for told in data.answers:
        for name in told:
            counts[name] = counts.get(name, 0) + 1
    names = [name for name, count in counts.items() if count >= least]
    return sorted(names, key=lambda name: (-counts[name], name))
