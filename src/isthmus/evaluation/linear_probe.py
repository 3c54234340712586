"""A linear probe on image features, frozen and projected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from isthmus.data.columns import Columns
from isthmus.evaluation.inputs import Given
from isthmus.evaluation.labelled import Labelled
from isthmus.evaluation.probes import Correct, Probed, frozen_and_projected
from isthmus.evaluation.tasks import task
from isthmus.metrics.probing import linear_probe_correct
from isthmus.metrics.results import Result
from isthmus.store.opening import read_first


@task(primary="lp_acc1")
def linear_probe(
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
    """Logistic regression of the label: one result on image features as they are (frozen), one projected.

    data: a store with labels, labelled pairs with a `split`, or a data set in a layout that `suite` reads.

    Args:
        split: the split to test on (test); training uses the split train.
        out: keep the features in this folder and reuse them.
    """
    data = read_first(data, columns=columns, images=images, pages=pages, range=range)

    def answer(train: Labelled, test: Labelled) -> Correct:
        sides = (train.features, train.labels, test.features, test.labels)
        return {"lp_acc1": linear_probe_correct(*sides, groups=train.groups, seed=seed)}

    return frozen_and_projected("linear_probe", answer, model, data, split, out, unseen, bootstrap, seed)
