"""The plots of a diagnosis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isthmus.data.feature_pairs import SIDES
from isthmus.data.matrix import evenly
from isthmus.encoders.modality import spec_of
from isthmus.metrics.calibration import FEWEST, precision_curve
from isthmus.report.figures import INK, PALETTE, drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from isthmus.evaluation.diagnosis.findings import Judged

POINTS = 1200  # pairs drawn in the map
LINES = 60  # of them joined by a line
COLOURS = dict(zip(SIDES, (PALETTE[4], PALETTE[0]), strict=True))
NAMES = {side: spec_of(side).table for side in SIDES}


@drawn
def map_of_space(image: np.ndarray, text: np.ndarray, image_of: np.ndarray) -> Figure:
    """Images and captions on the two directions in which they differ most (principal components of both)."""
    from matplotlib.figure import Figure

    some = evenly(len(text), POINTS)
    both = np.concatenate([image[image_of[some]], text[some]]).astype(np.float64)
    centred = both - both.mean(axis=0)
    _, values, basis = np.linalg.svd(centred, full_matrices=False)
    flat = centred @ basis[:2].T
    if flat.shape[1] < 2:
        flat = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    shares = np.pad(values**2 / max(float((values**2).sum()), 1e-30), (0, 2))[:2]
    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = figure.subplots()
    sides = dict(zip(SIDES, (flat[: len(some)], flat[len(some) :]), strict=True))
    step = max(1, len(some) // LINES)
    for a, b in zip(*(points[::step] for points in sides.values()), strict=True):
        axes.plot([a[0], b[0]], [a[1], b[1]], color=INK, alpha=0.3, linewidth=0.6, zorder=1)
    for side, points in sides.items():
        x, y = points.T
        axes.scatter(x, y, s=5, color=COLOURS[side], alpha=0.55, linewidths=0, label=NAMES[side], zorder=2)
        axes.scatter(x.mean(), y.mean(), s=90, marker="X", color=COLOURS[side], edgecolors=INK, zorder=3)
    first, second = (f"{100 * share:.0f} %" for share in shares)
    axes.set(xlabel=f"first component ({first} of the variance)", ylabel=f"second ({second})")
    axes.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, markerscale=2.5)
    return figure


@drawn
def cosines(own: np.ndarray, others: np.ndarray) -> Figure:
    """Cosines of captions with their own image and with others."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.2), layout="constrained")
    axes = figure.subplots()
    every = np.concatenate([own, others])
    edges = np.linspace(every.min(), every.max() + 1e-9, 61).tolist()
    both = ((others, "with another's image", PALETTE[5]), (own, "with its own image", PALETTE[1]))
    for values, label, colour in both:
        axes.hist(values, edges, weights=np.full(len(values), 100 / len(values)), color=colour, alpha=0.7, label=label)
    axes.set(xlabel="cosine of a caption", ylabel="% of captions")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


@drawn
def hubs(counts: Mapping[str, np.ndarray], names: Mapping[str, Sequence[str]], k: int) -> Figure:
    """How many items are found how often. A line marks the mean: without hubs, all items would lie there."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.2), layout="constrained")
    for axes, (side, values) in zip(figure.subplots(1, 2), counts.items(), strict=True):
        most = int(values.max())
        edges = np.arange(-0.5, min(most, 60) + 1.5) if most <= 60 else np.linspace(-0.5, most + 0.5, 61)
        axes.hist(values, edges.tolist(), weights=np.full(len(values), 100 / len(values)), color=COLOURS[side])
        axes.axvline(values.mean(), color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_yscale("log")
        (asking,) = (name for other, name in NAMES.items() if other != side)
        axes.set(xlabel=f"times among the {k} nearest of {asking}", ylabel=f"% of {NAMES[side]}, log scale")
    return figure


@drawn
def calibration(judged: Mapping[str, Judged], titles: Mapping[str, str]) -> Figure:
    """Left: accuracy against confidence. Right: accuracy if only the most confident answers are given."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 100], [0, 100], color=INK, alpha=0.35, linewidth=1, linestyle=(0, (4, 3)))
    for (name, one), colour in zip(judged.items(), PALETTE, strict=False):
        _reliability(left, one.bins, colour)
        _, precision, coverage = precision_curve(one.confidence, one.right)
        right.plot(100 * coverage, 100 * precision, color=colour, linewidth=1.6, label=titles[name])
    left.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence, %", ylabel="right, %")
    right.set(xlim=(0, 100), ylim=(0, 101), xlabel="answered, surest first, %", ylabel="of these right, %")
    for axes in (left, right):
        axes.grid(color=INK, alpha=0.1, linewidth=0.7)
    figure.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    return figure


def _reliability(axes: Any, bins: Sequence[dict[str, Any]], colour: str) -> None:
    """A line through the bins that hold enough answers; a dot's area is its share of the answers."""
    bins = [one for one in bins if one["n"] >= FEWEST]
    x, y = ([100 * one[key] for one in bins] for key in ("confidence", "accuracy"))
    share = np.array([one["n"] for one in bins]) / max(1, sum(one["n"] for one in bins))
    axes.plot(x, y, color=colour, linewidth=1.4)
    axes.scatter(x, y, s=12 + 260 * share, color=colour, alpha=0.75, linewidths=0)
