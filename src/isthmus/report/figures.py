"""The style of figures: SVG with the page's text colour, legible in light and dark mode."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

from isthmus.report.page import missing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")

PALETTE = ["#e08a1e", "#2a9d8f", "#a06cd5", "#d9538b", "#3b82f6", "#8d99ae"]
INK = "#010203"  # replaced by the page's own text colour
ACCENT = (0.231, 0.510, 0.965)
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "isthmus",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def drawn(draw: Callable[P, Figure]) -> Callable[P, str]:
    """Let a function that draws a figure return it as an inline `<svg>`, in the style of the pages.

    Raises `UsageError` where matplotlib is not installed.
    """

    @wraps(draw)
    def as_svg(*args: P.args, **kwargs: P.kwargs) -> str:
        try:
            from matplotlib import rc_context
        except ImportError as error:
            raise missing(error) from None
        with rc_context(STYLE):
            return svg(draw(*args, **kwargs))

    return as_svg


def svg(figure: Figure) -> str:
    """`figure` as an inline `<svg>` element that scales with the page."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
