"""How many candidates score more than each right answer, or the same: exact, at the speed of a float32 product.

The score that counts is a cosine summed in float64 and rounded to float32 (`isthmus.metrics.scores.cosine`), so that
equal items tie in any position. A float32 product is off by less than a known margin: it settles all but the candidates
that lie closer than that to the right answer, and only these are computed in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from isthmus.metrics.scores import cosine, tiles, unit_rows

BLOCK = 2048  # rows of either side normalised at a time: 12 MiB each if they are 512 wide
STRIP = 512  # captions scored at a time: 4 MiB of scores
DENSE = 1 / 64  # with more doubtful scores than this, a product in float64 is cheaper than one by one
DOUBTFUL_AT_ONCE = 2048


@dataclass
class RowBlock:
    """Consecutive unit rows, the first being row `start`: float64 [n, d], and rounded to float32."""

    start: int
    exact: torch.Tensor
    rounded: np.ndarray

    def __len__(self) -> int:
        return len(self.exact)

    def strips(self) -> Iterator[RowBlock]:
        for some in tiles(len(self), 1, STRIP):
            yield RowBlock(self.start + some.start, self.exact[some], self.rounded[some])


class Standing:
    """For p queries, each with the score of its right answer (`own` float32 [p]): how many candidates score more
    (`greater` int64 [p]), and how many the same, itself included (`equal`).
    """

    def __init__(self, own: np.ndarray, width: int) -> None:
        self.own, self.greater, self.equal = own, np.zeros(len(own), np.int64), np.zeros(len(own), np.int64)
        # Of unit rows, a float32 sum of `width` products is off by width · 2⁻²⁴ at most, each rounding by 2⁻²⁴.
        self._margin = np.float32((width + 4) * 2.0**-24)

    @property
    def rank(self) -> np.ndarray:
        """float64 [p]: 1 + greater + half of the others that tie."""
        return 1 + self.greater + (self.equal - 1) / 2

    def count(self, questions: np.ndarray, scores: np.ndarray, left: np.ndarray, a: RowBlock, b: RowBlock) -> None:
        """Add what `scores` float32 [n, len(b)] say to `questions` int64 [n], whose queries are rows `left` of `a`."""
        own = self.own[questions, None]
        above = scores > own + self._margin
        near = scores >= own - self._margin
        greater, candidates = np.count_nonzero(above, axis=1), np.count_nonzero(near, axis=1)
        some = np.flatnonzero(candidates > greater)
        if (candidates - greater).sum() > DENSE * scores.size:
            exact = cosine(a.exact[left], b.exact).numpy()
            self.greater[questions] += np.count_nonzero(exact > own, axis=1)
            self.equal[questions] += np.count_nonzero(exact == own, axis=1)
            return
        self.greater[questions] += greater
        i, j = np.nonzero(near[some] & ~above[some])
        self._settle(questions[some[i]], paired_cosine(a, left[some[i]], b, j))

    def _settle(self, questions: np.ndarray, exact: np.ndarray) -> None:
        np.add.at(self.greater, questions, exact > self.own[questions])
        np.add.at(self.equal, questions, exact == self.own[questions])


def standings(text_emb: Any, image_emb: Any, image_of: np.ndarray, tile: int | None) -> tuple[Standing, Standing]:
    """Standings of every caption's image among the images, and of every caption among the captions for its image.

    text_emb [m, d], image_emb [n, d]: anything sliced to rows, normalised or not; image_of: int64 [m]. One product of
    each block of `tile` captions and `tile` images (default: 2,048) serves both directions; memory ∝ tile² + m + n.
    """
    tile = BLOCK if tile is None else tile
    own, width = own_scores(text_emb, image_emb, image_of, tile), text_emb.shape[1]
    images, captions = Standing(own, width), Standing(own, width)
    by_image = np.argsort(image_of, kind="stable")
    sorted_images = image_of[by_image]
    for text in blocks(text_emb, tile):
        for image in blocks(image_emb, tile):
            low, high = np.searchsorted(sorted_images, [image.start, image.start + len(image)])
            queries = by_image[low:high]
            for part in text.strips():
                scores = part.rounded @ image.rounded.T
                local = np.arange(len(part))
                images.count(part.start + local, scores, local, part, image)
                for some in tiles(len(queries), 1, tile):
                    columns = image_of[queries[some]] - image.start
                    captions.count(queries[some], scores.T[columns], columns, image, part)
    return images, captions


def blocks(emb: Any, tile: int) -> Iterator[RowBlock]:
    """All rows, `tile` at a time."""
    for rows in tiles(len(emb), 1, tile):
        unit = unit_rows(emb[rows], "embeddings", first_row=rows.start)
        yield RowBlock(rows.start, unit, unit.float().numpy())


def own_scores(text_emb: Any, image_emb: Any, image_of: np.ndarray, tile: int) -> np.ndarray:
    """float32 [m]: the score of every caption with its own image."""
    own = np.empty(len(image_of), np.float32)
    for rows in tiles(len(image_of), 1, tile):
        texts = unit_rows(text_emb[rows], "text embeddings", first_row=rows.start).numpy()
        images = unit_rows(image_emb[image_of[rows]], "image embeddings").numpy()
        own[rows] = np.einsum("ij,ij->i", texts, images)
    return own


def paired_cosine(a: RowBlock, i: np.ndarray, b: RowBlock, j: np.ndarray) -> np.ndarray:
    """float32 [k]: the exact scores of rows `i` of `a` with rows `j` of `b`."""
    found = np.empty(len(i), np.float32)
    left, right = a.exact.numpy(), b.exact.numpy()
    for some in tiles(len(i), 1, DOUBTFUL_AT_ONCE):
        found[some] = np.einsum("ij,ij->i", left[i[some]], right[j[some]])
    return found
