"""Intervals by a bootstrap over groups: near-duplicates are drawn together, as single draws would make it too narrow.

How often intervals contain the true value, by size and kind: docs/intervals.md, from benchmarks/coverage_study.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from isthmus.errors import InputError
from isthmus.metrics.scores import group_vector

Statistic = Callable[[np.ndarray], np.ndarray]  # weights of the groups [G] -> values [M]


def replicates(statistic: Statistic, groups: int, resamples: int, seed: int) -> np.ndarray:
    """`statistic` on `resamples` draws of `groups` groups with replacement: float64 [resamples, M].

    A draw is given as integer weights [G], how often each group was drawn: no data are copied, and ratios of weighted
    sums are right for groups of different sizes.
    """
    rng = np.random.default_rng(seed)
    draws = (np.bincount(rng.integers(groups, size=groups), minlength=groups) for _ in range(resamples))
    return np.stack([statistic(weights) for weights in draws])


def interval(values: np.ndarray, level: float = 0.95) -> np.ndarray:
    """Percentile interval [2, M] of replicates [B, M]."""
    return np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)


def share_interval(share: float, drawn: np.ndarray, groups: int) -> list[float] | None:
    """95 % interval of a share (or a mean of shares, such as an IoU): Wilson's (1927) for as many independent answers
    as would vary like the replicates `drawn` [B], with Student's t for the normal's quantile.

    If no group is right, or all are, all replicates are equal: the interval is the exact one of so many answers
    (Clopper and Pearson 1934). None for a single group that is neither.
    """
    reach = 1 - 0.025 ** (1 / groups)
    if share <= 0 or share >= 1:
        return [0.0, reach] if share <= 0 else [1 - reach, 1.0]
    if groups < 2:
        return None
    variance = float(np.nanvar(drawn)) * groups / (groups - 1)
    size = share * (1 - share) / variance if variance > 0 else groups
    t = _t(groups)
    middle = (share + t * t / (2 * size)) / (1 + t * t / size)
    half = t / (1 + t * t / size) * math.sqrt(share * (1 - share) / size + (t / (2 * size)) ** 2)
    return [middle - half, middle + half]


def wide_interval(drawn: np.ndarray, groups: int) -> list[float]:
    """95 % interval of any other statistic: percentiles of the replicates [B], wider for few groups as Student's t is
    than the normal (Hesterberg 2015, "expanded percentile").
    """
    from scipy.special import ndtr

    tail = float(ndtr(-_t(groups) * math.sqrt(groups / (groups - 1))))
    return [float(bound) for bound in np.nanquantile(drawn, [tail, 1 - tail])]


def _t(groups: int) -> float:
    """The 97.5 % quantile of Student's t for so many groups."""
    from scipy.special import stdtrit

    return float(stdtrit(groups - 1, 0.975))


def estimate(
    statistic: Statistic,
    names: Sequence[str],
    groups: int,
    resamples: int,
    seed: int,
    *,
    shares: Collection[str] = (),
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The named values on the data as they are, and their 95 % intervals: `share_interval` for those among `shares`,
    `wide_interval` for the others.

    There are no intervals ({}) without resamples, or with a single group.
    """
    found = statistic(np.ones(groups, dtype=np.int64))
    values = dict(zip(names, found.tolist(), strict=True))
    if resamples < 1 or groups < 2:
        return values, {}
    drawn = replicates(statistic, groups, resamples, seed)
    ci95 = {}
    for i, (name, value) in enumerate(values.items()):
        bounds = share_interval(value, drawn[:, i], groups) if name in shares else wide_interval(drawn[:, i], groups)
        ci95[name] = [float(bound) for bound in bounds or []]
    return values, ci95


def weighted_median(sorted_values: np.ndarray, weights: np.ndarray) -> float:
    """`np.median(np.repeat(sorted_values, weights))` for integer weights, without the repeat."""
    mass = np.cumsum(weights)
    middle = [np.searchsorted(mass, mass[-1] / 2, side) for side in ("left", "right")]
    return float(sorted_values[middle].mean())


def paired_bootstrap(
    a: np.ndarray | Sequence[np.ndarray],
    b: np.ndarray | Sequence[np.ndarray],
    groups: np.ndarray | Sequence[np.ndarray] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare system `a` with `b` on the same queries and the same draws of groups.

    a, b: a value for each query [q] (a hit 0/1, a rank, …). A list of arrays, one per direction, compares the
    mean of the directions' means, as `mean_recall@k` does. `groups` has the same shape as `a`; the ids of all
    directions are one set. Without it every query is its own group, which is right for one array only.

    Returns {"difference": mean of a − mean of b, "ci95": [low, high] (Student's t with the bootstrap's standard error)
    or None with a single group, "n": {"queries", "groups"}, "seed"}. Raises InputError where the arrays do not match.
    """
    parts_a, parts_b = _parts(a), _parts(b)
    if [part.shape for part in parts_a] != [part.shape for part in parts_b]:
        raise InputError(f"a and b answer different queries: {_sizes(parts_a)} and {_sizes(parts_b)} values.")
    if groups is None and len(parts_a) > 1:
        raise InputError("Several directions share their images: give `groups`, one array per direction.")
    ids = _parts(np.arange(len(parts_a[0])) if groups is None else groups)
    if [part.shape for part in ids] != [part.shape for part in parts_a]:
        raise InputError(f"groups: expected {_sizes(parts_a)} ids, as many as queries, got {_sizes(ids)}.")
    joined = group_vector(np.concatenate(ids), sum(map(len, ids)), "groups")
    units = np.split(joined, np.cumsum([len(part) for part in parts_a])[:-1])
    gains = [x.astype(np.float64) - y.astype(np.float64) for x, y in zip(parts_a, parts_b, strict=True)]

    def mean_gain(weights: np.ndarray) -> np.ndarray:
        means = [np.average(gain, weights=weights[unit]) for gain, unit in zip(gains, units, strict=True)]
        return np.array([np.mean(means)])

    count = int(joined.max()) + 1
    difference = float(mean_gain(np.ones(count, dtype=np.int64))[0])
    ci95 = None
    if resamples > 0 and count > 1:
        error = replicates(mean_gain, count, resamples, seed).std() * math.sqrt(count / (count - 1))
        ci95 = [difference - _t(count) * float(error), difference + _t(count) * float(error)]
    return {
        "difference": difference,
        "ci95": ci95,
        "n": {"queries": len(joined), "groups": count},
        "seed": seed,
    }


def _parts(values: np.ndarray | Sequence[np.ndarray]) -> list[np.ndarray]:
    arrays = [values] if isinstance(values, np.ndarray) else [np.asarray(part) for part in values]
    if not arrays or any(array.ndim != 1 or not len(array) for array in arrays):
        raise InputError("Each query has one value: give an array [q], or a list of arrays, one per direction.")
    return arrays


def _sizes(parts: list[np.ndarray]) -> str:
    return " + ".join(str(len(part)) for part in parts)
