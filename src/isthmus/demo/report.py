"""The demo's report: plain facts in, one self-contained HTML page out."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from isthmus.demo import figures
from isthmus.demo.results import Result, shown
from isthmus.errors import UsageError
from isthmus.files import write_atomic

THUMBNAIL = 144  # pixels; the page shows pictures at most this large
TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Picture:
    """A picture of the test split, RGB, and the caption that came with it."""

    image: Image.Image
    caption: str


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
    stages: (what was done, seconds). chance: what guessing reaches, by metric. captions_with_class: share of
    the training captions that hold the name of a class. max_seconds: the time each recipe had.
    confusion: int [C, C], true class by class given, by `default`.
    """

    command: str
    version: str
    machine: str
    data: str
    encoders: Sequence[Mapping[str, Any]]
    splits: Mapping[str, Mapping[str, int]]
    stages: Sequence[tuple[str, float]]
    results: Sequence[Result]
    chance: Mapping[str, float]
    captions_with_class: float
    max_seconds: float
    classes: Sequence[str]
    confusion: np.ndarray
    searches: Sequence[Search]
    mistakes: Sequence[Mistake]


def write_report(report: Report, path: str | Path) -> None:
    """Write the page. Raises `UsageError` where the packages of the `demo` extra are not installed."""
    page = render(report)
    write_atomic(path, lambda aside: aside.write_text(page, encoding="utf-8"))


def render(report: Report) -> str:
    """The page as HTML; every picture and figure is inside it, nothing is fetched when it is opened."""
    try:
        from jinja2 import Environment, StrictUndefined

        drawn = {
            "curves": figures.training_curves(report.results),
            "confusion": figures.confusion(report.confusion, report.classes),
        }
    except ImportError as error:
        raise UsageError(f"The report needs {error.name}: pip install 'isthmus[demo]'.") from None
    columns = shown(report.results)
    filters = {"percent": _percent, "points": _points, "picture": _data_uri, "duration": duration}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= filters
    source = resources.files("isthmus.demo").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(
        report=report,
        columns=columns,
        best={c.metric: max(result.metrics[c.metric] for result in report.results) for c in columns},
        figures=drawn,
        largest_class=report.confusion.sum(axis=1).max() / report.confusion.sum(),
        confusions=largest_confusions(report.confusion, report.classes),
    )


def largest_confusions(counts: np.ndarray, classes: Sequence[str], top: int = 10) -> list[tuple[str, str, int, int]]:
    """(true class, class given, images, images of the true class) of the largest entries off the diagonal."""
    off = counts - np.diag(np.diag(counts))
    largest = np.argsort(-off, axis=None, kind="stable")[:top]
    pairs = zip(*np.unravel_index(largest, off.shape), strict=True)
    return [(classes[t], classes[g], int(off[t, g]), int(counts[t].sum())) for t, g in pairs if off[t, g]]


def duration(seconds: float) -> str:
    """`"2 min 5 s"`, `"1 min"`, `"42 s"`, `"0.8 s"`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    parts = [(minutes, "min"), (rest, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"


def _points(share: float) -> str:
    """A difference in percentage points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "−")


def _data_uri(picture: Picture) -> str:
    """The picture as a small WebP inside a URI."""
    image = picture.image.convert("RGB")
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=78)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
