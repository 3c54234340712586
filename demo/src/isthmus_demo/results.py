"""The demo's measurements for each recipe, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

from tabulate import tabulate

from isthmus.report import terminal

Interval = Sequence[float]
NAME = 22  # columns of a recipe's name in the terminal


@dataclass(frozen=True)
class TableColumn:
    """A column of the table: a metric, a share from 0 to 1, under two lines of heading."""

    group: str
    heading: str
    metric: str


COLUMNS = [
    *(TableColumn("text → image", f"R@{k}", f"image_retrieval_recall@{k}") for k in (1, 5, 10)),
    *(TableColumn("image → text", f"R@{k}", f"text_retrieval_recall@{k}") for k in (1, 5, 10)),
    TableColumn("zero-shot", "top-1", "acc1"),
    TableColumn("zero-shot", "top-5", "acc5"),
    TableColumn("zero-shot", "per class", "mean_per_class_recall"),
]


@dataclass(frozen=True)
class Curve:
    """Validation results in the course of a run, the first before the first step.

    seconds, epochs: when. recall: mean of both directions' R@1, 0 to 1.
    """

    seconds: Sequence[float]
    epochs: Sequence[float]
    recall: Sequence[float]


@dataclass(frozen=True)
class SystemResult:
    """One recipe, trained and tested.

    training: how far it got, in words. planned: epochs of its schedule, 0 for a closed form. metrics: shares by name;
    ci95: their intervals. difference: mean R@1 of both directions minus that of `default`, (value, low, high), from a
    paired bootstrap; None for `default` itself.
    """

    recipe: str
    training: str
    planned: int
    seconds: float
    parameters: int
    metrics: Mapping[str, float]
    ci95: Mapping[str, Interval]
    curve: Curve
    difference: tuple[float, float, float] | None = None


def shown(results: Sequence[SystemResult]) -> list[TableColumn]:
    """The columns there are values for (top-5 means nothing below five classes)."""
    return [column for column in COLUMNS if all(column.metric in result.metrics for result in results)]


def text_table(results: Sequence[SystemResult], chance: Mapping[str, float]) -> str:
    """Percent, each with its 95 % interval below, the last row is chance: a table of what was trained and how long, and
    one for each group of columns that fits a terminal.
    """
    columns = shown(results)
    told = [[fill(r.recipe, NAME), f"{r.seconds:.0f} s", r.training] for r in results]
    groups = [c.group.replace("→ ", "→\n").replace("zero-", "zero-\n") for c in columns]
    headers = [f"{group}\n{c.heading}" for group, c in zip(groups, columns, strict=True)]
    rows = [[fill(r.recipe, NAME), *(_cell(r, column.metric) for column in columns)] for r in results]
    rows.append(["chance", *(f"{100 * chance[column.metric]:.2f}" for column in columns)])
    trained = tabulate(
        told, headers=["recipe", "trained", "how far"], disable_numparse=True, maxcolwidths=[None, None, 46]
    )
    return f"{trained}\n\n{terminal.stacked(['recipe', *headers], rows, 1)}"


def _cell(result: SystemResult, metric: str) -> str:
    text = f"{100 * result.metrics[metric]:.1f}"
    if metric not in result.ci95:
        return text
    low, high = result.ci95[metric]
    return f"{text}\n{100 * low:.1f}–{100 * high:.1f}"
