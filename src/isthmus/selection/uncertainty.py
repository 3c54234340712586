"""Uncertainty of scores: bootstrap draws of groups, shared by all scores, and values under permutation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from isthmus.metrics.bootstrap import interval
from isthmus.metrics.retrieval import Ranks
from isthmus.metrics.scores import group_vector


class Draws:
    """Bootstrap draws of groups with replacement.

    Every score is a function of means over items, and sees the same draws: two scores can be compared draw by draw,
    which says more than whether their intervals overlap.

    groups: ids [n] of near-duplicates, which are drawn together. resamples: how often; 0 for no intervals.
    """

    def __init__(self, groups: np.ndarray, resamples: int = 1000, seed: int = 0) -> None:
        self.groups = group_vector(np.asarray(groups), len(groups), "groups")
        self.count = int(self.groups.max()) + 1
        self.resamples = resamples if self.count > 1 else 0  # one group shows no spread
        self.seed = seed

    @cached_property
    def weights(self) -> np.ndarray:
        """float32 [resamples, groups]: how often each group was drawn."""
        rng = np.random.default_rng(self.seed)
        drawn = np.empty((self.resamples, self.count), np.float32)
        for row in drawn:
            row[:] = np.bincount(rng.integers(self.count, size=self.count), minlength=self.count)
        return drawn

    def means(self, values: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
        """float64 [resamples]: the mean of `values` [m] in every draw; `groups` [m] default those of the items."""
        groups = self.groups if groups is None else groups
        centre = values.mean()  # so that float32 sums of the rest are exact enough
        sums, counts = (
            np.bincount(groups, weights, self.count).astype(np.float32)
            for weights in (values - centre, np.ones(len(values)))
        )
        return centre + (self.weights @ sums).astype(np.float64) / np.maximum(self.weights @ counts, 1)

    def recall(self, found: Sequence[Ranks], k: int) -> tuple[float, np.ndarray]:
        """Recall@k, the mean of both directions, and its value in every draw.

        found: ranks by one or several seeds of a trained probe; a draw also draws among the seeds.
        """
        units = found[0].units(self.groups)
        hits = [np.stack([one.hits(k)[side] for one in found]).astype(np.float64) for side in (0, 1)]
        value = float(np.mean([side.mean() for side in hits]))
        if not self.resamples:
            return value, np.empty(0)
        by_seed = [
            np.mean([self.means(side[seed], unit) for side, unit in zip(hits, units, strict=True)], axis=0)
            for seed in range(len(found))
        ]
        chosen = np.random.default_rng([self.seed, 1]).integers(len(found), size=(self.resamples, len(found)))
        return value, np.stack(by_seed)[chosen, np.arange(self.resamples)[:, None]].mean(axis=1)


def ci95(replicates: np.ndarray) -> list[float] | None:
    """The percentile interval of a score's values in all draws; None without draws."""
    return [float(bound) for bound in interval(replicates)] if len(replicates) else None


def permutation_null(
    score: Callable[[np.ndarray], float], n: int, permutations: int = 20, seed: int = 0
) -> dict[str, float]:
    """Mean and standard deviation of `score(order)` over random orders of n items."""
    rng = np.random.default_rng(seed)
    found = np.array([score(rng.permutation(n)) for _ in range(permutations)])
    return {"mean": float(found.mean()), "sd": float(found.std(ddof=1)) if permutations > 1 else 0.0}


def chance_recall(found: Ranks, k: int) -> float:
    """Recall@k, the mean of both directions, of a random order of the candidates; without ties."""
    n, captions = found.images, np.bincount(np.unique(found.image_of, return_inverse=True)[1])
    miss = np.ones(len(captions))
    m = len(found.image_of)
    for place in range(min(k, m)):
        miss *= np.maximum(m - captions - place, 0) / (m - place)
    return float((min(1.0, k / n) + (1 - miss).mean()) / 2)
