"""One pass over a pool: it computes the cosine of every row to every concept and keeps the best rows of each concept.

Rows are scored in tiles on a fixed grid: row r is always at position r mod TILE of a full tile, and missing neighbours
are zero. A float32 product can depend on the shape of the matrix and the position of a row in it. As no start, stop or
resume moves the grid, scores and the selection are identical to the bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isthmus.curation.pools import Pool, PoolSide
from isthmus.curation.topk import TopK
from isthmus.errors import InputError, UsageError
from isthmus.progress import progress_bar

TILE = 4096  # rows scored together, for up to 4,096 concepts
CHECKPOINT_SECONDS = 300.0
COMBINE = ("min", "mean")


@dataclass
class ConceptScorer:
    """Cosine scores of a pool's rows to concepts, from one side or from both.

    prototypes: by side, [C, width of that side]; any scale. combine: "min" or "mean" of the two sides.
    """

    prototypes: dict[PoolSide, np.ndarray]
    combine: str = "min"
    tile: int = field(init=False)

    def __post_init__(self) -> None:
        if self.combine not in COMBINE:
            raise UsageError(f"combine={self.combine!r}: it is one of {', '.join(COMBINE)}.")
        counts = {len(matrix) for matrix in self.prototypes.values()}
        if len(counts) != 1:
            raise UsageError("Both sides need the same concepts.")
        (self.concepts,) = counts
        self.tile = _tile(self.concepts)
        self._unit = {side: _unit_prototypes(matrix) for side, matrix in self.prototypes.items()}

    def __call__(self, pool: Pool, start: int, stop: int) -> np.ndarray:
        """Scores float32 [C, stop − start] of rows of one tile; NaN for a row without features."""
        origin = start - start % self.tile
        parts = [self._side(side, pool.features(side, start, stop), start - origin) for side in self.prototypes]
        scores = parts[0]
        if len(parts) == 2:
            scores = torch.minimum(*parts) if self.combine == "min" else (parts[0] + parts[1]) / 2
        return scores[:, start - origin : stop - origin].numpy()

    def _side(self, side: PoolSide, features: np.ndarray, at: int) -> torch.Tensor:
        unit = self._unit[side]
        if features.shape[1] != unit.shape[1]:
            raise InputError(
                f"{side} features of the pool are {features.shape[1]} wide, the concepts {unit.shape[1]}: they "
                "come from different encoders. Name the encoder of the pool (--encoder)."
            )
        tile = torch.zeros(self.tile, unit.shape[1])
        tile[at : at + len(features)] = normalised(features)
        return unit @ tile.T


def scan(
    pool: Pool,
    scorer: ConceptScorer,
    keep: int,
    *,
    start: int = 0,
    stop: int | None = None,
    excluded: np.ndarray | None = None,
    checkpoint: Path | None = None,
    about: dict[str, Any] | None = None,
    every: float = CHECKPOINT_SECONDS,
    progress: bool | None = None,
) -> TopK:
    """The `keep` best rows of the pool, or of its rows start … stop − 1, for every concept.

    Parts of a pool, merged with `TopK.merge` in any order, give the result of one pass, identical to the bit on one
    kind of machine with the same number of threads.

    Args:
        excluded: bool [rows of the pool], True for rows that may not be chosen.
        checkpoint: a file that holds the state, written every `every` seconds and at the end; if it exists, the pass
            continues at its row.
        about: what the pass depends on (pool, concepts); a checkpoint of another run is refused.

    Raises:
        InputError: features that cannot be read or are of another width; a foreign checkpoint.
    """
    stop = len(pool) if stop is None else min(stop, len(pool))
    top = _begin(scorer, min(keep, len(pool)), checkpoint, about or {})
    saved = time.monotonic()
    position = top.covered[-1][1] if top.covered else start
    with progress_bar(progress, total=stop - start, initial=position - start, unit="row", unit_scale=True) as bar:
        for low, high in tiles(position, stop, scorer.tile):
            scores = scorer(pool, low, high)
            if excluded is not None:
                scores[:, excluded[low:high]] = np.nan
            top.update(scores, low)
            bar.update(high - low)
            if checkpoint is not None and (time.monotonic() - saved >= every or high == stop):
                top.save(checkpoint, about or {})
                saved = time.monotonic()
    return top


def tiles(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """[start, stop) cut at the multiples of `size`."""
    while start < stop:
        end = min(stop, start - start % size + size)
        yield start, end
        start = end


def nearest_counts(pool: Pool, scorer: ConceptScorer, rows: int = 50_000) -> tuple[np.ndarray, int]:
    """How many rows have each concept as their nearest, int64 [C], and the number of rows with a score. In a pool
    larger than `rows`, evenly spaced tiles are counted.
    """
    counts, seen = np.zeros(scorer.concepts, np.int64), 0
    for low, high in spread(len(pool), scorer.tile, rows):
        scores = scorer(pool, low, high)
        scores = scores[:, ~np.isnan(scores[0])]
        counts += np.bincount(scores.argmax(axis=0), minlength=scorer.concepts)
        seen += scores.shape[1]
    return counts, seen


def best_scores(pool: Pool, scorer: ConceptScorer, rows: int) -> tuple[np.ndarray, int]:
    """The best score of every concept, float32 [C], and of how many rows with a score: evenly spaced tiles as above."""
    best, seen = np.full(scorer.concepts, -np.inf, np.float32), 0
    for low, high in spread(len(pool), scorer.tile, rows):
        scores = scorer(pool, low, high)
        scores = scores[:, ~np.isnan(scores[0])]
        best = np.maximum(best, scores.max(axis=1, initial=-np.inf))
        seen += scores.shape[1]
    return best, seen


def spread(rows: int, size: int, wanted: int) -> list[tuple[int, int]]:
    """Tiles of a grid, evenly spaced, that hold about `wanted` rows: all of them where that is enough."""
    grid = list(tiles(0, rows, size)) if rows <= wanted else None
    if grid is not None:
        return grid
    count = max(1, wanted // size)
    chosen = np.unique(np.linspace(0, (rows - 1) // size, count).astype(np.int64)).tolist()
    return [(number * size, min(rows, (number + 1) * size)) for number in chosen]


def normalised(features: np.ndarray) -> torch.Tensor:
    """Rows float32 [n, d] of length 1; a row without a direction (zeros, NaN, infinity) becomes NaN."""
    rows = torch.from_numpy(np.array(features, np.float32))  # a copy: it may be read-only
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    usable = torch.isfinite(length) & (length > 0)
    return torch.where(usable, rows / length, torch.nan)


def _unit_prototypes(matrix: np.ndarray) -> torch.Tensor:
    unit = normalised(matrix)
    bad = torch.nonzero(torch.isnan(unit[:, 0]))
    if len(bad):
        raise InputError(f"concept {int(bad[0])}: its prototype is zero or holds NaN.")
    return unit.contiguous()


def _tile(concepts: int) -> int:
    """TILE rows, halved while the scores of a tile would exceed 64 MiB."""
    tile = TILE
    while tile > 64 and tile * concepts > 2**24:
        tile //= 2
    return tile


def _begin(scorer: ConceptScorer, keep: int, checkpoint: Path | None, about: dict[str, Any]) -> TopK:
    if checkpoint is not None and checkpoint.is_file():
        return TopK.load(checkpoint, about)
    return TopK(scorer.concepts, keep, block=scorer.tile)
