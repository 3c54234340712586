"""Sequences of different lengths, concatenated: the states of one layer for some items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LARGEST = 127  # of int8


@dataclass(frozen=True)
class Ragged:
    """n items of T_i tokens each, without padding.

    values: floats [ΣT, D], or int8 with `scale`. offsets: int64 [n], where each item begins; the last ends at ΣT.
    scale: float32 [ΣT], by which a row of int8 is multiplied; None for floats.
    rate_hz: tokens per second where time runs, else None.
    """

    values: np.ndarray
    offsets: np.ndarray
    scale: np.ndarray | None = None
    rate_hz: float | None = None

    @classmethod
    def of(cls, states: np.ndarray, mask: np.ndarray | None = None, rate_hz: float | None = None) -> Ragged:
        """From states [N, T, D] and mask [N, T] bool, True where a token is real (None: all are)."""
        count, tokens, width = states.shape
        if mask is None:
            return cls(states.reshape(-1, width), np.arange(count, dtype=np.int64) * tokens, rate_hz=rate_hz)
        return cls(states[mask], _begins(mask.sum(1)), rate_hz=rate_hz)

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each item, int64 [n]."""
        return lengths(self.offsets, len(self.values))

    @property
    def item_bytes(self) -> np.ndarray:
        """Bytes of each item's values and scales, int64 [n]."""
        row = self.values.shape[1] * self.values.itemsize + (0 if self.scale is None else self.scale.itemsize)
        return self.lengths * row

    def take(self, items: np.ndarray) -> Ragged:
        """These items (int64 [k]), in this order; a run of neighbours is a view."""
        many, first = self.lengths[items], self.offsets[items]
        if len(items) and (np.diff(items) == 1).all():
            tokens: np.ndarray | slice = slice(int(first[0]), int(first[-1] + many[-1]))
        else:
            tokens = np.repeat(first - _begins(many), many) + np.arange(many.sum())
        scale = None if self.scale is None else self.scale[tokens]
        return Ragged(self.values[tokens], _begins(many), scale, self.rate_hz)

    def to_int8(self) -> Ragged:
        """Each token's row as int8 times max |x| / 127: an error of at most half of that."""
        values = self.values.astype(np.float32, copy=False)
        scale = np.abs(values).max(axis=1, initial=0) / np.float32(LARGEST)
        whole = np.rint(values / np.where(scale > 0, scale, 1)[:, None])
        return Ragged(whole.clip(-LARGEST, LARGEST).astype(np.int8), self.offsets, scale, self.rate_hz)


def join_ragged(parts: Sequence[Ragged]) -> Ragged:
    """The items of all parts, concatenated; all have the same type."""
    scales = [part.scale for part in parts if part.scale is not None]
    return Ragged(
        np.concatenate([part.values for part in parts]),
        _begins(np.concatenate([part.lengths for part in parts])),
        np.concatenate(scales) if scales else None,
        parts[0].rate_hz,
    )


def lengths(offsets: np.ndarray, total: int) -> np.ndarray:
    """Tokens of each item, int64 [n], of `total` that begin at `offsets`."""
    return np.diff(offsets, append=np.int64(total))


def _begins(many: np.ndarray) -> np.ndarray:
    """Where each of items of so many tokens begins, int64 [n]."""
    return np.cumsum(many, dtype=np.int64) - many
