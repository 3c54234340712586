"""k-NN on image features, frozen and projected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from isthmus.data.columns import Columns
from isthmus.evaluation.inputs import Given
from isthmus.evaluation.labelled import Labelled
from isthmus.evaluation.probes import Correct, Probed, frozen_and_projected
from isthmus.evaluation.tasks import task
from isthmus.metrics.probing import KS, knn_correct
from isthmus.metrics.results import Result
from isthmus.store.opening import read_first


@task(primary="knn_acc1@10")
def knn(
    model: Given,
    data: Probed,
    *,
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
    """k-NN classification on image features, frozen and projected: the nearest training images vote.

    data: as for `linear_probe`.

    Args:
        split: the split to test on (test); training uses the split train.
        out: keep the features in this folder and reuse them.
    """
    data = read_first(data, columns=columns, images=images, pages=pages, range=range)

    def answer(train: Labelled, test: Labelled) -> Correct:
        ks = [k for k in KS if k <= len(train.labels)] or [len(train.labels)]
        found = knn_correct(train.features, train.labels, test.features, test.labels, ks=ks)
        return {f"knn_acc1@{k}": right for k, right in found.items()}

    return frozen_and_projected("knn", answer, model, data, split, out, unseen, bootstrap, seed)
