"""Few shots: the nearest class mean of image features, frozen and projected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isthmus.data.columns import Columns
from isthmus.evaluation.inputs import Given
from isthmus.evaluation.labelled import Labelled
from isthmus.evaluation.probes import DRAWS, Correct, Probed, frozen_and_projected
from isthmus.evaluation.tasks import task
from isthmus.metrics.nearest import top_k
from isthmus.metrics.results import Result
from isthmus.metrics.scores import unit_rows
from isthmus.store.opening import read_first

SHOTS = (1, 2, 4, 8, 16)


@task(primary="fewshot_acc1@16", columns=[f"fewshot_acc1@{k}" for k in SHOTS])
def fewshot(
    model: Given,
    data: Probed,
    *,
    shots: Sequence[int] = SHOTS,
    split: str = "test",
    out: str | Path | None = None,
    columns: str | Columns | None = None,
    images: str | Path | None = None,
    pages: str | int | None = None,
    range: str | Sequence[float] | None = None,
    unseen: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[Result]:
    """Few-shot classification by the nearest class mean, on image features, frozen and projected.

    data: as for `linear_probe`.

    Args:
        shots: training images per class (all, if a class has fewer).
        split: the split to test on (test); training uses the split train.
        out: keep the features in this folder and reuse them.
    """
    data = read_first(data, columns=columns, images=images, pages=pages, range=range)

    def answer(train: Labelled, test: Labelled) -> Correct:
        return {f"fewshot_acc1@{k}": _few(train, test, k, seed) for k in shots}

    return frozen_and_projected("fewshot", answer, model, data, split, out, unseen, bootstrap, seed)


def _few(train: Labelled, test: Labelled, k: int, seed: int) -> np.ndarray:
    """Share of draws in which the nearest mean of k unit features is that of a test image's class.

    There is no fit, on purpose: a logistic regression on a handful of images depends more on the scaling of the
    features than on their content.
    """
    labels, number = np.unique(train.labels, return_inverse=True)
    unit = unit_rows(train.features, "image features").numpy()
    draws = []
    for draw in range(DRAWS):
        order = np.random.default_rng([seed, draw]).permutation(len(number))
        means = np.stack([unit[order[number[order] == c][:k]].mean(axis=0) for c in range(len(labels))])
        draws.append(labels[top_k(test.features, means, k=1)[1][:, 0]] == test.labels)
    return np.mean(draws, axis=0)
