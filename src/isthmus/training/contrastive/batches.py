"""From rows to tensors: features gathered batch by batch, and which images and captions are positives."""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
import torch
from torch import Tensor

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.groups import components
from isthmus.data.matrix import Matrix, evenly, rows, rows_at_once
from isthmus.training.contrastive.pixels import PixelFeatures

RESIDENT_BYTES = 2 << 30
HASHED_ROWS = 65_536


class Batches:
    """Batches of `pairs` on `device`. Features of up to 2 GiB in all stay there; more are read as needed.

    Features that are computed on demand (`PixelFeatures`) are computed anew for every batch.

    `positives` as in the recipe: "pair", "equal" or "group"; `unit`: "pairs" or "images", see `take`.
    """

    def __init__(self, pairs: FeaturePairs, positives: str, device: torch.device, unit: str = "pairs") -> None:
        self.device, self.image_of = device, pairs.image_of
        self._taken: dict[int, Tensor] = {}  # by matrix, a buffer for its rows
        self.image: Matrix | Tensor = pairs.image
        self.text: Matrix | Tensor = pairs.text
        live = isinstance(pairs.image, PixelFeatures)
        if not live and 4 * (math.prod(pairs.image.shape) + math.prod(pairs.text.shape)) <= RESIDENT_BYTES:
            self.image = self._rows(pairs.image, np.arange(pairs.image.shape[0]))
            self.text = self._rows(pairs.text, np.arange(pairs.text.shape[0]))
        self.groups = positive_groups(pairs, positives)
        self.by_image: tuple[np.ndarray, np.ndarray] | None = None
        if unit == "images":
            self.by_image = np.argsort(pairs.image_of, kind="stable"), np.unique(pairs.image_of, return_counts=True)[1]
            if self.groups is None:  # an image and its captions belong together, and nothing else
                self.groups = np.arange(len(pairs)), pairs.image_of

    def take(self, units: np.ndarray) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """Image and text features float32 [n, Dx], [m, Dy], and loss groups.

        units: int64 [n], of "pairs" the captions, n = m; of "images" numbers among the images with captions, which come
        with all of their captions. The features are valid until the next call, which reuses their memory: new pages
        cost more than copying the rows.
        """
        images, captions = (self.image_of[units], units) if self.by_image is None else self._whole_images(units)
        groups = None
        if self.groups is not None:
            groups = self._tensor(self.groups[0][images]), self._tensor(self.groups[1][captions])
        return self._rows(self.image, images), self._rows(self.text, captions), groups

    def _whole_images(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of these images, and of all of their captions, image by image."""
        assert self.by_image is not None
        order, counts = self.by_image
        first = np.concatenate([[0], np.cumsum(counts)])[units]
        own = counts[units]
        inside = np.arange(own.sum()) - np.repeat(np.cumsum(own) - own, own)
        return self.image_of[order[first]], order[np.repeat(first, own) + inside]

    def _rows(self, matrix: Matrix | Tensor, index: np.ndarray) -> Tensor:
        if isinstance(matrix, Tensor):
            taken = self._taken.get(id(matrix))
            if taken is None or len(taken) < len(index):
                taken = self._taken[id(matrix)] = matrix.new_empty(len(index), matrix.shape[1])
            return torch.index_select(matrix, 0, self._tensor(index), out=taken[: len(index)])
        return torch.from_numpy(rows(matrix, index)).to(self.device)

    def _tensor(self, index: np.ndarray) -> Tensor:
        return torch.from_numpy(index).to(self.device)


def positive_groups(pairs: FeaturePairs, positives: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Loss groups int64 of the images [n] and captions [m]; None: every caption with its image is a group."""
    if positives == "pair":
        return None
    if positives == "equal":
        return pairs.image_group, pairs.text_group
    return components(pairs.bootstrap_group, pairs.text_group, pairs.image_of)


def fingerprint(pairs: FeaturePairs) -> str:
    """32 hex digits that change with ids, captions, groups, encoders or features.

    Of a larger matrix, 65,536 evenly spaced rows are hashed.
    """
    digest = hashlib.blake2b(digest_size=16)
    encoders = [record.get("fingerprint") for record in [*pairs.image_encoder, *pairs.text_encoder]]
    digest.update(json.dumps([pairs.image_ids, pairs.caption_ids, pairs.captions, encoders]).encode())
    for index in (pairs.image_of, pairs.image_group, pairs.text_group, pairs.bootstrap_group):
        digest.update(index.tobytes())
    for matrix in (pairs.image, pairs.text):
        if isinstance(matrix, PixelFeatures):
            digest.update(matrix.identity.encode())
            continue
        sample = evenly(matrix.shape[0], HASHED_ROWS)
        for start in range(0, len(sample), tile := rows_at_once(matrix.shape[1])):
            digest.update(rows(matrix, sample[start : start + tile]).tobytes())
    return digest.hexdigest()
