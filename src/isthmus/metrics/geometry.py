"""How embeddings lie in the joint space: gap between the modalities, alignment, uniformity, hubs.

Everything is computed from unit rows, tile by tile: never n × n numbers at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from isthmus.errors import InputError
from isthmus.metrics.scores import as_rows, index_vector, same_width, tiles, unit_rows

TILE = 2048  # rows of either side multiplied at a time: 32 MiB of scores


def modality_gap(image_emb: Any, text_emb: Any, image_of: np.ndarray) -> dict[str, float]:
    """The distance between images and captions as a whole.

    image_emb [n, d], text_emb [m, d]; image_of int64 [m]: each caption's image.

    gap: ‖mean image − mean caption‖ over the m pairs, of unit rows (Liang et al., NeurIPS 2022, arXiv:2203.02053,
    section 2.2): 0 where the modalities share their centre, at most 2. centroid_distance: the same over every image
    and caption once. image_cone, text_cone: mean cosine of two different items of one modality (their "cone effect"):
    0 on an evenly filled sphere, 1 if all are equal.
    """
    images, texts = as_rows(image_emb, "image embeddings"), as_rows(text_emb, "text embeddings")
    same_width(images, "image embeddings", texts, "text embeddings")
    image_of = index_vector(image_of, len(texts), len(images), "image_of")
    captions = np.bincount(image_of, minlength=len(images)).astype(np.float64)
    (image, described), text = _sums(images, captions), _sums(texts)[0]
    n, m = len(images), len(texts)
    return {
        "gap": float(np.linalg.norm(described / m - text / m)),
        "centroid_distance": float(np.linalg.norm(image / n - text / m)),
        "image_cone": _mean_cosine(image, n),
        "text_cone": _mean_cosine(text, m),
    }


def _sums(emb: Any, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the unit rows, and their sum with weights [n]; float64 [d] each."""
    plain, weighted = np.zeros(emb.shape[1]), np.zeros(emb.shape[1])
    for some in tiles(len(emb), 1, TILE):
        unit = unit_rows(emb[some], "embeddings", first_row=some.start).numpy()
        plain += unit.sum(axis=0)
        if weights is not None:
            weighted += weights[some] @ unit
    return plain, weighted


def _mean_cosine(total: np.ndarray, n: int) -> float:
    """Of all pairs of different rows among n unit rows, from their sum: (‖Σx‖² − n) / (n (n − 1))."""
    return float((total @ total - n) / (n * (n - 1))) if n > 1 else float("nan")


def pair_distances(image_emb: Any, text_emb: Any, image_of: np.ndarray) -> np.ndarray:
    """‖x − y‖² of every caption and its image, unit rows; float64 [m]. Their mean is the alignment (α = 2) of Wang
    and Isola, ICML 2020, arXiv:2005.10242: 0 where matches coincide, 2 where they are orthogonal."""
    found = np.empty(len(text_emb))
    for some in tiles(len(text_emb), 1, TILE):
        text = unit_rows(text_emb[some], "text embeddings", first_row=some.start)
        image = unit_rows(image_emb[image_of[some]], "image embeddings")
        found[some] = ((image - text) ** 2).sum(dim=1).numpy()
    return found


def uniformity(emb: Any, t: float = 2.0) -> float:
    """log mean exp(−t ‖x − y‖²) over all pairs of different rows, of unit rows (Wang and Isola, as above).

    Lower is more evenly spread: 0 where all coincide, about −2t for random directions in many dimensions. Costs a
    product of all rows with all rows, in float32. Raises InputError for fewer than two rows.
    """
    rows = as_rows(emb, "embeddings")
    if len(rows) < 2:
        raise InputError("Uniformity needs at least two items.")
    unit = torch.cat([unit_rows(rows[some], "embeddings").float() for some in tiles(len(rows), 1, TILE)])
    total = 0.0
    for left in tiles(len(unit), 1, TILE):
        for right in tiles(len(unit), 1, TILE):
            if right.start >= left.start:
                each = torch.exp(2 * t * (unit[left] @ unit[right].T - 1))  # ‖x − y‖² = 2 − 2 cos
                same = left.start == right.start
                total += (each.triu(1) if same else each).sum(dtype=torch.float64).item()
    return float(np.log(2 * total / (len(unit) * (len(unit) - 1))))


def occurrences(nearest: np.ndarray, items: int) -> np.ndarray:
    """How often each of `items` items is among the answers `nearest` int64 [q, k] of q queries: int64 [items]."""
    return np.bincount(nearest.ravel(), minlength=items)


def hubness(counts: np.ndarray, queries: int, k: int) -> dict[str, float]:
    """Hubness, measured by the k-occurrences of n items for q queries (`occurrences`).

    skewness: third standardised moment (Radovanović et al., JMLR 2010); 0 where it is even. antihubs: share of items
    that are no query's answer. top_share: share of all answers that the most frequent hundredth of the items takes.
    chance_skewness, chance_antihubs: the same if every query drew its k answers at random, Binomial(q, k / n).
    """
    n = len(counts)
    p = min(1.0, k / n)
    spread, chance = float(counts.std()), queries * p * (1 - p)
    top = np.sort(counts)[::-1][: max(1, round(n / 100))].sum()
    return {
        "skewness": float(((counts - counts.mean()) ** 3).mean() / spread**3) if spread else 0.0,
        "antihubs": float((counts == 0).mean()),
        "top_share": float(top / max(1, counts.sum())),
        "chance_skewness": float((1 - 2 * p) / chance**0.5) if chance else 0.0,
        "chance_antihubs": float((1 - p) ** queries),
    }
