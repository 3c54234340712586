"""SugarCrepe: choose between two captions, one of which is slightly wrong."""

from __future__ import annotations

from pathlib import Path

from isthmus.evaluation.compositional import CHOICES, evaluate_set
from isthmus.evaluation.datasets.questions import Questions
from isthmus.evaluation.datasets.sugarcrepe import read_sugarcrepe
from isthmus.evaluation.inputs import Given
from isthmus.evaluation.tasks import task
from isthmus.metrics.results import Result


@task(primary="accuracy", columns=CHOICES)
def sugarcrepe(
    model: Given,
    data: str | Path | Questions,
    *,
    images: str | Path | None = None,
    unseen: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[Result]:
    """Accuracy on each of SugarCrepe's files."""
    return evaluate_set(model, read_sugarcrepe, data, images, unseen, bootstrap, seed)
