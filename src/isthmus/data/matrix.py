"""Feature matrices whose rows are mapped, chosen or computed on demand, behind one `gather`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from isthmus.errors import InputError

TILE_BYTES = 64 * 1024**2
LARGEST = 1e15  # its square, summed over a row, still fits into float32


class OnDemand(Protocol):
    """Rows [n, width] that `gather` fetches on demand; slicing works as for arrays."""

    shape: tuple[int, int]
    ndim: int = 2

    def gather(self, index: np.ndarray) -> np.ndarray:
        """The rows `index` (int64), in this order: float32 [len(index), width]."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, some: Any) -> np.ndarray:
        return rows(self, some)


Matrix = np.ndarray | OnDemand  # features [n, width]: an array, a memory-mapped one, or rows on demand


def rows(matrix: Matrix, index: np.ndarray | slice) -> np.ndarray:
    """Rows of a feature matrix as float32 [len(index), width], whatever kind of matrix it is."""
    if hasattr(matrix, "detach"):  # a tensor of torch, whose `gather` does something else
        matrix = as_matrix(matrix)
    if not isinstance(matrix, np.ndarray):
        return matrix.gather(np.arange(*index.indices(matrix.shape[0])) if isinstance(index, slice) else index)
    return np.asarray(matrix[index], dtype=np.float32)


def rows_at_once(width: int) -> int:
    """How many rows of so many float32 make 64 MiB: a few hundred of tokens, tens of thousands of pooled features."""
    return max(1, TILE_BYTES // (4 * max(1, width)))


def evenly(n: int, most: int) -> np.ndarray:
    """int64: at most `most` evenly spaced numbers of 0 … n − 1."""
    return np.linspace(0, n - 1, min(n, most)).astype(np.int64)


def as_matrix(matrix: Any) -> Matrix:
    """A tensor of torch, on any device, as an array; whatever else as it is."""
    if not hasattr(matrix, "detach"):
        return matrix
    matrix = matrix.detach().cpu()
    return (matrix.float() if matrix.is_floating_point() and matrix.itemsize < 4 else matrix).numpy()


def check_finite(name: str, matrix: Matrix) -> None:
    """Raise `InputError` with the first row that holds NaN, infinity or a value beyond `LARGEST`; 64 MiB at a time."""
    height = rows_at_once(matrix.shape[1])
    for start in range(0, matrix.shape[0], height):
        largest = np.abs(rows(matrix, slice(start, start + height))).max(axis=1)
        bad = ~(largest <= LARGEST)
        if bad.any():
            row = int(np.argmax(bad))
            if np.isfinite(largest[row]):
                what = f"a value of {largest[row]:.0e}, too large to compute with. Scale the features"
            else:
                what = "NaN or infinity. Embed it again or leave it out"
            raise InputError(f"{name} features: row {start + row} holds {what}.")


def check_varies(name: str, matrix: Matrix) -> None:
    """Raise `InputError` if all rows are equal, from which nothing can be learned; stops at the first difference."""
    first, start, some = rows(matrix, slice(0, 1)), 0, 2
    while start < matrix.shape[0]:
        tile = rows(matrix, slice(start, min(start + some, matrix.shape[0])))
        if np.abs(tile - first).max() > 1e-6 * np.abs(first).max() + 1e-12:
            return
        start, some = start + some, min(2 * some, rows_at_once(matrix.shape[1]))
    if matrix.shape[0] > 1:
        raise InputError(
            f"all {matrix.shape[0]:,} {name} features are the same: nothing can be learned from them. Are all "
            f"{'images' if name == 'image' else 'captions'} the same?"
        )


class Chosen(OnDemand):
    """A view of some rows of a matrix: [len(index), width]."""

    def __init__(self, matrix: Matrix, index: np.ndarray) -> None:
        self.matrix: Matrix = matrix
        self.index = index
        if isinstance(matrix, Chosen):
            self.matrix, self.index = matrix.matrix, matrix.index[index]
        self.shape = (len(index), matrix.shape[1])

    def gather(self, index: np.ndarray) -> np.ndarray:
        return rows(self.matrix, self.index[index])


class Stacked(OnDemand):
    """The rows of one matrix, then those of another of the same width."""

    def __init__(self, first: Matrix, second: Matrix) -> None:
        self.first, self.second = first, second
        self.shape = (first.shape[0] + second.shape[0], first.shape[1])

    def gather(self, index: np.ndarray) -> np.ndarray:
        found, late = np.empty((len(index), self.shape[1]), np.float32), index >= self.first.shape[0]
        found[~late] = rows(self.first, index[~late])
        found[late] = rows(self.second, index[late] - self.first.shape[0])
        return found


class Computed(OnDemand):
    """Rows [n, width] computed on demand by a function from row numbers (int64 [k]) to float32 [k, width]."""

    def __init__(self, shape: tuple[int, int], function: Callable[[np.ndarray], np.ndarray]) -> None:
        self.shape, self.function = shape, function

    def gather(self, index: np.ndarray) -> np.ndarray:
        return self.function(index)


def stacked(first: Matrix, second: Matrix) -> Matrix:
    """One matrix below the other: of arrays in memory a copy; else rows on demand, as `followed_by` of the first has
    them where it knows better.
    """
    if hasattr(first, "followed_by"):
        return first.followed_by(second)
    if all(isinstance(one, np.ndarray) and not isinstance(one, np.memmap) for one in (first, second)):
        return np.concatenate([first, second])
    return Stacked(first, second)


def take(matrix: Matrix, index: np.ndarray) -> Matrix:
    """Some rows: of an array in memory a copy, of anything else as `Chosen`."""
    if isinstance(matrix, np.ndarray) and not isinstance(matrix, np.memmap):
        return matrix[index]
    return Chosen(matrix, index)
