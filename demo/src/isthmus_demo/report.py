"""The demo's report: plain facts in, one self-contained HTML page out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.report import Picture, render_page, write_page
from isthmus_demo import figures
from isthmus_demo.results import SystemResult, shown
from isthmus_demo.segments import Scenes


@dataclass(frozen=True)
class Search:
    """A free-text query and its best pictures among the test images, with their cosine."""

    query: str
    hits: Sequence[tuple[Picture, float]]


@dataclass(frozen=True)
class Mistake:
    """A picture given the wrong class, with the probability the model gave to that class."""

    picture: Picture
    true: str
    given: str
    probability: float


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    encoders: records with `modality`, `uri`, `width`, `licence`. splits: images and groups by name.
    stages: (what was done, seconds). chance: by metric. captions_with_class: share of the training captions that hold
    the name of a class. max_seconds: the time each recipe had.
    confusion: int [C, C], true class by class given, by `default`. scenes: segmented ones, if there are any.
    """

    command: str
    machine: str
    data: str
    encoders: Sequence[Mapping[str, Any]]
    splits: Mapping[str, Mapping[str, int]]
    stages: Sequence[tuple[str, float]]
    results: Sequence[SystemResult]
    chance: Mapping[str, float]
    captions_with_class: float
    max_seconds: float
    classes: Sequence[str]
    confusion: np.ndarray
    searches: Sequence[Search]
    mistakes: Sequence[Mistake]
    scenes: Scenes | None = None


def write_report(report: Report, path: str | Path) -> None:
    """Write the page."""
    write_page(render(report), path)


def render(report: Report) -> str:
    """The page as HTML; every picture and figure is inside it, nothing is fetched when it is opened."""
    columns = shown(report.results)
    return render_page(
        "isthmus_demo",
        "report.html.j2",
        command=report.command,
        report=report,
        columns=columns,
        best={c.metric: max(result.metrics[c.metric] for result in report.results) for c in columns},
        figures={
            "curves": figures.training_curves(report.results),
            "confusion": figures.confusion(report.confusion, report.classes),
        },
        largest_class=report.confusion.sum(axis=1).max() / report.confusion.sum(),
        confusions=largest_confusions(report.confusion, report.classes),
    )


def largest_confusions(counts: np.ndarray, classes: Sequence[str], top: int = 10) -> list[tuple[str, str, int, int]]:
    """(true class, class given, images, images of the true class) of the largest entries off the diagonal."""
    off = counts - np.diag(np.diag(counts))
    largest = np.argsort(-off, axis=None, kind="stable")[:top]
    pairs = zip(*np.unravel_index(largest, off.shape), strict=True)
    return [(classes[t], classes[g], int(off[t, g]), int(counts[t].sum())) for t, g in pairs if off[t, g]]
