"""ARO: attributes, relations and the order of words."""

from __future__ import annotations

from pathlib import Path

from isthmus.evaluation.compositional import CHOICES, evaluate_set
from isthmus.evaluation.datasets.aro import read_aro
from isthmus.evaluation.datasets.questions import Questions
from isthmus.evaluation.inputs import Given
from isthmus.evaluation.tasks import task
from isthmus.metrics.results import Result


@task(primary="accuracy", columns=CHOICES)
def aro(
    model: Given,
    data: str | Path | Questions,
    *,
    images: str | Path | None = None,
    unseen: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[Result]:
    """Accuracy on those of ARO's four sets that are there.

    ARO's published numbers for relations and attributes are means over categories.
    """
    return evaluate_set(model, read_aro, data, images, unseen, bootstrap, seed)
