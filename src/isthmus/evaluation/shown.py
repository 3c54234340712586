"""Results that show themselves as the table that the command prints, in a notebook as HTML; still dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from isthmus.data.frames import as_pandas
from isthmus.metrics.results import Result, details, table
from isthmus.report import notebook


class ShownResult(dict):
    """A `Result` with the columns that its task shows, and the page that was written of it, if any."""

    def __init__(self, result: Result, columns: Sequence[str] = (), page: str | Path | None = None) -> None:
        super().__init__(result)
        self.columns, self.page = columns, page

    def __repr__(self) -> str:
        return _text([self])

    def _repr_html_(self) -> str:
        return _html([self])

    def to_pandas(self) -> Any:
        """A pandas data frame with a row per metric: metric, value, low, high (of the 95 % interval)."""
        return _frame([self]).drop(columns=["dataset"])


class ShownResults(list):
    """Several `ShownResult` of one evaluation."""

    def __repr__(self) -> str:
        return _text(self) if self else "[]"

    def _repr_html_(self) -> str:
        return _html(self)

    def to_pandas(self) -> Any:
        """A pandas data frame with a row per data set and metric: dataset, metric, value, low, high."""
        return _frame(self)


def shown(found: Result | list[Result], columns: Sequence[str], page: str | Path | None = None) -> Any:
    """What a task returned, the same with a better repr."""
    if isinstance(found, list):
        return ShownResults(ShownResult(one, columns, page) for one in found)
    return ShownResult(found, columns, page)


def _text(results: Sequence[Any]) -> str:
    below = details(results)
    return table(results, results[0].columns) + (f"\n\n{below}" if below else "")


def _html(results: Sequence[Any]) -> str:
    pages = [notebook.page(one.page) for one in results[:1] if one.page]
    return pages[0] if pages and pages[0] else table(results, results[0].columns, "html") if results else "[]"


def _frame(results: Sequence[Any]) -> Any:
    rows = []
    for result in results:
        bounds = result.get("ci95") or {}
        for name, value in result["metrics"].items():
            low, high = bounds.get(name) or (None, None)
            rows.append({"dataset": result["dataset"], "metric": name, "value": value, "low": low, "high": high})
    return as_pandas(pa.Table.from_pylist(rows))
