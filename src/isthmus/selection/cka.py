"""Centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414) without a matrix of n × n.

CKA(X, Y) = HSIC(X, Y) / √(HSIC(X, X) · HSIC(Y, Y)), with one of two estimators of HSIC:

- biased (Gretton et al. 2005), as freeze-align (arXiv 2409.19425) computes it. Unrelated features score above zero;
  more so, the wider they are and the fewer items there are: see `gaussian_floor`.
- unbiased (Song et al. 2012): around zero for unrelated features of any width.

The linear kernel needs only the moments of the features, d × d; the Gaussian kernel is computed in tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from isthmus.data.matrix import Matrix, evenly, rows
from isthmus.errors import InputError
from isthmus.metrics.scores import tiles
from isthmus.projectors.closed_form import squares

TILE_ROWS = 4096
TILE_CELLS = 2**22  # kernel values held at once
LEAST = 4  # the unbiased estimator divides by n - 3
MEDIAN_ROWS = 2000  # rows whose distances give the bandwidth


def linear_cka(x: Matrix, y: Matrix, *, unbiased: bool = True) -> float:
    """Linear CKA of features x [n, Dx] and y [n, Dy], where row i of x belongs to row i of y.

    Two passes over the features, in float64; memory Dx × Dx + Dy × Dy + Dx × Dy, independent of n. With
    M = XᵀY of centred features, k_i = ‖x_i‖² and l_i = ‖y_i‖², the biased HSIC is ‖M‖² / n² and the unbiased
    (‖M‖² − Σ k_i l_i + Σ k_i Σ l_i / ((n−1)(n−2)) − 2 Σ k_i l_i / (n−2)) / (n(n−3)).

    Raises `InputError` for fewer than 4 rows, different numbers of rows, or features that are constant.
    """
    n = check_paired(x, y)
    centre_x, centre_y = column_mean(x), column_mean(y)
    moments = [Moments(np.zeros((a, b))) for a, b in squares(x.shape[1], y.shape[1])]
    for tile in tiles(n, 1, TILE_ROWS):
        both = rows(x, tile) - centre_x, rows(y, tile) - centre_y
        for moment, (a, b) in zip(moments, squares(*both), strict=True):
            moment.add(a, b)
    xx, yy, xy = (moment.hsic(n, unbiased) for moment in moments)
    _check_varied(xx, "x", centre_x)
    _check_varied(yy, "y", centre_y)
    return xy / math.sqrt(xx * yy)


def rbf_cka(x: Matrix, y: Matrix, *, unbiased: bool = True) -> float:
    """CKA with Gaussian kernels exp(−‖a − b‖² / 2σ²), σ² the median squared distance between distinct rows.

    Time n²(Dx + Dy), memory n(Dx + Dy) and a tile of the kernels. Errors as `linear_cka`.
    """
    check_paired(x, y)
    return cka(RBFKernel(x), RBFKernel(y), unbiased=unbiased)


def gaussian_floor(n: int, width_x: int, width_y: int) -> float:
    """The biased linear CKA of n pairs of independent standard Gaussians of these widths.

    The ratio of expectations: E‖XᵀY‖² = νpq and E‖XᵀX‖² = νp(ν + p + 1) with ν = n − 1 (a Wishart moment).
    """
    p, q, nu = width_x, width_y, n - 1
    return math.sqrt(p * q / ((nu + p + 1) * (nu + q + 1)))


def null_deviation(n: int) -> float:
    """The standard deviation of unbiased CKA when pairs are permuted; its mean is zero.

    Exact, for any features and any kernel: with U-centred matrices A and B (zero diagonal, zero row sums) the
    products of a random permutation have variance 2 ‖A‖² ‖B‖² / (n(n−3)), and CKA divides by ‖A‖ ‖B‖.
    """
    return math.sqrt(2 / (n * (n - 3)))


def null_mean(a: Kernel, b: Kernel, *, unbiased: bool = True) -> float:
    """The mean of CKA when pairs are permuted: tr A tr B / ((n − 1) ‖A‖ ‖B‖) of centred kernels, or zero."""
    if unbiased:
        return 0.0
    ratios = [k.trace() / math.sqrt(k.own(False).mean()) / k.n for k in (a, b)]
    return ratios[0] * ratios[1] / (a.n - 1)


# --- each item's share ----------------------------------------------------------------------------------------


class Kernel:
    """What `contributions` needs of a kernel matrix K of n items, which is never in memory as a whole.

    n: items. diagonal [n]: K_ii. row_sums [n]: Σ_j K_ij.
    """

    n: int
    diagonal: np.ndarray
    row_sums: np.ndarray

    def __init__(self) -> None:
        self._own: dict[bool, np.ndarray] = {}

    def products(self, other: Kernel, q: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[n] each: Σ_j K_ij L_ij, Σ_j K_ij q_j and Σ_j L_ij r_j, L being the other's matrix."""
        raise NotImplementedError

    def own(self, unbiased: bool) -> np.ndarray:
        """`contributions` of this kernel with itself."""
        if unbiased not in self._own:
            self._own[unbiased] = contributions(self, self, unbiased=unbiased)
        return self._own[unbiased]

    def trace(self) -> float:
        """Of the centred matrix."""
        return float(self.diagonal.sum() - self.row_sums.sum() / self.n)


def contributions(a: Kernel, b: Kernel, *, unbiased: bool = True) -> np.ndarray:
    """float64 [n] whose mean is HSIC(a, b): row i of the product of both centred matrices, summed.

    Twice their deviations from the mean are HSIC's influence function.
    """
    n, off = a.n, float(unbiased)  # the unbiased estimator leaves out the diagonal
    shrink, back = (1 / (n - 2), 1 / ((n - 1) * (n - 2))) if unbiased else (1 / n, 1 / n**2)
    r, q = a.row_sums - off * a.diagonal, b.row_sums - off * b.diagonal
    kl, kq, lr = a.products(b, q, r)
    kl, kq, lr = kl - off * a.diagonal * b.diagonal, kq - off * a.diagonal * q, lr - off * b.diagonal * r
    total = back * q.sum()
    others, others_product = r.sum() - off * r, (r * q).sum() - off * r * q
    # Rows of b's centred matrix sum to zero: of a's, only what varies along the row counts, K_ij − shrink · r_j.
    from_k = kl - shrink * (q * r + kq) + total * r
    from_r = lr - shrink * (q * others + others_product) + total * others
    return (from_k - shrink * from_r) / (n - 3 if unbiased else n)


def cka(a: Kernel, b: Kernel, *, unbiased: bool = True) -> float:
    """CKA of two kernels of one kind, over the same items."""
    return cka_influence(a, b, unbiased=unbiased)[0]


def cka_influence(a: Kernel, b: Kernel, *, unbiased: bool = True) -> tuple[float, np.ndarray]:
    """CKA, and how much each item changes it: float64 [n] of mean 0, the influence function.

    To first order, CKA of resampled items is CKA plus the mean of their influences. Resampling the items themselves
    would be wrong: an item that is drawn twice is most similar to itself in both encoders.
    """
    xy, xx, yy = contributions(a, b, unbiased=unbiased), a.own(unbiased), b.own(unbiased)
    size = math.sqrt(xx.mean() * yy.mean())
    value = float(xy.mean()) / size
    return value, 2 * xy / size - value * (xx / xx.mean() + yy / yy.mean())


class LinearKernel(Kernel):
    """K = XXᵀ of centred features [n, D], computed from moments: memory D × D and a few numbers per item."""

    def __init__(self, matrix: Matrix) -> None:
        super().__init__()
        self.matrix, self.n = matrix, _long_enough(matrix)
        self.mean = column_mean(matrix)
        self.diagonal = np.concatenate([np.einsum("nd,nd->n", x, x) for _, x in self.tiles()])
        self.row_sums = np.zeros(self.n)
        _check_varied(float(self.diagonal.mean()), "features", self.mean)

    def tiles(self) -> Iterator[tuple[slice, np.ndarray]]:
        for tile in tiles(self.n, 1, TILE_ROWS):
            yield tile, rows(self.matrix, tile) - self.mean

    def products(self, other: Kernel, q: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert isinstance(other, LinearKernel)
        cross, xq, yr = 0.0, 0.0, 0.0
        for (tile, x), (_, y) in zip(self.tiles(), other.tiles(), strict=True):
            cross, xq, yr = cross + x.T @ y, xq + q[tile] @ x, yr + r[tile] @ y
        parts = [
            (np.einsum("nd,nd->n", x @ cross, y), x @ xq, y @ yr)
            for (_, x), (_, y) in zip(self.tiles(), other.tiles(), strict=True)
        ]
        kl, kq, lr = (np.concatenate(part) for part in zip(*parts, strict=True))
        return kl, kq, lr


class RBFKernel(Kernel):
    """K_ij = exp(−‖x_i − x_j‖² / 2σ²), in tiles; `bandwidth` σ² as in `rbf_cka`. Distances in float32."""

    def __init__(self, matrix: Matrix, bandwidth: float | None = None) -> None:
        super().__init__()
        self.n = _long_enough(matrix)
        mean = column_mean(matrix)
        x = (rows(matrix, slice(0, self.n)) - mean).astype(np.float32)
        _check_varied(float(np.einsum("nd,nd->", x, x, dtype=np.float64)) / self.n, "features", mean)
        self.x, self.squares = x, np.einsum("nd,nd->n", x, x)
        self.bandwidth = bandwidth or self._median()
        self.diagonal = np.ones(self.n)
        self.row_sums = np.concatenate([kernel.sum(axis=1, dtype=np.float64) for _, kernel in self.tiles()])

    def tiles(self) -> Iterator[tuple[slice, np.ndarray]]:
        for tile in tiles(self.n, 1, max(1, TILE_CELLS // self.n)):
            yield tile, np.exp(self._distances(tile) / np.float32(-2 * self.bandwidth))

    def products(self, other: Kernel, q: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert isinstance(other, RBFKernel)
        parts = [
            (np.einsum("ij,ij->i", own, theirs, dtype=np.float64), own @ q, theirs @ r)
            for (_, own), (_, theirs) in zip(self.tiles(), other.tiles(), strict=True)
        ]
        kl, kq, lr = (np.concatenate(part) for part in zip(*parts, strict=True))
        return kl, kq, lr

    def _distances(self, tile: slice) -> np.ndarray:
        """Squared distances [tile, n], exactly zero on the diagonal."""
        found = self.squares[tile, None] + self.squares - 2 * self.x[tile] @ self.x.T
        found[np.arange(found.shape[0]), np.arange(self.n)[tile]] = 0
        return np.maximum(found, 0, out=found)

    def _median(self) -> float:
        """Of squared distances that are not zero, among at most 2,000 evenly spaced rows."""
        some = evenly(self.n, MEDIAN_ROWS)
        x, squares = self.x[some], self.squares[some]
        found = (squares[:, None] + squares - 2 * x @ x.T)[np.triu_indices(len(some), 1)]
        return float(np.median(found[found > 1e-6 * squares.mean()]))


# --- moments and checks ---------------------------------------------------------------------------------------


@dataclass
class Moments:
    """Sums over centred rows x_i, y_i: XᵀY [Dx, Dy], Σ k_i l_i, Σ k_i and Σ l_i, k and l being squared norms."""

    product: np.ndarray
    kl: float = 0.0
    k: float = 0.0
    l: float = 0.0  # noqa: E741 — as in the papers

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        self.product += x.T @ y
        norms_x, norms_y = np.einsum("nd,nd->n", x, x), np.einsum("nd,nd->n", y, y)
        self.kl += float(norms_x @ norms_y)
        self.k += float(norms_x.sum())
        self.l += float(norms_y.sum())

    def hsic(self, n: int, unbiased: bool) -> float:
        squared = float((self.product**2).sum())
        if not unbiased:
            return squared / n**2
        centred = self.k * self.l / ((n - 1) * (n - 2)) - 2 * self.kl / (n - 2)
        return (squared - self.kl + centred) / (n * (n - 3))


def column_mean(matrix: Matrix) -> np.ndarray:
    """float64 [D]."""
    return (
        sum(rows(matrix, tile).sum(axis=0, dtype=np.float64) for tile in tiles(matrix.shape[0], 1, TILE_ROWS))
        / matrix.shape[0]
    )


def check_paired(x: Matrix, y: Matrix) -> int:
    """The number of rows, which must be the same in both."""
    if x.shape[0] != y.shape[0]:
        raise InputError(f"x has {x.shape[0]:,} rows and y {y.shape[0]:,}: row i of one belongs to row i of the other.")
    return _long_enough(x)


def _long_enough(matrix: Matrix) -> int:
    n = matrix.shape[0]
    if n < LEAST:
        raise InputError(f"{n} items are too few to compare features: at least {LEAST} are needed.")
    return n


def _check_varied(variance: float, name: str, mean: np.ndarray) -> None:
    """Refuse constant features, which are similar to nothing; float16 noise does not count as variation."""
    if not variance > 1e-12 * max(float(mean @ mean), 1e-30):
        raise InputError(f"{name}: constant, every row is the same. Another layer or pooling may vary.")
