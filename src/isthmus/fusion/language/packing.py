"""Sequences of different lengths in the rows of one batch: each sees itself alone, packed or padded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from isthmus.fusion.language.prompts import Prompt

IGNORED = -100


@dataclass(frozen=True)
class Packed:
    """ChatPrompts in rows.

    ids: int64 [R, T]. positions: of each token in its own sequence, int64 [R, T]. owner: the sequence of each token,
    -1 for padding, int64 [R, T]. labels: the token that each position is to say, where that belongs to an answer, else
    -100, int64 [R, T]. slots: places of the pictures' tokens in the flattened rows, in order of the sequences, int64.
    """

    ids: Tensor
    positions: Tensor
    owner: Tensor
    labels: Tensor
    slots: Tensor
    branch: Tensor | None = None

    def to(self, device: torch.device) -> Packed:
        """The same on a device."""
        held: dict[str, Any] = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        moved: dict[str, Any] = {name: one if one is None else one.to(device) for name, one in held.items()}
        return Packed(**moved)

    @property
    def mask(self) -> Tensor:
        """Which tokens each token sees, bool [R, 1, T, T]: those before it in its own sequence, and itself."""
        length = self.ids.shape[1]
        same = self.owner[:, :, None] == self.owner[:, None, :]
        if self.branch is not None:
            same = same & ((self.branch[:, None, :] == 0) | (self.branch[:, :, None] == self.branch[:, None, :]))
        return (same & torch.ones(length, length, dtype=torch.bool, device=same.device).tril())[:, None]


def packed(prompts: Sequence[Prompt], room: int, *, padding: int = 0) -> Packed:
    """ChatPrompts in as few rows of `room` tokens (or of the longest) as filling one after the other gives.

    room: 0 for a row for each. padding: the id of what is no token.
    """
    longest = max(map(len, prompts))
    rows = _rows(prompts, max(room, longest)) if room else [[k] for k in range(len(prompts))]
    length = max(sum(len(prompts[k]) for k in row) for row in rows)
    shape = (len(rows), length)
    ids, positions = torch.full(shape, padding), torch.zeros(shape, dtype=torch.int64)
    owner, labels = torch.full(shape, -1), torch.full(shape, IGNORED)
    slots: dict[int, Tensor] = {}
    for place, row in enumerate(rows):
        start = 0
        for k in row:
            one, stop = prompts[k], start + len(prompts[k])
            ids[place, start:stop] = one.ids
            positions[place, start:stop] = torch.arange(len(one))
            owner[place, start:stop] = k
            labels[place, start + one.answer - 1 : stop - 1] = one.ids[one.answer :]
            slots[k] = place * length + start + one.slots.nonzero()[:, 0]
            start = stop
    return Packed(ids, positions, owner, labels, torch.cat([slots[k] for k in range(len(prompts))]))


def left_padded(prompts: Sequence[Prompt], padding: int = 0) -> Packed:
    """Each prompt at the end of a row of its own, to be continued. Without labels."""
    length = max(map(len, prompts))
    ids = torch.stack([F.pad(one.ids, (length - len(one), 0), value=padding) for one in prompts])
    there = torch.stack([F.pad(torch.ones(len(one), dtype=torch.bool), (length - len(one), 0)) for one in prompts])
    owner = torch.where(there, torch.arange(len(prompts))[:, None], -1)
    slots = torch.stack([F.pad(one.slots, (length - len(one), 0)) for one in prompts])
    return Packed(
        ids, (there.cumsum(1) - 1).clamp(min=0), owner, torch.full_like(ids, IGNORED), slots.flatten().nonzero()[:, 0]
    )


def branched(prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], padding: int = 0) -> tuple[Packed, Tensor]:
    """Every prompt once, and all answers behind it, none of which sees another: (rows, labelled, int64 [4, n]).

    labelled: the place in the flattened rows, the token that is to follow there, the prompt, the answer.
    """
    said = torch.tensor([token for answer in answers for token in answer])
    branch = torch.tensor([k for k, answer in enumerate(answers, 1) for _ in answer])
    offset = torch.tensor([step for answer in answers for step in range(len(answer))])
    length = max(map(len, prompts)) + len(said)
    rows: list[tuple[Tensor, ...]] = []
    labelled = []
    for place, one in enumerate(prompts):
        own, more = len(one), length - len(one) - len(said)
        columns = (
            (one.ids, said, padding),
            (torch.arange(own), own + offset, 0),
            (torch.full((own,), place), torch.full_like(said, place), -1),
            (torch.zeros(own, dtype=torch.int64), branch, 0),
        )
        rows.append(tuple(F.pad(torch.cat([a, b]), (0, more), value=value) for a, b, value in columns))
        before = own - 1 + torch.arange(len(said))  # the token before is the one on the left, but for an answer's first
        before = place * length + torch.where(offset == 0, own - 1, before)
        labelled.append(torch.stack([before, said, torch.full_like(said, place), branch - 1]))
    ids, positions, owner, branches = (torch.stack(column) for column in zip(*rows, strict=True))
    slots = torch.cat([place * length + one.slots.nonzero()[:, 0] for place, one in enumerate(prompts)])
    found = Packed(ids, positions, owner, torch.full_like(ids, IGNORED), slots, branches)
    return found, torch.cat(labelled, 1)


def _rows(prompts: Sequence[Prompt], room: int) -> list[list[int]]:
    """The numbers of the prompts of each row: the longest first, each into the first row that has room."""
    rows: list[tuple[list[int], int]] = []
    for k in sorted(range(len(prompts)), key=lambda k: (-len(prompts[k]), k)):
        for place, (row, used) in enumerate(rows):
            if used + len(prompts[k]) <= room:
                rows[place] = ([*row, k], used + len(prompts[k]))
                break
        else:
            rows.append(([k], len(prompts[k])))
    return [row for row, _ in rows]
