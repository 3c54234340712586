"""A page from a template that extends `base.html.j2`; nothing is fetched when it is opened."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image

from isthmus.errors import UsageError
from isthmus.files import write_atomic
from isthmus.version import __version__

THUMBNAIL = 144  # pixels; default for the largest side of pictures in pages


@dataclass(frozen=True)
class Picture:
    """An image, RGB, and its caption."""

    image: Image.Image
    caption: str


def render_page(package: str, template: str, *, command: str, **context: Any) -> str:
    """The page as HTML.

    Args:
        package: the Python package that holds the template, such as "isthmus_demo".
        template: the file's name; it says `{% extends "base.html.j2" %}` and fills the blocks `title`, `style` and
            `content`. Filters: `percent(digits)`, `points` (a signed difference in points), `picture(side)` (the data
            URI of a `Picture`), `duration`.
        command: the command line that made the page, for its foot.

    Raises:
        UsageError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined
    except ImportError as error:
        raise missing(error) from None

    def source(name: str) -> str:
        home = "isthmus.report" if name == "base.html.j2" else package
        return resources.files(home).joinpath(name).read_text(encoding="utf-8")

    environment = Environment(
        loader=FunctionLoader(source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "points": _points, "picture": data_uri, "duration": duration}
    return environment.get_template(template).render(command=command, version=__version__, **context)


def write_page(page: str, path: str | Path) -> None:
    """Write a page atomically."""
    write_atomic(path, lambda aside: aside.write_text(page, encoding="utf-8"))


class ReportMissing(UsageError):
    """A package of the `report` extra is not installed."""


def missing(error: ImportError) -> ReportMissing:
    return ReportMissing(f"The report needs {error.name}: pip install 'isthmus[report]'.")


@contextmanager
def on_top() -> Iterator[None]:
    """For a page that is optional beside results: if packages are missing, there is a warning and no page."""
    try:
        yield
    except ReportMissing as error:
        warnings.warn(f"No report was written. {error}", stacklevel=3)


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


def data_uri(picture: Picture, side: int = THUMBNAIL) -> str:
    """The picture as a WebP of at most `side` pixels inside a URI."""
    image = picture.image.convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=78)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
