"""States by rows of pairs: held in memory where they fit, with patches on their grid, else read for each batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from isthmus.data.feature_pairs import SIDES
from isthmus.fusion import SideStates
from isthmus.models.fusion_model import prepare_states
from isthmus.store.states import StatesMatrix
from isthmus.training.fusion.data import LayeredPairs

RESIDENT_BYTES = 1 << 30  # of each side
LARGEST = 65_000  # that half precision holds
READ_AT_ONCE = 64


class StateBatches:
    """States of `data` by number of a picture or a text, on `device`, in float32.

    Equal items (by content) are held once, in half precision, if those of a side take up to 1 GiB; more are
    read as needed, and states that are computed while training are computed anew for every batch.
    """

    def __init__(self, data: LayeredPairs, grid: int, device: torch.device) -> None:
        self.data, self.grid, self.device = data, grid, device
        self._numbers = {side: data.numbers(side) for side in SIDES}
        self._held: dict[str, SideStates] = {}
        self._place: dict[str, Tensor] = {}
        for side in SIDES:
            self._hold(side)

    def take(self, side: str, rows: np.ndarray) -> SideStates:
        """States of these pictures or texts, without padding that none of them needs."""
        if side in self._held:
            index = self._place[side][torch.from_numpy(rows)].to(self.device)
            return self._held[side].take(index).trimmed().ready(self.device)
        return self._read(side, self._numbers[side][rows]).trimmed().ready(self.device)

    def _read(self, side: str, numbers: np.ndarray) -> SideStates:
        source = self.data.source(side)
        return prepare_states(source.records, self.grid, *source.gather(numbers))

    def _hold(self, side: str) -> None:
        """Read the states of every different item once, if they fit."""
        source = self.data.source(side)
        if not isinstance(source, StatesMatrix):
            return
        _, first, place = np.unique(self.data.pairs.items(side), return_index=True, return_inverse=True)
        numbers = self._numbers[side][first]
        longest = int(source.lengths(numbers).max(initial=1))
        begun = self._read(side, numbers[:READ_AT_ONCE])
        tokens = longest if side == SIDES[1] else begun.mask.shape[1]
        held = begun.each(lambda one: _room(one, len(numbers), tokens))
        if sum(one.nbytes for one in _tensors(held)) > RESIDENT_BYTES:
            return
        held = held.each(lambda one: torch.zeros(one.shape, dtype=one.dtype))  # only now the memory is taken
        for start in range(0, len(numbers), READ_AT_ONCE):
            part = self._read(side, numbers[start : start + READ_AT_ONCE])
            if any(float(one.abs().max()) > LARGEST for one in _tensors(part)[:-1]):
                return
            _put(held, part, start)
        self._held[side] = held.each(lambda one: one.to(self.device))
        self._place[side] = torch.from_numpy(place.ravel())


def _tensors(states: SideStates) -> list[Tensor]:
    return [*(states.values if isinstance(states.values, list) else [states.values]), states.mask]


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
