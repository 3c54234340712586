"""From scores to a ranking: order, ties, Pareto front, and how well cheap scores predict the probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from isthmus.metrics.bootstrap import interval

OPERATIONS = "multiply-adds a pair"
LEAST_FAMILIES = 3  # with fewer, a bootstrap shows no meaningful spread


def ranked(scores: Sequence[float]) -> list[int]:
    """Positions from the greatest score to the least; of equal ones the earlier first."""
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def tied_with_first(replicates: Sequence[np.ndarray]) -> list[bool]:
    """Which of the ranked scores tie with the first: those with 0 in the 95 % interval of the difference.

    replicates: each score's values [B] in the same draws, best first. Without draws, only the first ties with itself.
    """
    first = replicates[0]
    return [
        i == 0 or (bool(len(first)) and bool(interval(first - other)[0] <= 0)) for i, other in enumerate(replicates)
    ]


def pareto(quality: Sequence[float], cost: Sequence[float]) -> list[bool]:
    """The Pareto front: items for which no other is at least as good and as cheap, and better in one of both."""
    q, c = np.asarray(quality), np.asarray(cost)
    return [not ((q >= own) & (c <= price) & ((q > own) | (c < price))).any() for own, price in zip(q, c, strict=True)]


def correlation(
    x: Sequence[float],
    y: Sequence[float],
    families: Sequence[Sequence[Any]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Pearson's r and Spearman's ρ of points, with 95 % intervals from a bootstrap over families.

    families: one or more ways to group the points (by image network, by text network); a draw draws from each, and a
    point counts as often as the product says: points of one network are not independent. A grouping of fewer than three
    families is not used; if none remains, there is no interval.

    Returns {"pearson", "pearson_ci95", "spearman", "spearman_ci95", "points", "families"}; None where there are fewer
    than three points, or all are equal.
    """
    a, b = np.asarray(x, float), np.asarray(y, float)
    numbered = [np.unique([str(name) for name in names], return_inverse=True)[1] for names in families]
    sizes = [int(names.max()) + 1 for names in numbered]
    found: dict[str, Any] = {"points": len(a), "families": sizes}
    drawn = [(names, size) for names, size in zip(numbered, sizes, strict=True) if size >= LEAST_FAMILIES]
    values = _both(a, b)
    found |= {"pearson": values[0], "spearman": values[1], "pearson_ci95": None, "spearman_ci95": None}
    if not drawn or values[0] is None:
        return found
    rng = np.random.default_rng(seed)
    replicates = []
    for _ in range(resamples):
        weight = np.ones(len(a), int)
        for names, size in drawn:
            weight *= np.bincount(rng.integers(size, size=size), minlength=size)[names]
        index = np.repeat(np.arange(len(a)), weight)
        replicates.append(_both(a[index], b[index]))
    for place, name in enumerate(("pearson", "spearman")):
        kept = [r[place] for r in replicates if r[place] is not None]
        found[f"{name}_ci95"] = [float(v) for v in interval(np.array(kept))] if len(kept) > resamples / 2 else None
    return found


def _both(a: np.ndarray, b: np.ndarray) -> tuple[float | None, float | None]:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None, None
    from scipy.stats import rankdata

    pearson, spearman = (float(np.corrcoef(*both)[0, 1]) for both in ((a, b), (rankdata(a), rankdata(b))))
    return pearson, spearman


def cost_of(image: Mapping[str, Any], text: Mapping[str, Any]) -> tuple[float, str]:
    """The cost of a pair and its unit: multiply-adds to encode one image and one text, otherwise the sum of widths."""
    counts = [side["cost"]["operations"] for side in (image, text)]
    if None not in counts:
        return float(sum(counts)), OPERATIONS
    return float(image["width"] + text["width"]), "width"
