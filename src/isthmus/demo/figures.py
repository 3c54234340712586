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
    """Rows: the true class, best recognised first; columns: the class given. Shade: share of the row."""
    from matplotlib import rc_context
    from matplotlib.collections import PatchCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    totals = counts.sum(axis=1)
    share = counts / np.maximum(totals, 1)[:, None]
    order = np.argsort(-np.diag(share), kind="stable")
    share, totals = share[np.ix_(order, order)], totals[order]
    size = len(order)
    occurring = np.argwhere(share).tolist()
    with rc_context({**STYLE, "axes.spines.bottom": False, "axes.spines.left": False}):
        side = 2.2 + 0.17 * size
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        cells = [Rectangle((column, row), 0.94, 0.94) for row, column in occurring]
        shades = [(*ACCENT, 0.08 + 0.92 * share[row, column]) for row, column in occurring]
        axes.add_collection(PatchCollection(cells, facecolors=shades, linewidths=0))
        axes.set(xlim=(0, size), ylim=(size, 0), aspect="equal", xlabel="class given", ylabel="true class")
        ticks = np.arange(size) + 0.5
        names = [classes[i] for i in order]
        axes.set_xticks(ticks, names, rotation=90)
        axes.set_yticks(ticks, [f"{name} · {total}" for name, total in zip(names, totals, strict=True)])
        axes.tick_params(length=0)
        recall = axes.secondary_yaxis("right")
        recall.set_yticks(ticks, [f"{100 * share[i, i]:.0f} %" for i in range(size)])
        recall.tick_params(length=0)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    """`figure` as an inline `<svg>` element that scales with the page."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
