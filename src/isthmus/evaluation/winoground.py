"""Winoground: two images, two captions of the same words."""

from __future__ import annotations

from pathlib import Path

from isthmus.evaluation.compositional import MATCHES, evaluate_set
from isthmus.evaluation.datasets.questions import Questions
from isthmus.evaluation.datasets.winoground import read_winoground
from isthmus.evaluation.inputs import Given
from isthmus.evaluation.tasks import task
from isthmus.metrics.results import Result


@task(primary="group_score", columns=MATCHES)
def winoground(
    model: Given,
    data: str | Path | Questions,
    *,
    images: str | Path | None = None,
    unseen: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[Result]:
    """Text, image, group and matching score on Winoground, with a line per tag."""
    return evaluate_set(model, read_winoground, data, images, unseen, bootstrap, seed)
