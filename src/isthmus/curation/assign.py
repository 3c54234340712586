"""Assign the best rows of each concept: rarest concept first, each pair once (freeze-align)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from isthmus.curation.topk import TopK
from isthmus.errors import UsageError


@dataclass(frozen=True)
class Assignment:
    """Chosen rows, concept after concept in the order of choosing, best first within each.

    rows int64 [n], concept int64 [n], score float32 [n], rank int64 [n]: the row's place among the concept's best,
    from 1. order int64 [C]: the concepts, rarest first. reference float32 [C]: the score that ranks a concept; −∞
    if it has too few rows. available int64 [C]: its rows at or above the floor, K at most.
    """

    rows: np.ndarray
    concept: np.ndarray
    score: np.ndarray
    rank: np.ndarray
    order: np.ndarray
    reference: np.ndarray
    available: np.ndarray

    def counts(self) -> np.ndarray:
        """Rows chosen for each concept, int64 [C]."""
        return np.bincount(self.concept, minlength=len(self.order))


def assign(
    top: TopK,
    per_concept: int,
    *,
    floor: float | None = None,
    rank: int | str | None = None,
    units: Callable[[np.ndarray], np.ndarray] | None = None,
    taken: np.ndarray | None = None,
) -> Assignment:
    """Give each concept, rarest first, its best `per_concept` rows that no rarer one has taken.

    Args:
        floor: the least score; None: no limit.
        rank: what a concept is ranked by: its score at this rank, or "mean" over its best rows. None: its K-th best, as
            freeze-align; if the pool has no more than K rows, the `per_concept`-th best instead, as the K-th says
            nothing then.
        units: rows int64 [n] to the pairs they belong to, int64 [n]; default: every row its own.
        taken: bool, by pair: pairs not to choose; chosen pairs are marked in it. Needed with `units`, because it gives
            the number of pairs.

    Ties between concepts go to the earlier one. Raises UsageError for a quota or rank below 1.
    """
    if per_concept < 1:
        raise UsageError(f"per_concept={per_concept}: it is at least 1.")
    seen = sum(stop - start for start, stop in top.covered) - top.missing
    if rank is None:
        rank = top.keep if top.keep < seen else per_concept
    reference = np.array([_reference(top.best(concept)[0], rank) for concept in range(top.concepts)], np.float32)
    order = np.argsort(reference, kind="stable")
    taken = np.zeros(top.covered[-1][1] if top.covered else 0, bool) if taken is None else taken
    available = np.zeros(top.concepts, np.int64)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    for concept in order.tolist():
        score, row = top.best(concept)
        if floor is not None:
            score, row = score[score >= floor], row[score >= floor]
        available[concept] = len(row)
        place = _first_free(row if units is None else units(row), taken, per_concept)
        if len(place):
            taken[row[place] if units is None else units(row[place])] = True
        parts.append((row[place], np.full(len(place), concept), score[place], place + 1))
    rows, concepts, scores, ranks = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Assignment(rows, concepts, scores, ranks, order, reference, available)


def _first_free(pairs: np.ndarray, taken: np.ndarray, quota: int) -> np.ndarray:
    """Positions of the first `quota` pairs that are not taken, each pair once."""
    free = np.flatnonzero(~taken[pairs])
    first = np.sort(np.unique(pairs[free], return_index=True)[1])
    return free[first][:quota]


def _reference(scores: np.ndarray, rank: int | str) -> float:
    if rank == "mean":
        return float(scores.mean()) if len(scores) else -np.inf
    if not isinstance(rank, int) or rank < 1:
        raise UsageError(f"rank={rank!r}: a number from 1 on, or 'mean'.")
    return float(scores[rank - 1]) if len(scores) >= rank else -np.inf
