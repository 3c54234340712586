"""Evaluation images and captions that are also in the training data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isthmus.curation.collection import Collection, ImageSpace, of_evaluation
from isthmus.curation.encoding import Encoding, side_by_side
from isthmus.curation.leaks import Leak, find_leaks
from isthmus.data.contents import items_of_hashes
from isthmus.data.encoder_record import modalities_of
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.errors import UsageError
from isthmus.evaluation.exposure import TRAINED, content_of
from isthmus.metrics.bootstrap import estimate
from isthmus.models.dual_encoder import DualEncoder
from isthmus.store.opening import open_source


@dataclass
class Audit:
    """leaks: the closest training match of each evaluated image, by every method. notes: what was not compared."""

    evaluated: Collection
    train: Collection
    leaks: list[Leak]
    notes: list[str]
    images: int

    def seen(self) -> set[str]:
        """Ids of the evaluated images that are also in the training data."""
        return {self.evaluated.ids[leak.row] for leak in self.leaks}

    def counts(self) -> dict[str, int]:
        """Evaluated images, training images, and how many of the first are among the second, by method and in all."""
        usable = self.train.usable
        held = len(self.train) if usable is None else int(usable.sum())
        by_method = {how: len({leak.row for leak in self.leaks if leak.how == how}) for how in self._methods()}
        return {"images": self.images, "train_images": held, "seen": len(self.seen()), **by_method}

    def _methods(self) -> list[str]:
        return list(dict.fromkeys(leak.how for leak in self.leaks))


def audit(model: DualEncoder, data: Any, against: Any, *, split: str | None, ids: list[str], near: float) -> Audit:
    """Compare the images `ids` of `data` with those of `against` that trained the model, and no others.

    By everything known of both sides: equal bytes, perceptual hash (where both are pairs with pictures; needs the extra
    `curate`), encoder features of a cosine of at least `near`, captions of four words or more.
    """
    space = _space(model)
    evaluated, train = _collection(data, space), _collection(against, space)
    told = _training(model, train, against)
    wanted = set(ids)
    rows = np.array([row for row, name in enumerate(evaluated.ids) if name in wanted], np.int64)
    train.name = "train"
    leaks, notes = find_leaks(evaluated, rows, [train], near=near)
    return Audit(evaluated, train, leaks, told + notes, len(rows))


def _space(model: DualEncoder) -> ImageSpace:
    """The space of the model's image features, before projection; pictures come into it where encoders are loaded."""
    fingerprints = [record["fingerprint"] for record in model.records["image"]]
    return ImageSpace(Encoding(image=side_by_side(model.encoders.get("image", []))), fingerprints)


def _collection(source: Any, space: ImageSpace) -> Collection:
    """All of `source`."""
    opened = open_source(source)
    if isinstance(opened, FeaturePairs):
        raise UsageError("The audit compares pairs or stores with their ids; arrays cannot be compared.")
    found = of_evaluation(opened, space)
    found.usable = None
    return found


def _training(model: DualEncoder, train: Collection, against: Any) -> list[str]:
    """Let only those of `train` be usable that trained the model; what there is to say of it."""
    named = f"{train.name}: "
    if model.seen is None:
        opened: Any = open_source(against)
        splits = opened.images["split"].to_pylist()
        train.usable = np.array([one == "train" for one in splits]) if "train" in splits else None
        counted = "its training split counts as such" if "train" in splits else "all of it counts as training data"
        return [f"{named}the model does not remember what trained it; {counted}."]
    if train.hashes is None:
        train.hashes = [content_of(train.pictures, row) if train.pictures else None for row in range(len(train))]
    held = np.array([one is not None for one in train.hashes], bool)
    items = items_of_hashes([one for one in train.hashes if one is not None])
    train.usable = held.copy()
    train.usable[held] = model.seen.roles(modalities_of(model.records)[0], items) == TRAINED
    if not train.usable.any():
        return [f"{named}none of its {len(train):,} pictures trained this model. Give what it was trained from."]
    left_out = len(train) - int(train.usable.sum())
    return (
        [f"{named}{left_out:,} of its {len(train):,} pictures did not train this model: left out."] if left_out else []
    )


def recall_by_novelty(
    hits: Sequence[np.ndarray],
    owners: Sequence[np.ndarray],
    seen: np.ndarray,
    groups: np.ndarray,
    bootstrap: int,
    seed: int,
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """R@1, mean of both directions, of images that training has seen and of images it has not seen.

    hits: bool [q] by direction; owners: the image of every query; seen: bool [n], groups: [n] by image.
    """
    unit = np.unique(groups, return_inverse=True)[1]
    parts = {"seen_recall@1": seen, "unseen_recall@1": ~seen}
    if not seen.any() or seen.all():
        return {}, {}

    def statistic(weights: np.ndarray) -> np.ndarray:
        found = []
        for part in parts.values():
            rates = []
            for hit, owner in zip(hits, owners, strict=True):
                weight = weights[unit[owner]] * part[owner]
                rates.append((weight * hit).sum() / max(weight.sum(), 1e-12))
            found.append(np.mean(rates))
        return np.array(found)

    return estimate(statistic, list(parts), int(unit.max()) + 1, bootstrap, seed, shares=list(parts))
