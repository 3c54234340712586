"""MMVP-VLM: pairs of images that CLIP confuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isthmus.evaluation.compositional import MATCHES, evaluate_set
from isthmus.evaluation.datasets.mmvp import read_mmvp
from isthmus.evaluation.datasets.questions import Questions
from isthmus.evaluation.inputs import Given
from isthmus.evaluation.tasks import task
from isthmus.metrics.results import Result


@task(primary="pair_accuracy", columns=MATCHES)
def mmvp(
    model: Given,
    data: str | Path | Questions,
    *,
    images: str | Path | None = None,
    unseen: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[Result]:
    """Pair accuracy on MMVP-VLM, with a line per visual pattern.

    A pair is right if both statements find their image: Winoground's image score. Text and group score are given too.
    """
    results = evaluate_set(model, read_mmvp, data, images, unseen, bootstrap, seed)
    for found in results:
        _rename(found, "image_score", "pair_accuracy")
    return results


def _rename(found: Result, old: str, new: str) -> None:
    holders: list[Any] = [found, *found["per_category"]]
    for holder in holders:
        for part in ("metrics", "ci95", "chance", "ties"):
            if part in holder:
                holder[part] = {new if name == old else name: value for name, value in holder[part].items()}
