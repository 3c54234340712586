"""What is computed once per encoder and reused in all its pairs."""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np

from isthmus.data.feature_pairs import SIDES, FeaturePairs
from isthmus.data.matrix import Chosen, Matrix, check_finite, evenly, rows
from isthmus.selection.candidates import Candidate
from isthmus.selection.cka import LinearKernel, RBFKernel
from isthmus.selection.neighbors import neighbors, rice

RBF_ITEMS = 2000  # its time grows with the square


def caption_means(matrix: Matrix, image_of: np.ndarray, images: int) -> np.ndarray:
    """The mean features float32 [images, D] of each image's captions [M, D]; zeros for an image without captions."""
    order = np.argsort(image_of, kind="stable")
    total = np.zeros((images, matrix.shape[1]), np.float32)
    np.add.at(total, image_of[order], rows(matrix, order))
    return total / np.maximum(np.bincount(image_of, minlength=images), 1)[:, None]


class EncoderSample:
    """One encoder on the items that training-free scores compare: images, or the means of their captions.

    features: float32 [n, D]. Raises `InputError` for features that are constant, not finite, or zero.
    """

    def __init__(self, candidate: Candidate, part: FeaturePairs) -> None:
        self.candidate, self.name = candidate, candidate.name
        self.features = item_features(candidate, part)
        check_finite(candidate.name, self.features)
        self.linear  # noqa: B018 — constant features are told here, encoder by encoder
        self.neighbors  # noqa: B018 — as are rows without direction

    @property
    def width(self) -> int:
        return self.features.shape[1]

    @cached_property
    def digest(self) -> str:
        return hashlib.blake2b(np.ascontiguousarray(self.features).tobytes(), digest_size=16).hexdigest()

    @cached_property
    def linear(self) -> LinearKernel:
        return LinearKernel(self.features)

    @cached_property
    def rbf(self) -> RBFKernel:
        return RBFKernel(self.features[evenly(len(self.features), RBF_ITEMS)])

    @cached_property
    def neighbors(self) -> np.ndarray:
        return neighbors(self.features, rice(len(self.features)))


def item_features(candidate: Candidate, part: FeaturePairs) -> np.ndarray:
    """float32 [n, D] of the images of a part of the frame, or of the means of their captions."""
    if candidate.modality == SIDES[0]:
        return rows(candidate.matrix, part.image[:, 0])
    return caption_means(Chosen(candidate.matrix, part.text[:, 0]), part.image_of, len(part))
