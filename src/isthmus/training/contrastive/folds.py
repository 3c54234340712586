"""Cross-validation, for data too small to set aside a test split: each pair is tested by a model that never saw it."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.errors import InputError, UsageError
from isthmus.metrics.results import Result, result
from isthmus.metrics.retrieval import Ranks, ranks, score
from isthmus.projectors.projector import project
from isthmus.training.contrastive.recipe import ContrastiveRecipe
from isthmus.training.contrastive.trainer import train_projectors

DEFINITION = (
    "Groups of near-duplicates are split into folds; each fold is tested by a model trained on the others, on which "
    "the recipe also holds out its own validation split. A query's candidates are those of its fold only, n.candidates "
    "images on average: recall@k is easier than among all. ci95 resamples groups over all folds; that the models "
    "would differ on other training data is not in it. folds = mean_recall@10 of each."
)


def cross_validate(
    pairs: FeaturePairs,
    recipe: ContrastiveRecipe,
    *,
    folds: int = 5,
    seed: int = 0,
    bootstrap: int = 1000,
    max_seconds: float | None = None,
    device: str | None = None,
    progress: bool | None = None,
) -> Result:
    """Retrieval by `folds` models, as `results.result` gives it; splits in the data are ignored.

    max_seconds (of each fold), device, progress: of `train_projectors`.

    Raises UsageError for fewer than two folds, InputError where there are fewer groups than folds.
    """
    options: dict[str, Any] = {"max_seconds": max_seconds, "device": device, "progress": progress}
    place = assign_folds(pairs, folds, seed)
    pairs = dataclasses.replace(pairs, splits=None)
    tested = [_test(pairs, place == fold, recipe, seed, options) for fold in range(folds)]
    found = score(_pooled(tested), pairs.bootstrap_group, bootstrap=bootstrap, seed=seed)
    singly = [score(one, pairs.bootstrap_group, bootstrap=0)["metrics"]["mean_recall@10"] for one in tested]
    found["n"] |= {"images": len(pairs), "folds": folds, "candidates": len(pairs) / folds}
    found |= {"folds": singly, "definition": f"{DEFINITION} {found['definition']}"}
    return result(found, dataset=f"{folds}-fold", model=recipe.name or "recipe", task="zeroshot_retrieval")


def assign_folds(pairs: FeaturePairs, folds: int, seed: int = 0) -> np.ndarray:
    """The fold of every image, int64 [n].

    Whole groups, the largest first and among equals in the order of a hash of their smallest image id, are assigned one
    by one to the smallest fold, so the order of rows does not matter.
    """
    if folds < 2:
        raise UsageError(f"folds={folds}: cross-validation takes 2 or more.")
    first: dict[int, str] = {}
    for group, id in zip(pairs.bootstrap_group.tolist(), pairs.image_ids, strict=True):
        first[group] = min(id, first.get(group, id))
    if len(first) < folds:
        raise InputError(f"{len(first)} groups of images are too few for {folds} folds.")
    sizes = np.zeros(folds, np.int64)
    fold_of: dict[int, int] = {}
    members = dict(zip(*np.unique(pairs.bootstrap_group, return_counts=True), strict=True))
    for group in sorted(first, key=lambda group: (-members[group], _hash(seed, first[group]))):
        fold_of[group] = int(sizes.argmin())
        sizes[fold_of[group]] += members[group]
    return np.array([fold_of[group] for group in pairs.bootstrap_group.tolist()])


def _hash(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode("utf-8", "surrogatepass")).digest()


def _test(
    pairs: FeaturePairs, held: np.ndarray, recipe: ContrastiveRecipe, seed: int, options: dict[str, Any]
) -> Ranks:
    """The ranks of the images `held` [n] by a model trained on the others, rows counted as in `pairs`."""
    parts = pairs.subset(~held).split(seed=seed)
    trained = train_projectors(parts["train"], parts.get("val"), recipe, seed=seed, **options)
    test = pairs.subset(held)
    image, text = (
        project(projector, matrix, next(projector.parameters()).device)
        for projector, matrix in ((trained.image_projector, test.image), (trained.text_projector, test.text))
    )
    found = ranks(image, text, test.image_of)
    return dataclasses.replace(found, image_of=np.flatnonzero(held)[found.image_of])


def _pooled(tested: list[Ranks]) -> Ranks:
    return Ranks(
        image=np.concatenate([one.image for one in tested]),
        text=np.concatenate([one.text for one in tested]),
        image_of=np.concatenate([one.image_of for one in tested]),
        images=sum(one.images for one in tested),
    )
