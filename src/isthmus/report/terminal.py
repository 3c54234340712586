"""Tables and remarks that fit a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

WIDTH = 80  # columns
KEY = 30  # columns of a name before it goes on in the next line

Cells = Sequence[Sequence[Any]]


def fits(text: str) -> bool:
    """Whether no line is wider than a terminal."""
    return all(len(line) <= WIDTH for line in text.splitlines())


def stacked(headers: Sequence[str], rows: Cells, keys: int) -> str:
    """One table, or several one below the other: each begins with the first `keys` columns and holds as many of the
    others as fit.
    """
    tables, left = [], list(range(keys, len(headers)))
    while left:
        count = _count(headers, rows, keys, left)
        tables.append(_table(headers, rows, [*range(keys), *left[:count]], keys))
        left = left[count:]
    return "\n\n".join(tables)


def narrowed(headers: Sequence[str], rows: Cells, keys: int) -> tuple[str, list[str]]:
    """A table of the first columns that fit, and the headers of those that it lacks."""
    others = list(range(keys, len(headers)))
    count = _count(headers, rows, keys, others)
    return _table(headers, rows, [*range(keys), *others[:count]], keys), [headers[i] for i in others[count:]]


def wrapped(text: str, indent: str = "") -> str:
    """A remark in lines that fit, all but the first of them indented; one without room, such as a path, stays whole."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _count(headers: Sequence[str], rows: Cells, keys: int, others: Sequence[int]) -> int:
    """How many of the columns `others` fit beside the keys, at least one."""
    counts = range(len(others), 1, -1)
    return next((n for n in counts if fits(_table(headers, rows, [*range(keys), *others[:n]], keys))), 1)


def _table(headers: Sequence[str], rows: Cells, columns: Sequence[int], keys: int) -> str:
    chosen = [[row[i] for i in columns] for row in rows]
    widths = [KEY if i < keys else None for i in columns]
    heads = [headers[i] for i in columns]
    return tabulate(chosen, headers=heads, tablefmt="simple", disable_numparse=True, maxcolwidths=widths)
