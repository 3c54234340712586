"""What's Up: spatial relations (left or right, on or under)."""

from __future__ import annotations

from pathlib import Path

from isthmus.evaluation.compositional import CHOICES, evaluate_set
from isthmus.evaluation.datasets.questions import Questions
from isthmus.evaluation.datasets.whatsup import read_whatsup
from isthmus.evaluation.inputs import Given
from isthmus.evaluation.tasks import task
from isthmus.metrics.results import Result


@task(primary="accuracy", columns=CHOICES)
def whatsup(
    model: Given,
    data: str | Path | Questions,
    *,
    images: str | Path | None = None,
    unseen: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[Result]:
    """Accuracy on those of What's Up's six sets that are there."""
    return evaluate_set(model, read_whatsup, data, images, unseen, bootstrap, seed)
