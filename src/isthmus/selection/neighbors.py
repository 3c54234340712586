"""Mutual k-NN (Huh et al. 2024, arXiv 2405.07987): how far two encoders find the same neighbours."""

from __future__ import annotations

import math

import numpy as np

from isthmus.data.matrix import Matrix, rows
from isthmus.errors import UsageError
from isthmus.metrics.nearest import top_k
from isthmus.selection.cka import check_paired

TILE_CELLS = 2**24


def mutual_knn(x: Matrix, y: Matrix, k: int | None = None) -> float:
    """The mean share of an item's k nearest neighbours (by cosine) that x [n, Dx] and y [n, Dy] have in common.

    k: default ⌈2 n^⅓⌉, the Rice rule. Unrelated features score k / (n − 1) on average.
    Raises `UsageError` for a k that is not in 1 … n − 1, `InputError` for rows of zeros.
    """
    n = check_paired(x, y)
    k = rice(n) if k is None else k
    return float(overlap(neighbors(x, k), neighbors(y, k)).mean())


def rice(n: int) -> int:
    """⌈2 n^⅓⌉: how many neighbours to compare among n items."""
    return max(1, min(n - 1, math.ceil(2 * n ** (1 / 3) - 1e-9)))


def neighbors(matrix: Matrix, k: int) -> np.ndarray:
    """int64 [n, k]: every row's k nearest others by cosine, best first; ties go to the lower row.

    Time n² D, memory n (D + k) and a tile of scores.
    """
    n = matrix.shape[0]
    if not 1 <= k < n:
        raise UsageError(f"k = {k}: {n} items have 1 to {n - 1} neighbours each.")
    features = rows(matrix, slice(0, n))
    found = top_k(features, features, k + 1)[1]
    own = found == np.arange(n)[:, None]
    own[~own.any(axis=1), -1] = True  # more than k duplicates: the row itself is not among the first
    return found[~own].reshape(n, k)


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 [n]: the share of `a`'s neighbours [n, k] that are among `b`'s [n, k], row by row."""
    n, k = a.shape
    common = np.empty(n)
    step = max(1, TILE_CELLS // k**2)
    for start in range(0, n, step):
        tile = slice(start, start + step)
        common[tile] = (a[tile, :, None] == b[tile, None, :]).sum(axis=(1, 2)) / k
    return common


def permuted(neighbors: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The neighbours [n, k] of the items in another order: item i is the former item order[i]."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place[neighbors[order]]
