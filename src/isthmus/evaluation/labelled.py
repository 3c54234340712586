"""Labelled images and their frozen features, from arrays, a store, or pairs whose features a store then keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.contents import items_of_hashes
from isthmus.data.encoder_record import modalities_of
from isthmus.data.feature_pairs import SIDES, FeaturePairs
from isthmus.data.groups import by_appearance
from isthmus.data.matrix import rows
from isthmus.data.pairs import Pairs
from isthmus.embedding import embed
from isthmus.errors import InputError
from isthmus.models.dual_encoder import DualEncoder
from isthmus.store import Store, open_store
from isthmus.store.joining import image_groups, regrouped


@dataclass(frozen=True)
class Labelled:
    """Frozen features float32 [n, D] of images, their labels [n] and groups of near-duplicates [n].

    items: uint64 [n], what the images are remembered by.
    """

    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    items: np.ndarray

    def where(self, kept: np.ndarray) -> Labelled:
        """These rows, bool [n]."""
        return Labelled(self.features[kept], self.labels[kept], self.groups[kept], self.items[kept])


def embedded(model: DualEncoder, pairs: Pairs, path: Path) -> Store:
    """The store `path` with the features of `pairs` by the model's encoders; only missing ones are computed."""
    embed(pairs, model.encoders["image"], model.encoders["text"], out=path)
    return open_store(path)


def from_store(model: DualEncoder, pairs: Pairs, store: Store) -> Labelled:
    """The images of `pairs` that have a label, with their features from a store."""
    label_of = dict(zip(pairs.images["id"].to_pylist(), pairs.images["label"].to_pylist(), strict=True))
    ids = store.images["id"].to_pylist()
    index = np.array([row for row, id in enumerate(ids) if label_of.get(id) is not None], np.int64)
    if not len(index):
        raise InputError(f"{pairs.path}: none of its images has a label.")
    images = store.images.take(index)
    features = store.features("image", fingerprints(model, "image"))
    labels = np.array([label_of[ids[row]] for row in index])
    items = items_of_hashes(images["content_hash"].to_pylist())
    return Labelled(features.gather(index), labels, image_groups(images), items)


def from_features(pairs: FeaturePairs) -> Labelled:
    """The images that have a label. Raises `InputError` if none has."""
    index = np.array([row for row, label in enumerate(pairs.labels or []) if label is not None], np.int64)
    if not len(index):
        raise InputError("None of the images has a label.")
    labels: Any = pairs.labels
    groups = by_appearance(pairs.bootstrap_group[index])
    return Labelled(
        rows(pairs.image, index), np.array([labels[row] for row in index]), groups, pairs.items(SIDES[0])[index]
    )


def fingerprints(model: DualEncoder, modality: str) -> list[str]:
    """The model's encoders as a store knows them."""
    return [record["fingerprint"] for record in model.records[modality]]


def stored_pairs(model: DualEncoder, store: Store, **chosen: Any) -> FeaturePairs:
    """Images and captions of a store with the features of the model's encoders; chosen: split, only, seed."""
    first, second = modalities_of(model.records)
    image, text = fingerprints(model, "image"), fingerprints(model, "text")
    pairs = store.pairs(image=image, text=text, modalities=(first, second), **chosen)
    return regrouped(pairs, store.table(first))


def skipped(pairs: Pairs, store: Store) -> list[tuple[str, str]]:
    """(id, reason) of the images of `pairs` that could not be used."""
    wanted = {*pairs.images["id"].to_pylist(), *(id for id, _ in pairs.skipped)}
    listed = zip(store.skipped["id"].to_pylist(), store.skipped["reason"].to_pylist(), strict=True)
    return [(id, reason) for id, reason in listed if id in wanted]
