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
    """Images find their labels by the text of the labels' names; pairs or a store with labels."""
    model, name = opened(model)
    embedded = embed_for_evaluation(model, data, split=split, only=only, seed=seed)
    found = zeroshot_labels(
        model.encode_text, embedded, classes, templates, groups=embedded.groups, bootstrap=bootstrap, seed=seed
    )
    found["skipped"] = embedded.skipped
    return result(found, dataset=named(data), model=name, task="zeroshot_classification")
