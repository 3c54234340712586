"""Exact cosine scores in bounded memory, for retrieval, zero-shot classification and search."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from isthmus.errors import InputError, UsageError

TILE_SCORES = 2**22  # scores held at once: 16 MiB in float32, three times that while they are computed


def unit_rows(embeddings: np.ndarray | torch.Tensor, name: str, first_row: int = 0) -> torch.Tensor:
    """`embeddings` [n, d], any float dtype, as L2-normalised float64 rows on the CPU.

    Raises InputError, naming the row (counted from `first_row`), where a row has no direction.
    """
    if isinstance(embeddings, torch.Tensor):
        rows = embeddings.detach().to("cpu", torch.float64)
    else:
        rows = torch.from_numpy(np.array(embeddings, dtype=np.float64))  # a copy: it may be read-only
    if rows.ndim != 2 or 0 in rows.shape:
        raise InputError(f"{name}: expected a matrix [n, d] with n, d ≥ 1, got shape {list(rows.shape)}.")
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    bad = torch.nonzero(~(torch.isfinite(length[:, 0]) & (length[:, 0] > 0)))
    if len(bad):
        raise InputError(
            f"{name}, row {first_row + int(bad[0])}: holds NaN, infinity or only zeros, "
            f"as do {len(bad) - 1} more rows here; embed these items again or remove them."
        )
    return rows / length


def as_rows(embeddings: np.ndarray | torch.Tensor, name: str) -> np.ndarray | torch.Tensor:
    """`embeddings` as they are, after checking every row, part by part: InputError as for `unit_rows`."""
    rows = embeddings if isinstance(embeddings, torch.Tensor) else np.asanyarray(embeddings)
    if rows.ndim != 2 or 0 in rows.shape:
        unit_rows(rows, name)
    for some in tiles(len(rows), 8 * rows.shape[1]):
        unit_rows(rows[some], name, first_row=some.start)
    return rows


def same_width(a: np.ndarray | torch.Tensor, a_name: str, b: np.ndarray | torch.Tensor, b_name: str) -> None:
    """Raise InputError unless the rows of `a` and `b` have the same width."""
    if a.shape[1] != b.shape[1]:
        raise InputError(f"{a_name} are {a.shape[1]} wide, {b_name} {b.shape[1]}; they come from different models.")


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Scores [n, m] of unit rows `a` [n, d] and `b` [m, d]: summed in float64, rounded to float32.

    A float32 product depends on the position of a row in the matrix (edge columns use another kernel), which breaks
    ties between equal items. Rounding afterwards preserves ties and makes the result independent of the tile.
    """
    return (a @ b.T).float()


def tiles(rows: int, columns: int, tile: int | None = None) -> Iterator[slice]:
    """Slices over `rows`, `tile` at a time; by default as many as keep tile × columns within TILE_SCORES."""
    if tile is not None and tile < 1:
        raise UsageError(f"tile={tile}: a tile has at least one row.")
    tile = tile or max(1, TILE_SCORES // columns)
    return (slice(start, min(start + tile, rows)) for start in range(0, rows, tile))


def index_vector(values: np.ndarray, length: int, below: int, name: str) -> np.ndarray:
    """`values` as int64 [length] within 0 … below − 1; InputError names the first entry that is not."""
    values = np.asarray(values)
    if values.shape != (length,) or not np.issubdtype(values.dtype, np.integer):
        got = f"shape {list(values.shape)} of {values.dtype}"
        raise InputError(f"{name}: expected {length} integers, one per row, got {got}.")
    bad = np.flatnonzero((values < 0) | (values >= below))
    if len(bad):
        raise InputError(f"{name}, row {bad[0]}: {values[bad[0]]} is not within 0 … {below - 1}.")
    return values.astype(np.int64)


def group_vector(groups: np.ndarray | None, length: int, name: str) -> np.ndarray:
    """`groups` (any sortable ids) as int64 [length] in 0 … G − 1; every row its own group when None."""
    if groups is None:
        return np.arange(length)
    groups = np.asarray(groups)
    if groups.shape != (length,):
        raise InputError(f"{name}: expected {length} ids, one per row, got shape {list(groups.shape)}.")
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)
