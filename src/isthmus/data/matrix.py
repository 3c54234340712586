"""Features of which rows are mapped, chosen or computed when they are asked for, behind one `gather`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from isthmus.errors import InputError

TILE_BYTES = 64 * 1024**2


class OnDemand(Protocol):
    """Rows [n, width] that are somewhere else until `gather` brings them; they are sliced as arrays are."""

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
    if not isinstance(matrix, np.ndarray):
        return matrix.gather(np.arange(*index.indices(matrix.shape[0])) if isinstance(index, slice) else index)
    return np.asarray(matrix[index], dtype=np.float32)


def rows_at_once(width: int) -> int:
    """How many rows of so many float32 make 64 MiB: a few hundred of tokens, tens of thousands of pooled features."""
    return max(1, TILE_BYTES // (4 * max(1, width)))


def evenly(n: int, most: int) -> np.ndarray:
    """int64: at most `most` evenly spaced numbers of 0 … n − 1."""
    return np.linspace(0, n - 1, min(n, most)).astype(np.int64)


def check_finite(name: str, matrix: Matrix) -> None:
    """Raise `InputError` with the first row that holds NaN or infinity; reads 64 MiB at a time."""
    height = rows_at_once(matrix.shape[1])
    for start in range(0, matrix.shape[0], height):
        bad = ~np.isfinite(rows(matrix, slice(start, start + height))).all(axis=1)
        if bad.any():
            row = start + int(np.argmax(bad))
            raise InputError(f"{name} features: row {row} holds NaN or infinity. Embed it again or leave it out.")


class Chosen(OnDemand):
    """Some rows of a matrix that stays where it is: [len(index), width]."""

    def __init__(self, matrix: Matrix, index: np.ndarray) -> None:
        self.matrix: Matrix = matrix
        self.index = index
        if isinstance(matrix, Chosen):
            self.matrix, self.index = matrix.matrix, matrix.index[index]
        self.shape = (len(index), matrix.shape[1])

    def gather(self, index: np.ndarray) -> np.ndarray:
        return rows(self.matrix, self.index[index])


class Computed(OnDemand):
    """Rows [n, width] that a function of row numbers (int64 [k]) gives when they are asked for: float32 [k, width]."""

    def __init__(self, shape: tuple[int, int], function: Callable[[np.ndarray], np.ndarray]) -> None:
        self.shape, self.function = shape, function

    def gather(self, index: np.ndarray) -> np.ndarray:
        return self.function(index)


def take(matrix: Matrix, index: np.ndarray) -> Matrix:
    """Some rows: of an array in memory a copy, of anything else as `Chosen`."""
    if isinstance(matrix, np.ndarray) and not isinstance(matrix, np.memmap):
        return matrix[index]
    return Chosen(matrix, index)
