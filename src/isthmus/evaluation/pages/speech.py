"""The page of `isthmus eval MODEL speech`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isthmus.metrics.results import Result
from isthmus.report import render_page, write_page
from isthmus.report.figures import INK, PALETTE, drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 12  # lines
NAMES = {"av": "sound and video", "audio": "sound", "video": "video"}


def write_report(path: str | Path, results: Sequence[Result]) -> None:
    """Error rates against noise, their table, some lines as they were read. `UsageError` without the extra report."""
    page = render_page(
        "isthmus.evaluation.pages",
        "speech.html.j2",
        command=f"isthmus eval {results[0]['model']} speech {results[0]['dataset']}",
        results=results,
        first=results[0],
        names=NAMES,
        curves=[curve(results, metric, title) for metric, title in (("cer", "characters"), ("wer", "words"))],
        lines=_lines(results),
        heads=[(NAMES[_of(one)["modality"]], _of(one)["snr"]) for one in results],
    )
    write_page(page, path)


def _of(one: Result) -> dict[str, Any]:
    return dict(one)


def _lines(results: Sequence[Result]) -> list[tuple[str, list[str]]]:
    """Some lines, evenly spaced: what was said, and what was read in each condition."""
    every = [_of(one)["transcripts"] for one in results]
    rows = np.unique(np.linspace(0, len(every[0]) - 1, min(SHOWN, len(every[0]))).astype(int)).tolist()
    return [(every[0][row]["reference"], [one[row]["found"] for one in every]) for row in rows]


@drawn
def curve(results: Sequence[Result], metric: str, title: str) -> Figure:
    """An error rate against the ratio, loud noise on the right, with bands; video is a level line."""
    from matplotlib.figure import Figure

    figure = Figure((4.6, 3.1))
    axes = figure.add_subplot()
    levels = list(dict.fromkeys(_of(one)["snr"] for one in results if _of(one)["snr"] != "any"))
    levels.sort(key=lambda one: -np.inf if one == "clean" else -float(one.split()[0]))
    for colour, (senses, name) in zip(PALETTE, NAMES.items(), strict=False):
        mine = {_of(one)["snr"]: one for one in results if _of(one)["modality"] == senses}
        if not mine:
            continue
        level = mine.get("any")
        there = [one for one in levels if level is not None or one in mine]
        found = [mine[one] if level is None else level for one in there] or [*mine.values()]
        place = [levels.index(one) for one in there] or [0]
        axes.plot(place, [100 * one["metrics"][metric] for one in found], "o-", color=colour, label=name)
        if all(metric in one.get("ci95", {}) for one in found):
            low, high = zip(*(one["ci95"][metric] for one in found), strict=True)
            axes.fill_between(place, 100 * np.array(low), 100 * np.array(high), color=colour, alpha=0.15, lw=0)
    axes.set(ylabel=f"wrong {title}, %", ylim=(0, None))
    axes.set_xticks(range(max(1, len(levels))), levels or ["any"])
    axes.legend(frameon=False, labelcolor=INK)
    return figure
