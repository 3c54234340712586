"""Exact search: every embedding is compared, read tile by tile where it lies."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

TILE = 32_768  # rows whose best are chosen at once
CONVERTED = 1024  # rows that stay in a core's cache between conversion and product
NOTHING = -1  # the row of a place that nothing fills


def exact_top(
    queries: np.ndarray, blocks: Sequence[np.ndarray], k: int, where: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows with the greatest products, best first; of equal ones the lower row.

    queries: float32 [q, d]. blocks: float16 or float32 [n_i, d] each, one after the other. where: bool [n], the rows
    that may be found. Returns (scores float32 [q, k], rows int64 [q, k]); −inf and −1 where there are fewer.
    """
    asked = np.ascontiguousarray(queries, np.float32)
    best_in = _best_by_torch if "torch" in sys.modules else _best_by_numpy  # for one query it is not worth its import
    scores, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for start, tile in _tiles(blocks):
        allowed = None if where is None else where[start : start + len(tile)]
        if allowed is not None and not allowed.any():
            continue
        best, place = best_in(asked, tile, min(k, len(tile)), allowed)
        scores, rows = best_of(np.concatenate([scores, best], axis=1), np.concatenate([rows, start + place], axis=1), k)
    return padded(scores, rows, k)


def _best_by_torch(
    queries: np.ndarray, tile: np.ndarray, k: int, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """(products [q, k], rows [q, k]) of one tile [n, d]; −inf for rows that are not allowed."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a mapped file is read-only, and is only read
        parts = torch.from_numpy(tile).split(CONVERTED)
    asked = torch.from_numpy(queries).T
    found = torch.cat([some.float() @ asked for some in parts]).T
    if allowed is not None:
        found[:, torch.from_numpy(~allowed)] = -torch.inf
    best, place = found.topk(k)
    return best.numpy(), place.numpy()


def _best_by_numpy(
    queries: np.ndarray, tile: np.ndarray, k: int, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """As by torch, which converts float16 three times as fast."""
    parts = (tile[start : start + CONVERTED] for start in range(0, len(tile), CONVERTED))
    found = np.concatenate([queries @ some.astype(np.float32).T for some in parts], axis=1)
    if allowed is not None:
        found[:, ~allowed] = -np.inf
    place = np.argpartition(-found, k - 1, axis=1)[:, :k]
    return np.take_along_axis(found, place, axis=1), place


def rescored(
    queries: np.ndarray, embeddings: np.ndarray, candidates: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of candidates (rows int64 [q, c] of float16 [n, d], −1: none) by their exact products; see
    `exact_top`."""
    scores = np.full(candidates.shape, -np.inf, np.float32)
    for row, (query, listed) in enumerate(zip(queries, candidates, strict=True)):
        there = listed >= 0
        scores[row, there] = embeddings[listed[there]].astype(np.float32) @ query
    return padded(*best_of(scores, candidates, k), k)


def best_of(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best of [q, m], sorted; of equal scores the lower row."""
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def padded(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Exactly k columns; what was not allowed is no row."""
    lacking = ((0, 0), (0, k - scores.shape[1]))
    scores = np.pad(scores, lacking, constant_values=-np.inf)
    rows = np.pad(rows, lacking, constant_values=NOTHING)
    return scores, np.where(np.isneginf(scores), NOTHING, rows)


def _tiles(blocks: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the first row, rows) of every tile; nothing is copied."""
    first = 0
    for block in blocks:
        for start in range(0, len(block), TILE):
            yield first + start, block[start : start + TILE]
        first += len(block)
