"""ASIF (Norelli et al. 2023, arXiv 2210.01738): retrieval by similarities to known pairs, without training.

An image is described by its cosines to the training images, a text by its cosines to their captions: both have the same
axes, so they can be compared.
"""

from __future__ import annotations

import numpy as np

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.matrix import Matrix, evenly, rows
from isthmus.errors import InputError
from isthmus.metrics.retrieval import Ranks, ranks
from isthmus.metrics.scores import unit_rows

ANCHORS = 5000
KEEP = 800  # as published
POWER = 8


def asif(
    train: FeaturePairs, val: FeaturePairs, *, anchors: int = ANCHORS, keep: int = KEEP, power: float = POWER
) -> Ranks:
    """Held-out ranks by relative representations.

    Args:
        train: its captions with their images are the anchors, at most `anchors`, evenly spaced.
        keep: similarities kept of each item, the greatest; the others count as zero. All, if there are fewer anchors.
        power: of the similarities that are kept.
    """
    captions = evenly(len(train.image_of), anchors)
    image = relative(val.image, rows(train.image, train.image_of[captions]), keep, power)
    text = relative(val.text, rows(train.text, captions), keep, power)
    return ranks(image, text, val.image_of)


def relative(matrix: Matrix, anchors: np.ndarray, keep: int = KEEP, power: float = POWER) -> np.ndarray:
    """float32 [n, A]: cosines of features [n, D] to the anchors [A, D], sparsified and raised to `power`.

    Negative cosines count as zero. Raises `InputError` for an item that has no positive cosine to any anchor.
    """
    queries = unit_rows(rows(matrix, slice(0, matrix.shape[0])), "features")
    cosines = (queries @ unit_rows(anchors, "anchors").T).clamp_(min=0).float().numpy()
    if keep < cosines.shape[1]:
        least = np.partition(cosines, -keep, axis=1)[:, -keep, None]
        cosines[cosines < least] = 0
    if not (cosines.max(axis=1) > 0).all():
        raise InputError("ASIF: an item has no positive cosine to any anchor, so it cannot be described.")
    cosines /= cosines.max(axis=1, keepdims=True)  # so that powers of small numbers do not underflow
    return cosines**power
