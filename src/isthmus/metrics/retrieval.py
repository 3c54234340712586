"""Image–text retrieval, both directions, several captions per image, never holding the n × m scores.

Names follow CLIP_benchmark: in `image_retrieval_…` the query is a caption (text → image), in `text_retrieval_…` an
image (image → text).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from isthmus.errors import UsageError
from isthmus.metrics.bootstrap import Statistic, estimate, weighted_median
from isthmus.metrics.counting import standings
from isthmus.metrics.scores import as_rows, group_vector, index_vector, same_width

DEFINITION = (
    "Rank = 1 + candidates with a greater cosine + half of those with an equal one. "
    "image_retrieval (text → image): every caption asks for its image; recall@k = share with rank ≤ k. "
    "text_retrieval (image → text): every image with a caption asks for its captions; recall@k = share whose "
    "best caption has rank ≤ k (hit@k), fraction_recall@k = mean share of its captions with rank ≤ k. "
    "mean_recall@k = mean of both directions' recall@k. Images without a caption are candidates, never "
    "queries. ci95 = 95 % intervals over groups of images (docs/intervals.md)."
)


@dataclass(frozen=True)
class Ranks:
    """Ranks of the right answers, 1 being first.

    image: float64 [m]; text → image: the rank of a caption's image among the images.
    text: float64 [m]; image → text: the rank of a caption among all captions for its image.
    image_of: int64 [m]; the image of each caption; the first of them where images are equal.
    images: how many different images were candidates.
    """

    image: np.ndarray
    text: np.ndarray
    image_of: np.ndarray
    images: int

    @property
    def queries(self) -> np.ndarray:
        """int64 [q]: the images that have captions, ascending: the queries of image → text."""
        return np.unique(self.image_of)

    @property
    def best(self) -> np.ndarray:
        """float64 [q]: the rank of each query's best caption, not affected by ties among its own."""
        query = np.unique(self.image_of, return_inverse=True)[1]
        best = np.full(query.max() + 1, np.inf)
        np.minimum.at(best, query, self.text)
        equal_own = np.bincount(query, weights=self.text == best[query]) - 1  # ranks are equal if scores are
        return best - equal_own / 2

    def hits(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """bool [m], bool [q]: is each query, text → image and image → text, answered within k?"""
        return self.image <= k, self.best <= k

    def fraction(self, k: int) -> np.ndarray:
        """float64 [q]: image → text, the share of an image's captions within the first k."""
        query = np.unique(self.image_of, return_inverse=True)[1]
        return np.bincount(query, weights=self.text <= k) / np.bincount(query)

    def units(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The group of every query, [m] and [q], from that of every image [n], for `paired_bootstrap`."""
        groups = np.asarray(groups)
        return groups[self.image_of], groups[self.queries]


def ranks(
    image_emb: np.ndarray | torch.Tensor,
    text_emb: np.ndarray | torch.Tensor,
    image_of: np.ndarray,
    *,
    image_key: np.ndarray | None = None,
    tile: int | None = None,
) -> Ranks:
    """Rank every caption's image, and every image's captions. Parameters as in `retrieval`."""
    images, texts = as_rows(image_emb, "image embeddings"), as_rows(text_emb, "text embeddings")
    same_width(images, "image embeddings", texts, "text embeddings")
    image_of = index_vector(image_of, len(texts), len(images), "image_of (the image of each caption)")
    key = group_vector(image_key, len(images), "image_key")
    first, item = np.unique(key, return_index=True, return_inverse=True)[1:]
    if len(first) < len(images):
        images = images[first]
    by_text, by_image = standings(texts, images, item[image_of], tile)
    return Ranks(image=by_text.rank, text=by_image.rank, image_of=first[item[image_of]], images=len(images))


def retrieval(
    image_emb: np.ndarray | torch.Tensor,
    text_emb: np.ndarray | torch.Tensor,
    image_of: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    image_key: np.ndarray | None = None,
    k: Sequence[int] = (1, 5, 10),
    bootstrap: int = 1000,
    seed: int = 0,
    tile: int | None = None,
) -> dict[str, Any]:
    """Recall@k and median rank in both directions, with intervals.

    A right answer that ties with others gets the middle rank: rank = 1 + greater +
    equal / 2, so that a model with equal scores for everything gets no credit. Without ties the values are those of
    CLIP_benchmark, except that an image without captions, a certain miss there, is no query here.

    image_emb: [n, d], text_emb: [m, d]; any float dtype, compared by cosine, normalised or not.
    image_of: int [m], the image row each caption describes; any number of captions per image.
    groups: ids [n] of near-duplicates, the unit of the bootstrap; default: every image its own.
    image_key: ids [n] of the images' content: images with one key are one item, found once, which owns the
        captions of all of them. Its embedding and group are those of its first row.
    k: the cut-offs. bootstrap: resamples, 0 for none. tile: captions, and images, scored at a time.
    Embeddings may be memory-mapped: they are read part by part, and n × m scores are never held.

    Returns {"metrics", "ci95", "chance", "n", "definition", "bootstrap", "seed"}. Keys of `metrics`, with j in k:
    image_retrieval_recall@j, text_retrieval_recall@j, text_retrieval_fraction_recall@j, mean_recall@j (shares
    0–1), image_retrieval_median_rank, text_retrieval_median_rank. A caption has one image, so that
    text → image needs no fraction. `ci95` holds [low, high] under the same keys.

    Raises InputError, naming the row, for embeddings of zeros or NaN, widths that differ, indices or ids that do not
    fit; UsageError for a `k` below 1.
    """
    _check_cutoffs(k)
    found = ranks(image_emb, text_emb, image_of, image_key=image_key, tile=tile)
    return score(found, group_vector(groups, len(image_emb), "groups"), k=k, bootstrap=bootstrap, seed=seed)


def score(
    found: Ranks, groups: np.ndarray, *, k: Sequence[int] = (1, 5, 10), bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """The result of `retrieval`, from known ranks; groups: int [n], of all images."""
    _check_cutoffs(k)
    by_text, by_image = found.units(groups)
    unit = np.unique(np.concatenate([by_text, by_image]), return_inverse=True)[1]
    count = int(unit.max()) + 1
    names, statistic = _statistic(found, list(k), unit[: len(by_text)], unit[len(by_text) :])
    shares = [name for name in names if "recall" in name]
    metrics, ci95 = estimate(statistic, names, count, bootstrap, seed, shares=shares)
    n = {"images": found.images, "image_queries": len(by_image), "texts": len(by_text), "groups": count}
    return {
        "metrics": metrics,
        "ci95": ci95,
        "chance": chance(found.images, found.image_of, k),
        "n": n,
        "definition": DEFINITION,
        "bootstrap": bootstrap,
        "seed": seed,
    }


def chance(images: int, image_of: np.ndarray, k: Sequence[int]) -> dict[str, float]:
    """Recall of a random order: k of n images; and that one of an image's c captions is among k of m.

    image_of: int [m], of `images` images the one that each caption describes.
    """
    own = np.unique(image_of, return_counts=True)[1]
    captions, found = len(image_of), {}
    for j in k:
        drawn = min(j, captions)
        others = captions - own[:, None] - np.arange(drawn)
        none = (np.maximum(others, 0) / (captions - np.arange(drawn))).prod(axis=1)
        found[f"image_retrieval_recall@{j}"] = min(1.0, j / images)
        found[f"text_retrieval_recall@{j}"] = float(1 - none.mean())
        found[f"mean_recall@{j}"] = (min(1.0, j / images) + float(1 - none.mean())) / 2
    return found


def _check_cutoffs(k: Sequence[int]) -> None:
    if not k or min(k) < 1:
        raise UsageError(f"k={list(k)}: recall@k needs cut-offs of 1 or more.")


def _statistic(
    found: Ranks, k: list[int], text_unit: np.ndarray, image_unit: np.ndarray
) -> tuple[list[str], Statistic]:
    """The names of all metrics, and their values as a function of the groups' weights."""
    hits = [found.hits(j) for j in k]
    of_text = np.stack([image for image, _ in hits], axis=1).astype(np.float64)
    of_image = np.stack([*(text for _, text in hits), *map(found.fraction, k)], axis=1).astype(np.float64)
    order_text, order_image = np.argsort(found.image), np.argsort(found.best)
    sorted_text, sorted_image = found.image[order_text], found.best[order_image]

    def statistic(weights: np.ndarray) -> np.ndarray:
        texts, images = weights[text_unit], weights[image_unit]
        to_image = texts @ of_text / texts.sum()
        to_text, fraction = np.split(images @ of_image / images.sum(), 2)
        medians = [
            weighted_median(sorted_text, texts[order_text]),
            weighted_median(sorted_image, images[order_image]),
        ]
        return np.concatenate([to_image, to_text, fraction, (to_image + to_text) / 2, medians])

    kinds = ("image_retrieval", "text_retrieval", "text_retrieval_fraction", "mean")
    names = [f"{kind}_recall@{j}" for kind in kinds for j in k]
    return [*names, "image_retrieval_median_rank", "text_retrieval_median_rank"], statistic
