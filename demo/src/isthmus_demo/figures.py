"""The demo report's figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from isthmus.report.figures import ACCENT, INK, PALETTE, drawn
from isthmus_demo.results import SystemResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EPOCH_TICKS = [0, 1, 2, 5, 10, 20, 50, 100, 200]
CELL = 0.17  # inches


@drawn
def training_curves(results: Sequence[SystemResult]) -> Figure:
    """Validation recall against time and against epochs, a line for each recipe."""
    from matplotlib.figure import Figure

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
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _curve(by_time: Axes, by_epoch: Axes, result: SystemResult, colour: str) -> None:
    """A trained recipe is a line; a closed form is a level, reached at once."""
    curve, recall = result.curve, 100 * np.asarray(result.curve.recall)
    if result.planned == 0:
        for axes in (by_time, by_epoch):
            axes.axhline(recall[-1], color=colour, linewidth=1.4, linestyle=(0, (5, 3)))
        by_time.plot([], [], color=colour, linestyle=(0, (5, 3)), label=f"{result.recipe} (closed form)")
        return
    by_time.plot(curve.seconds, recall, color=colour, linewidth=1.8, marker=".", label=result.recipe)
    by_epoch.plot(curve.epochs, recall, color=colour, linewidth=1.8, marker=".")


@drawn
def confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Rows: the true class, best recognised first, where it has pictures; columns: the class given, likewise,
    then the others. Shade: share of the row. counts: int [C, C]."""
    from matplotlib.collections import PatchCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    totals = counts.sum(axis=1)
    share = counts / np.maximum(totals, 1)[:, None]
    columns = np.argsort(np.where(totals, -np.diag(share), 1), kind="stable")
    rows = columns[: np.count_nonzero(totals)]
    ordered = share[np.ix_(rows, columns)]
    occurring = np.argwhere(ordered).tolist()
    figure = Figure(figsize=(2.4 + CELL * len(columns), 1.8 + CELL * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.spines[:].set_visible(False)
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
    return figure
