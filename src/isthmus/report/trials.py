"""Trials of a recipe: as a table for the terminal, and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from isthmus.files import write_atomic
from isthmus.report.figures import ACCENT
from isthmus.report.page import missing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 10  # trials of a table
SETTINGS = 38  # columns of a trial's settings
HEADERS = ("trial", "pairs seen", "recall %", "seconds", "settings")
ALIGNED = ("right", "right", "right", "right", "left")


def table(trials: list[dict[str, Any]], best: int) -> str:
    """The best trials, the chosen one (*) first, and the recipe as it is; at most 80 columns.

    trials: of `tune.json`. Settings that are equal in all trials are left out.
    """
    ranked = sorted(trials, key=lambda trial: (trial["number"] != best, -_score(trial), trial["number"]))
    shown = [trial for place, trial in enumerate(ranked) if place < SHOWN or not trial["number"]]
    varied = {key for key, values in _values(trials).items() if len(values) > 1}
    rows = [_row(trial, best, varied) for trial in shown]
    text = tabulate(
        rows, headers=HEADERS, disable_numparse=True, maxcolwidths=[None] * 4 + [SETTINGS], colalign=ALIGNED
    )
    return text + (f"\n{len(trials) - len(shown)} more in tune.json" if len(trials) > len(shown) else "")


def _values(trials: list[dict[str, Any]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for trial in trials:
        for key, value in trial["settings"].items():
            found.setdefault(key, set()).add(repr(value))
    return found


def _row(trial: dict[str, Any], best: int, varied: set[str]) -> list[str]:
    mark = "*" if trial["number"] == best else ""
    named = [f"{key.partition('.')[2]} {_short(v)}" for key, v in trial["settings"].items() if key in varied]
    said = ", ".join(named) if trial["number"] else "the recipe as it is"
    score = f"{100 * _score(trial):.1f}" if trial["stops"] else "failed"
    return [f"{trial['number']}{mark}", f"{trial['pairs']:,}", score, f"{trial['seconds']:,.1f}", said]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _score(trial: dict[str, Any]) -> float:
    return trial["stops"][-1]["score"] if trial["stops"] else float("-inf")


def write_plot(path: Path, trials: list[dict[str, Any]], best: int) -> None:
    """Recall over pairs seen, a line per trial, as PNG. Raises `ReportMissing` without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing(error) from None
    figure = Figure((7, 4), layout="constrained")
    _draw(figure, [trial for trial in trials if trial["stops"]], best)
    write_atomic(path, lambda aside: figure.savefig(aside, format="png", dpi=120))


def _draw(figure: Figure, trials: list[dict[str, Any]], best: int) -> None:
    axes = figure.subplots()
    others = next((trial["number"] for trial in trials if trial["number"] not in (0, best)), None)
    for trial in sorted(trials, key=lambda trial: (trial["number"] == best, not trial["number"])):
        number = trial["number"]
        points = [(stop["pairs"], 100 * stop["score"]) for stop in trial["stops"]]
        named = {0: ("#e08a1e", "the recipe as it is"), best: (ACCENT, f"chosen: trial {number}")}
        colour, label = named.get(number, ("#b8bec7", "other trials" if number == others else None))
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, color=colour, label=label)
    axes.set(xlabel="pairs seen", ylabel="recall on the validation pairs, %", title="Trials")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
