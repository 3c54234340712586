"""The page and the curve of an evaluation on long captions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from isthmus.metrics.results import Result
from isthmus.report import render_page, write_page
from isthmus.report.figures import INK, PALETTE, drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DIRECTIONS = {"image_retrieval": "caption → image", "text_retrieval": "image → caption"}


def write_report(path: str | Path, results: Sequence[Result], lengths: np.ndarray) -> None:
    """Curve, table and the recall of captions by their own length, as an HTML page."""
    page = render_page(
        "isthmus.evaluation.pages",
        "longtext.html.j2",
        command=f"isthmus eval {results[-1]['model']} longtext {results[-1]['dataset']}",
        results=results,
        last=results[-1],
        curve=curve(results, lengths),
    )
    write_page(page, path)


def tick_labels(tokens: Sequence[int]) -> list[str]:
    """The numbers as labels, without those too near to their right neighbour on a logarithmic axis."""
    after = [*tokens[1:], 10 * tokens[-1]]
    return [str(count) if following > 1.25 * count else "" for count, following in zip(tokens, after, strict=True)]


@drawn
def curve(results: Sequence[Result], lengths: np.ndarray) -> Figure:
    """Recall@1 and @10 against the number of tokens that are read, with intervals, over the lengths of the captions."""
    from matplotlib.figure import Figure

    figure = Figure((7, 3.4))
    axes = figure.add_subplot()
    tokens = [result["max_tokens"] for result in results]
    for colour, (kind, k) in zip(PALETTE, product(DIRECTIONS, (1, 10)), strict=False):
        key, name = f"{kind}_recall@{k}", f"{DIRECTIONS[kind]}, R@{k}"
        axes.plot(tokens, [100 * result["metrics"][key] for result in results], "o-", color=colour, label=name)
        if all(key in result["ci95"] for result in results):
            low, high = zip(*(result["ci95"][key] for result in results), strict=True)
            axes.fill_between(tokens, 100 * np.array(low), 100 * np.array(high), color=colour, alpha=0.15, lw=0)
    axes.set(xscale="log", xlabel="tokens read of each caption", ylabel="recall, %", ylim=(0, None))
    axes.set_xticks(tokens, tick_labels(tokens))
    axes.minorticks_off()
    axes.legend(frameon=False, labelcolor=INK)
    behind = axes.twinx()
    shares = [100 * float((lengths > count).mean()) for count in tokens]
    behind.plot(tokens, shares, ":", color=PALETTE[-1])
    behind.set(ylabel="captions cut, % (dotted)", ylim=(-2, 102))
    return figure
