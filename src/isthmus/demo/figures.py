"""The report's figures: SVG that takes its text colour from the page, so that it reads in light and dark."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isthmus.demo.results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ["#e08a1e", "#2a9d8f", "#a06cd5", "#d9538b", "#3b82f6", "#8d99ae"]
EPOCH_TICKS = [0, 1, 2, 5, 10, 20, 50, 100, 200]
INK = "#010203"  # replaced by the page's own text colour
ACCENT = (0.231, 0.510, 0.965)
CELL = 0.17  # inches
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


def training_curves(results: Sequence[Result]) -> str:
    """Validation recall against time and against epochs, a line for each recipe."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.7), layout="constrained")
        by_time, by_epoch = figure.subplots(1, 2, sharey=True)
        for result, colour in zip(results, PALETTE, strict=False):
            _curve(by_time, by_epoch, result, colour)
        by_time.set(xlabel="seconds of training", ylabel="validation R@1, %, mean of both directions")
        by_epoch.set(xlabel="epochs")
        by_epoch.set_xscale("symlog", linthresh=1)
        by_epoch.set_xticks(EPOCH_TICKS, [str(tick) for tick in EPOCH_TICKS])
        by_epoch.set_xticks([], minor=True)
        by_epoch.set_xlim(0, max([2, *(epoch for result in results for epoch in result.curve.epochs)]))
        by_time.set_xlim(0)
        by_time.set_ylim(0)
        for axes in (by_time, by_epoch):
            axes.grid(color=INK, alpha=0.12, linewidth=0.7)
        figure.legend(loc="outside upper center", ncols=len(results), frameon=False)
        return _svg(figure)


def _curve(by_time: Axes, by_epoch: Axes, result: Result, colour: str) -> None:
    """A trained recipe is a line; a closed form is a level, reached at once."""
    curve, recall = result.curve, 100 * np.asarray(result.curve.recall)
    if result.planned == 0:
        for axes in (by_time, by_epoch):
            axes.axhline(recall[-1], color=colour, linewidth=1.4, linestyle=(0, (5, 3)))
        by_time.plot([], [], color=colour, linestyle=(0, (5, 3)), label=f"{result.recipe} (closed form)")
        return
    by_time.plot(curve.seconds, recall, color=colour, linewidth=1.8, marker=".", label=result.recipe)
    by_epoch.plot(curve.epochs, recall, color=colour, linewidth=1.8, marker=".")


def confusion(counts: np.ndarray, classes: Sequence[str]) -> str:
    """Rows: the true class, best recognised first, where it has pictures; columns: the class given, likewise,
    then the others. Shade: share of the row. counts: int [C, C]."""
    from matplotlib import rc_context
    from matplotlib.collections import PatchCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    totals = counts.sum(axis=1)
    share = counts / np.maximum(totals, 1)[:, None]
    columns = np.argsort(np.where(totals, -np.diag(share), 1), kind="stable")
    rows = columns[: np.count_nonzero(totals)]
    ordered = share[np.ix_(rows, columns)]
    occurring = np.argwhere(ordered).tolist()
    with rc_context({**STYLE, "axes.spines.bottom": False, "axes.spines.left": False}):
        figure = Figure(figsize=(2.4 + CELL * len(columns), 1.8 + CELL * len(rows)), layout="constrained")
        axes = figure.subplots()
        cells = [Rectangle((column, row), 0.94, 0.94) for row, column in occurring]
        shades = [(*ACCENT, 0.07 + 0.93 * ordered[row, column] ** 0.7) for row, column in occurring]
        axes.add_collection(PatchCollection(cells, facecolors=shades, linewidths=0))
        axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0), aspect="equal")
        axes.set(xlabel="class given", ylabel="true class")
        axes.set_xticks(np.arange(len(columns)) + 0.5, [classes[i] for i in columns], rotation=90)
        axes.set_yticks(np.arange(len(rows)) + 0.5, [f"{classes[i]} · {totals[i]}" for i in rows])
        right = axes.secondary_yaxis("right")
        right.set_yticks(np.arange(len(rows)) + 0.5, [f"{100 * share[i, i]:.0f} %" for i in rows])
        right.spines["right"].set_visible(False)
        for labelled in (axes, right):
            labelled.tick_params(length=0)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    """`figure` as an inline `<svg>` element that scales with the page."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
