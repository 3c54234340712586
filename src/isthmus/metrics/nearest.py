"""The nearest items of an embedding, exactly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from isthmus.errors import InputError, UsageError
from isthmus.metrics.scores import cosine, same_width, tiles, unit_rows

INDEX_MASK = 0xFFFFFFFF
QUERIES_AT_ONCE = 1024
ROUNDING = 1e-4  # larger than the error of a float32 cosine


def top_k(
    query_emb: np.ndarray | torch.Tensor, emb: np.ndarray | torch.Tensor, k: int, tile: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of `emb` with the greatest cosine, best first; of equal ones the lower row comes first.

    query_emb: [q, d], emb: [n, d]; any float dtype, normalised or not; `emb` may be memory-mapped, it is read
    `tile` rows at a time and never copied whole. Returns (scores float32 [q, k], index int64 [q, k]), with k = n if
    there are fewer rows. Raises InputError for rows of zeros or NaN or widths that differ, UsageError for k < 1.
    """
    if k < 1:
        raise UsageError(f"k={k}: at least one item is needed.")
    if not len(query_emb) or not len(emb):
        raise InputError(f"Nothing to search: {len(query_emb)} queries among {len(emb)} embeddings.")
    keys = []
    for some in tiles(len(query_emb), 1, QUERIES_AT_ONCE):
        queries = unit_rows(query_emb[some], "query embeddings", first_row=some.start)
        keys.append(_top_keys(queries, emb, k, tile))
    scores, index = _unpack(torch.cat(keys))
    return scores.numpy(), index.numpy()


def pairs_above(
    a: np.ndarray | torch.Tensor, b: np.ndarray | torch.Tensor | None, least: float, tile: int = 4096
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All pairs of rows with a cosine of at least `least`: (rows of a, rows of b, cosine float32), part by part.

    a [n, d], b [m, d]: read `tile` rows at a time, never n × m scores at once. b = None joins `a` with itself: each
    pair of different rows once, the lower row first. A row without direction (zeros, NaN) is near no other. A product
    in float32 finds the candidates, one in float64 decides. Raises InputError for widths that differ.
    """
    other = a if b is None else b
    for rows in tiles(len(a), 1, tile):
        left = torch.as_tensor(np.asarray(a[rows], np.float32))
        for columns in tiles(len(other), 1, tile):
            if b is None and columns.stop <= rows.start:
                continue
            right = torch.as_tensor(np.asarray(other[columns], np.float32))
            same_width(left, "embeddings", right, "embeddings")
            i, j, score = _close(left, right, least)
            if b is None:
                once = i + rows.start < j + columns.start
                i, j, score = i[once], j[once], score[once]
            if len(i):
                yield i + rows.start, j + columns.start, score


def _close(left: torch.Tensor, right: torch.Tensor, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs of one tile; NaN compares as not near."""
    unit = [rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True) for rows in (left, right)]
    i, j = torch.nonzero(unit[0] @ unit[1].T >= least - ROUNDING, as_tuple=True)
    some = max(1, 2**22 // left.shape[1])  # candidates at a time: groups of near-equal rows have very many
    parts = zip(i.split(some), j.split(some), strict=True)
    exact = torch.cat([torch.cosine_similarity(left[a].double(), right[b].double()).float() for a, b in parts])
    near = exact >= least
    return i[near].numpy(), j[near].numpy(), exact[near].numpy()


def _top_keys(queries: torch.Tensor, emb: np.ndarray | torch.Tensor, k: int, tile: int | None) -> torch.Tensor:
    """The k greatest keys int64 [q, k], merged tile by tile: a key orders by score, then by lower index."""
    best = torch.empty(len(queries), 0, dtype=torch.int64)
    for rows in tiles(len(emb), max(queries.shape), tile):
        items = unit_rows(emb[rows], "embeddings", first_row=rows.start)
        same_width(queries, "query embeddings", items, "embeddings")
        keys = _pack(cosine(queries, items), torch.arange(rows.start, rows.stop))
        best = torch.cat([best, keys.topk(min(k, len(items))).values], dim=1)
        best = best.topk(min(k, best.shape[1])).values
    return best


def _pack(scores: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """float32 scores [q, n] and their columns [n] as one int64 each, all different, because `topk` does not define how
    it breaks ties: the score above, the complement of the index below."""
    return (_ordered(scores + 0.0).long() << 32) | (INDEX_MASK - index)  # + 0.0 turns −0 into 0


def _unpack(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    bits = _flip((keys >> 32).int())
    return bits.view(torch.float32), INDEX_MASK - (keys & INDEX_MASK)


def _ordered(scores: torch.Tensor) -> torch.Tensor:
    """int32 that sort as the float32 do."""
    return _flip(scores.view(torch.int32))


def _flip(bits: torch.Tensor) -> torch.Tensor:
    """Negative floats grow downwards in their bits: flip all but the sign. Its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
