"""Zero-shot classification."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from isthmus.data.columns import Columns
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.labels import class_names
from isthmus.evaluation.exposure import Exposure
from isthmus.evaluation.inputs import (
    Data,
    Given,
    chosen_data,
    embed_chosen,
    match_labels,
    named,
    opened,
    zeroshot_labels,
)
from isthmus.evaluation.tasks import Prompts, task
from isthmus.metrics.results import Result, result
from isthmus.metrics.zeroshot import load_templates
from isthmus.store.opening import read_first

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
    columns: str | Columns | None = None,
    images: str | Path | None = None,
    pages: str | int | None = None,
    range: str | Sequence[float] | None = None,
    unseen: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Result:
    """Classify images by the text of the class names, on pairs or a store with labels."""
    data = read_first(data, columns=columns, images=images, pages=pages, range=range)
    model, name = opened(model)
    exposure = Exposure(model, named(data), unseen, captions=False)
    chosen = chosen_data(model, data, split=split, only=only, seed=seed)
    labels = chosen.labels if isinstance(chosen, FeaturePairs) else chosen.images["label"].to_pylist()
    folders = [] if isinstance(chosen, FeaturePairs) else chosen.class_folders
    match_labels(labels or [], class_names(classes), folders)  # errors come before anything is encoded
    prompts = load_templates(templates) if isinstance(templates, str | Path) else templates
    embedded = embed_chosen(model, chosen, exposure)
    found = zeroshot_labels(
        model.encode_text, embedded, classes, prompts, groups=embedded.groups, bootstrap=bootstrap, seed=seed
    )
    found |= embedded.seen | {"skipped": embedded.skipped, "notes": embedded.notes}
    return result(found, dataset=named(data), model=name, task="zeroshot_classification")
