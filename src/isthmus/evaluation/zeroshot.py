"""Zero-shot classification."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from isthmus.evaluation.inputs import Data, Given, embed_for_evaluation, named, opened, zeroshot_labels
from isthmus.evaluation.tasks import Prompts, task
from isthmus.metrics.results import Result, result

COLUMNS = ("acc1", "acc5", "mean_per_class_recall")


@task(primary="acc1", columns=COLUMNS)
def zeroshot(
    model: Given,
    data: Data,
    *,
    classes: str | Path | Sequence[str] | None = None,
    templates: Prompts = "default",
    split: str | None = None,
    only: str | Path | Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Result:
    """Images find their labels by the text of the labels' names; pairs or a store with labels.

    Args:
        classes: names of the classes, in a file with one a line; default: the labels that occur.
        templates: prompts with a {} slot, a file of them, or the name of a packaged set.
        split: only this split of the data: train, val or test.
        only: only the ids in this Parquet file (column `id`).
        bootstrap: resamples of groups behind the 95 % intervals, 0 for none (1,000).
        seed: of the bootstrap, and of a validation split that the data does not name.
    """
    model, name = opened(model)
    embedded = embed_for_evaluation(model, data, split=split, only=only, seed=seed)
    found = zeroshot_labels(
        model.encode_text, embedded, classes, templates, groups=embedded.groups, bootstrap=bootstrap, seed=seed
    )
    found["skipped"] = embedded.skipped
    return result(found, dataset=named(data), model=name, task="zeroshot_classification")
