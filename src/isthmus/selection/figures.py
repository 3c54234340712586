"""The figures of a selection's report, drawn from what select.json holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np

from isthmus.report.figures import ACCENT, INK, PALETTE, drawn
from isthmus.selection.scoring import LABELS, PROBE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Json = Mapping[str, Any]
BARS = 24  # pairs shown as bars, at most
COLUMNS = 3  # of layer curves
MARKERS = "osD^vP*X"
SHOWN = ("cca_recall@10", "asif_recall@10", "cka", "mutual_knn")  # shown as bars beside the ranking score


def short(name: str) -> str:
    """`wheel:efficientnet-lite1?layer=7&pool=mean` → `efficientnet-lite1 · layer 7 · mean`."""
    home, _, query = name.partition("?")
    options = [item.partition("=")[::2] for item in query.split("&") if item]
    parts = [
        f"layer {value}" if key == "layer" else value if key == "pool" else f"{key} {value}" for key, value in options
    ]
    return " · ".join([home.partition(":")[2].rstrip("/").rpartition("/")[2] or home, *map(unquote, parts)])


def pair_label(row: Json, selection: Json) -> str:
    """The names of both encoders; only one if the other is always the same."""
    encoders = selection["encoders"]
    sides = [side for side, listed in encoders.items() if len(listed) > 1] or [next(iter(encoders))]
    return " × ".join(short(row[side]) for side in sides)


def value_of(row: Json, name: str) -> float:
    """A score as the figures show it: recall in percent."""
    return row["scores"][name]["value"] * percent(name)


def percent(name: str) -> int:
    return 100 if "recall" in name else 1


def axis_label(name: str) -> str:
    return f"{LABELS[name]}, %" if "recall" in name else LABELS[name]


@drawn
def bars(selection: Json) -> Figure:
    """The best pairs with intervals, by the ranking score and some others; a line marks the floor."""
    from matplotlib.figure import Figure

    rows = selection["pairs"][:BARS]
    names = [selection["ranked_by"], *(name for name in SHOWN if name != selection["ranked_by"])]
    figure = Figure(figsize=(10.5, 1.0 + 0.24 * len(rows)), layout="constrained")
    grid = figure.subplots(1, len(names), sharey=True, gridspec_kw={"width_ratios": [1.7] + [1] * (len(names) - 1)})
    for axes, name in zip(grid, names, strict=True):
        _bar_panel(axes, rows, name, ACCENT if axes is grid[0] else (*ACCENT, 0.45))
    grid[0].set_yticks(range(len(rows)), [f"{'★ ' if r['pareto'] else ''}{pair_label(r, selection)}" for r in rows])
    grid[0].set_ylim(len(rows) - 0.4, -0.6)
    return figure


def _bar_panel(axes: Axes, rows: Sequence[Json], name: str, colour: Any) -> None:
    scores = [row["scores"][name] for row in rows]
    values = np.array([score["value"] for score in scores]) * percent(name)
    axes.barh(range(len(rows)), values, height=0.66, color=colour, linewidth=0)
    for place, score in enumerate(scores):
        if score["ci95"]:
            axes.plot(np.array(score["ci95"]) * percent(name), [place, place], color=INK, linewidth=1.1)
        floor = score["floor"] * percent(name)
        axes.plot([floor, floor], [place - 0.33, place + 0.33], color=PALETTE[0], linewidth=1.6)
    axes.set_title(axis_label(name))
    axes.set_xlim(left=min(0, float(values.min())))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.7)


@drawn
def heat_maps(selection: Json) -> Figure:
    """Image encoders × text encoders, shaded by the ranking score and by unbiased CKA."""
    from matplotlib.figure import Figure

    sides = {side: [row["name"] for row in listed] for side, listed in selection["encoders"].items()}
    height = 1.6 + 0.24 * len(sides["image"])
    figure = Figure(figsize=(10.5, height), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, name in ((left, selection["ranked_by"]), (right, "cka")):
        _heat_panel(axes, selection, name, sides)
    left.set_yticks(range(len(sides["image"])), [short(one) for one in sides["image"]])
    return figure


def _heat_panel(axes: Axes, selection: Json, name: str, sides: Mapping[str, list[str]]) -> None:
    place = {side: {one: i for i, one in enumerate(listed)} for side, listed in sides.items()}
    grid = np.full((len(sides["image"]), len(sides["text"])), np.nan)
    for row in selection["pairs"]:
        grid[place["image"][row["image"]], place["text"][row["text"]]] = value_of(row, name)
    low, high = min(0.0, float(np.nanmin(grid))), max(float(np.nanmax(grid)), 1e-9)
    shade = np.zeros((*grid.shape, 4))
    shade[..., :3], shade[..., 3] = ACCENT, np.nan_to_num(0.04 + 0.86 * ((grid - low) / (high - low)) ** 1.3)
    axes.imshow(shade, aspect="auto", interpolation="nearest")
    for (i, j), value in np.ndenumerate(grid):
        if np.isfinite(value):
            axes.text(
                j, i, f"{value:.1f}" if percent(name) > 1 else f"{value:.2f}", ha="center", va="center", fontsize=8
            )
    axes.set_title(axis_label(name))
    axes.set_xticks(range(len(sides["text"])), [short(one) for one in sides["text"]], rotation=25, ha="right")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


@drawn
def agreement(selection: Json) -> Figure:
    """Each cheap score against the probe: a point per pair, a colour per image network, a shape per text network."""
    from matplotlib.figure import Figure

    names = list(selection["agreement"])
    networks = {side: _networks(selection, side) for side in selection["encoders"]}
    figure = Figure(figsize=(10.5, 5.6), layout="constrained")
    grid = figure.subplots(2, -(-len(names) // 2), sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        _scatter_panel(axes, selection, name, networks)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(axis_label(PROBE))
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)), frameon=False, fontsize=8.5)
    return figure


def _scatter_panel(axes: Axes, selection: Json, name: str, networks: Mapping[str, Mapping[str, str]]) -> None:
    kinds = [list(dict.fromkeys(found.values())) for found in networks.values()]
    several = len(kinds[1]) > 1
    for (i, image), (j, text) in ((a, b) for a in enumerate(kinds[0]) for b in enumerate(kinds[1])):
        own = [
            r
            for r in selection["pairs"]
            if (networks["image"][r["image"]], networks["text"][r["text"]]) == (image, text)
        ]
        colour, marker = PALETTE[i % len(PALETTE)], MARKERS[j % len(MARKERS)]
        label = f"{image} × {text}" if several else image
        x, y = [value_of(r, name) for r in own], [value_of(r, PROBE) for r in own]
        axes.scatter(x, y, s=19, color=colour, marker=marker, alpha=0.85, linewidths=0, label=label)
    axes.set_title(axis_label(name) + "\n" + _correlations(selection["agreement"][name]), fontsize=9)
    axes.grid(color=INK, alpha=0.12, linewidth=0.7)


def _correlations(found: Json) -> str:
    return "\n".join(
        f"{sign} = {number(found[key])}"
        + (f" [{number(ci[0])}, {number(ci[1])}]" if (ci := found[f"{key}_ci95"]) else "")
        for sign, key in (("r", "pearson"), ("ρ", "spearman"))
    )


def number(value: float | None) -> str:
    """`−0.31`, or a dash where there is none."""
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def _networks(selection: Json, side: str) -> dict[str, str]:
    """The label of each encoder's network, by encoder name."""
    return {row["name"]: short(row["name"].partition("?")[0]) for row in selection["encoders"][side]}


@drawn
def layer_curves(selection: Json) -> Figure:
    """The ranking score by layer, with a panel for each network of which several layers took part."""
    from matplotlib.figure import Figure

    panels = layered(selection)
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.5 * columns, 3.1 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axes, (side, network) in zip(grid.flat, panels, strict=False):
        _layer_panel(axes, selection, side, network)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel(axis_label(selection["ranked_by"]))
    return figure


def layered(selection: Json) -> list[tuple[str, str]]:
    """(side, network) of every network with at least three layers."""
    found = []
    for side, listed in selection["encoders"].items():
        layers: dict[str, set[int]] = {}
        for row in listed:
            if row["layer"] is not None:
                layers.setdefault(row["network"], set()).add(row["layer"])
        found += [(side, network) for network, depths in layers.items() if len(depths) > 2]
    return found


def _layer_panel(axes: Axes, selection: Json, side: str, network: str) -> None:
    (other,) = (name for name in selection["encoders"] if name != side)
    views = {row["name"]: row for row in selection["encoders"][side] if row["network"] == network}
    deepest = max(row["layer"] for row in views.values() if row["layer"] is not None)
    lines: dict[tuple[str, str], list[tuple[float, float, Any]]] = {}
    for row in selection["pairs"]:
        view = views.get(row[side])
        if view is None:
            continue
        score = row["scores"][selection["ranked_by"]]
        layer = deepest + 1 if view["layer"] is None else view["layer"]
        key = (view["pool"] or "own", row[other]) if view["layer"] is not None else ("", row[other])
        lines.setdefault(key, []).append((layer, 100 * score["value"], score["ci95"]))
    others = list(dict.fromkeys(key[1] for key in lines))
    for (pool, partner), points in sorted(lines.items()):
        x, y, spans = zip(*sorted(points, key=lambda point: point[0]), strict=True)
        colour = PALETTE[others.index(partner) % len(PALETTE)]
        if len(x) > 2 and pool:
            axes.plot(x, y, color=colour, marker=".", linewidth=1.7, label=f"{short(partner)} ({pool})")
            if all(spans):
                axes.fill_between(x, *(100 * np.array(spans).T), color=colour, alpha=0.14, linewidth=0)
        else:
            axes.plot(x, y, color=colour, marker="o", markerfacecolor="none", linestyle="none", markersize=5)
    axes.set_title(short(next(iter(views)).partition("?")[0]))
    step = 1 if deepest < 8 else 3
    axes.set_xticks([*range(0, deepest + 1, step), deepest + 1], [*map(str, range(0, deepest + 1, step)), "end"])
    axes.set_xlabel("layer")
    axes.set_ylim(bottom=0)
    axes.grid(color=INK, alpha=0.12, linewidth=0.7)
    axes.legend(frameon=False, fontsize=7.5)


@drawn
def pareto_front(selection: Json) -> Figure:
    """Quality against cost; the pairs on the Pareto front are named."""
    from matplotlib.figure import Figure

    scale = 1e-9 if selection["cost_unit"] != "width" else 1
    points = [(row["cost"] * scale, value_of(row, selection["ranked_by"]), row) for row in selection["pairs"]]
    front = sorted((point for point in points if point[2]["pareto"]), key=lambda point: point[0])
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.scatter([p[0] for p in points], [p[1] for p in points], s=16, color=PALETTE[5], alpha=0.7, linewidths=0)
    axes.plot(
        *zip(*[p[:2] for p in front], strict=True), color=ACCENT, marker="o", linewidth=1.6, drawstyle="steps-post"
    )
    for x, y, row in front:
        axes.annotate(pair_label(row, selection), (x, y), (6, -11), textcoords="offset points", fontsize=8)
    if max(p[0] for p in points) > 10 * front[0][0]:
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("10⁹ multiply-adds to encode one image and one text" if scale < 1 else "width of both features")
    axes.set_ylabel(axis_label(selection["ranked_by"]))
    axes.set_ylim(bottom=0)
    axes.grid(color=INK, alpha=0.12, linewidth=0.7)
    return figure
