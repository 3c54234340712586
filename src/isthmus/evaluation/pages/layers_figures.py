"""The plots of the page on layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isthmus.report.figures import INK, PALETTE, drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from isthmus.evaluation.layer_findings import Mixing

COLOURS = {"image": PALETTE[4], "text": PALETTE[0]}
SIDES_SAID = {"image": "image encoder", "text": "text encoder"}


@drawn
def weights(mixing: Mapping[str, Sequence[Mixing]], numbers: Mapping[str, Sequence[int | None]]) -> Figure:
    """A table of shades for each encoder: cross-modal layers upwards, the encoder's layers to the right."""
    from matplotlib.figure import Figure

    depth = max(map(len, mixing.values()))
    figure = Figure(figsize=(10.5, 1.3 + 0.55 * depth), layout="constrained")
    widths = [max(3, len(numbers[side])) for side in mixing]
    for axes, (side, listed) in zip(figure.subplots(1, len(mixing), width_ratios=widths), mixing.items(), strict=True):
        shade(axes, np.stack([one.mean for one in listed]), COLOURS[side])
        axes.set_xticks(range(len(numbers[side])), [str(n) for n in numbers[side]])
        axes.set_yticks(range(len(listed)), [str(place + 1) for place in range(len(listed))])
        axes.set(xlabel=f"layer of the {SIDES_SAID[side]}", ylabel="cross-modal layer")
        axes.invert_yaxis()
        axes.set_ylim(-0.5, len(listed) - 0.5)
    return figure


@drawn
def by_kind(shares: Mapping[str, np.ndarray], numbers: Sequence[int | None], side: str) -> Figure:
    """A row for each kind of question: the mean weights of one cross-modal layer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 0.9 + 0.4 * len(shares)), layout="constrained")
    axes = figure.subplots()
    shade(axes, np.stack(list(shares.values())), COLOURS[side])
    axes.set_xticks(range(len(numbers)), [str(n) for n in numbers])
    axes.set_yticks(range(len(shares)), list(shares))
    axes.set(xlabel=f"layer of the {SIDES_SAID[side]}")
    return figure


def shade(axes: Any, values: np.ndarray, colour: str) -> None:
    """Values [rows, columns] as cells of one colour, the darker the greater, with the percentage in each."""
    from matplotlib.colors import to_rgb

    most = max(float(np.abs(values).max()), 1e-9)
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            alpha = 0.04 + 0.9 * abs(float(value)) / most
            axes.add_patch(_cell(column, row, (*to_rgb(colour), alpha)))
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8.5)
    axes.set(xlim=(-0.5, values.shape[1] - 0.5), ylim=(values.shape[0] - 0.5, -0.5))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _cell(column: int, row: int, colour: tuple[float, ...]) -> Any:
    from matplotlib.patches import FancyBboxPatch

    return FancyBboxPatch(
        (column - 0.46, row - 0.42), 0.92, 0.84, boxstyle="round,pad=0,rounding_size=0.08", fc=colour, ec="none"
    )


@drawn
def cosines(found: Mapping[str, Sequence[float]]) -> Figure:
    """How alike what enters a cross-modal layer is to what enters the next."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.0), layout="constrained")
    axes = figure.subplots()
    for side, values in found.items():
        places = range(1, len(values) + 1)
        axes.plot(places, values, color=COLOURS[side], marker="o", linewidth=1.6, label=f"{side} half")
    depth = max(map(len, found.values()))
    steps = [f"{place} → {place + 1 if place < depth else 'out'}" for place in range(1, depth + 1)]
    axes.set_xticks(range(1, depth + 1), steps)
    low = min(0.0, *(min(values) for values in found.values()))
    axes.set(ylim=(low - 0.02, 1.02), ylabel="cosine", xlabel="cross-modal layers")
    axes.grid(color=INK, alpha=0.1, linewidth=0.7)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure
