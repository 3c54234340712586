"""What the probes share: frozen and projected features are compared, to see what alignment keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.labels import check_classes
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.data.tables import Frame
from isthmus.errors import InputError
from isthmus.evaluation.exposure import Exposure
from isthmus.evaluation.inputs import Given, named, opened
from isthmus.evaluation.labelled import Labelled, embedded, from_features, from_store, skipped, stored_pairs
from isthmus.evaluation.suite.sets import CLASSES, canonical, open_set
from isthmus.metrics.bootstrap import estimate, paired_bootstrap
from isthmus.metrics.results import Result, result
from isthmus.metrics.scores import group_vector
from isthmus.models.dual_encoder import DualEncoder
from isthmus.store import open_store
from isthmus.store.opening import holds_features

DRAWS = 3
DEFINITION = (
    "Image features alone, frozen (as the encoder gives them) and projected (in the joint space). knn_acc1@k: the k "
    "nearest training images vote, weighted by exp(cosine / 0.07). lp_acc1: multinomial logistic regression on "
    "standardised features, its ridge chosen on a fifth of the training images. fewshot_acc1@k: the nearest mean, by "
    f"cosine, of k images of each class, mean over {DRAWS} draws. ci95 = 95 % intervals over groups of test images "
    "(docs/intervals.md); it holds no spread of draws. projected_minus_frozen is paired: both see the same resamples."
)
Correct = dict[str, np.ndarray]  # metric -> share of right answers of each test image, float64 [m]
Probed = FeaturePairs | Pairs | Frame | str | Path
Sides = tuple[Labelled, Labelled, list[tuple[str, str]], list[str]]  # train, test, skipped, remarks


def frozen_and_projected(
    task: str,
    answer: Callable[[Labelled, Labelled], Correct],
    model: Given,
    data: Probed,
    split: str,
    out: str | Path | None,
    unseen: bool,
    bootstrap: int,
    seed: int,
) -> list[Result]:
    """A result for each kind of features; the second compares them."""
    model, name = opened(model, encoders=not holds_features(data))
    exposure = Exposure(model, named(data), unseen)
    with ExitStack() as stack:
        folder = Path(out) if out is not None else Path(stack.enter_context(TemporaryDirectory()))
        train, test, left_out, remarks = _sides(model, data, split, folder)
    test = exposure.unseen_of(test)
    for part in (train, test):
        check_classes([str(label) for label in np.unique(part.labels)], named(data), read=False)
    frozen = answer(train, test)
    projected = answer(_projected(model, train), _projected(model, test))
    counts = {"train": len(train.labels), "test": len(test.labels), "classes": len(np.unique(train.labels))}
    compared = {
        metric: paired_bootstrap(projected[metric], frozen[metric], test.groups, resamples=max(bootstrap, 1), seed=seed)
        for metric in frozen
    }
    shared = {"n": counts, "definition": DEFINITION, "bootstrap": bootstrap, "seed": seed, "skipped": left_out}
    shared |= exposure.report()
    results = []
    for features, correct in (("frozen", frozen), ("projected", projected)):
        metrics, ci95 = _accuracies(correct, test.groups, bootstrap, seed)
        found = {"metrics": metrics, "ci95": ci95, "features": features, **shared}
        results.append(result(found, dataset=named(data), model=name, task=task))
    results[0]["notes"] = remarks
    results[-1] |= {"projected_minus_frozen": compared, "notes": [_in_words(compared)], "skipped": []}
    return results


def _projected(model: DualEncoder, images: Labelled) -> Labelled:
    return dataclasses.replace(images, features=model.project("image", images.features))


def _accuracies(
    correct: Correct, groups: np.ndarray, bootstrap: int, seed: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The mean of every metric, and its interval over groups."""
    unit = group_vector(groups, len(groups), "groups")
    values = np.stack([right.astype(np.float64) for right in correct.values()], axis=1)

    def statistic(weights: np.ndarray) -> np.ndarray:
        return weights[unit] @ values / weights[unit].sum()

    return estimate(statistic, list(correct), int(unit.max()) + 1, bootstrap, seed, shares=list(correct))


def _in_words(compared: dict[str, dict[str, Any]]) -> str:
    lines = []
    for metric, found in compared.items():
        low, high = found["ci95"] or (float("nan"),) * 2
        verdict = "" if low > 0 or high < 0 else ", a tie"
        lines.append(f"{metric} {100 * found['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]{verdict}")
    return "projected minus frozen: " + "; ".join(lines)


def _sides(model: DualEncoder, data: Probed, split: str, out: Path) -> Sides:
    """Training and test images of any kind of data."""
    if isinstance(data, FeaturePairs) or (isinstance(data, str | Path) and holds_features(data)):
        pairs_of = data if isinstance(data, FeaturePairs) else stored_pairs(model, open_store(data))
        train, test = map(from_features, _parts(pairs_of, split))
        return train, test, [], []
    read = {part: _labelled_pairs(data, part) for part in ("train", split)}
    pairs = {part: some for part, (some, _) in read.items()}
    path = Path(named(data))
    if {*pairs["train"].images["id"].to_pylist()} & {*pairs[split].images["id"].to_pylist()}:
        raise InputError(f"{named(data)}: has no split train apart from {split}; a probe must not test on what it saw.")
    store = out / "features" / canonical(path.stem if path.is_file() else path.name)
    stores = {part: embedded(model, some, store) for part, some in pairs.items()}
    train, test = (from_store(model, some, stores[split]) for some in pairs.values())
    remarks = dict.fromkeys(note for some, notes in read.values() for note in (*notes, *some.notes))
    return train, test, [item for part, some in pairs.items() for item in skipped(some, stores[part])], list(remarks)


def _parts(data: FeaturePairs, split: str) -> tuple[FeaturePairs, FeaturePairs]:
    """The splits train and `split` of the data; nothing is held out for validation."""
    name = np.array([one or "train" for one in data.splits or [None] * len(data)])
    if split == "train" or not {"train", split} <= set(name):
        there = " and ".join(sorted(set(name)))
        raise InputError(f"A probe needs the split train and another to test on, {split}; there is {there}.")
    return data.subset(name == "train"), data.subset(name == split)


def _labelled_pairs(data: Any, split: str) -> tuple[Pairs, list[str]]:
    """The images of one split, without captions, which would be encoded for nothing; remarks on the set."""
    path = Path(data) if isinstance(data, str | Path) else None
    if path is not None and path.is_dir():
        inside = sorted(child.parent.name for child in path.glob(f"*/{CLASSES}"))
        if inside:
            raise InputError(f"{path}: holds several data sets; a probe takes one of them: {', '.join(inside)}.")
        one = open_set(canonical(path.name), path, split)
        if one.task != "zeroshot_classification":
            raise InputError(f"{path}: a set for retrieval; a probe needs labels.")
        return one.pairs, one.notes
    pairs = data if isinstance(data, Pairs) else read_pairs(data, captions="optional")
    pairs = pairs.filter(split=split)
    return pairs.having(pairs.images, pairs.captions.slice(0, 0)), []
