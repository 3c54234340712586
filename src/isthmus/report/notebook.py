"""What a notebook shows in place of a repr: pictures in a grid, a page inside the cell, a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tabulate import tabulate

from isthmus.report.page import Picture, data_uri

GRID = "display:flex;flex-wrap:wrap;gap:10px"
CELL = "margin:0;width:150px;font:12px sans-serif;overflow-wrap:anywhere;white-space:normal"
FRAME = "width:100%;height:640px;border:1px solid #ddd"


def grid(title: str, cells: Iterable[Picture | str]) -> str:
    """HTML of pictures with their captions below; a text stands where there is no picture."""
    figures = "".join(f'<figure style="{CELL}">{_cell(cell)}</figure>' for cell in cells)
    return f'<p>{escape(title)}</p><div style="{GRID}">{figures}</div>'


def page(path: str | Path) -> str | None:
    """HTML that shows a whole page inside the cell; None where there is no such file."""
    try:
        content = Path(path).read_text(encoding="utf-8")
    except OSError:
        return None
    return f'<iframe style="{FRAME}" sandbox="" srcdoc="{escape(content)}"></iframe><p>{escape(str(path))}</p>'


def rows(headers: Sequence[str], cells: Sequence[Sequence[Any]]) -> str:
    """HTML of a table."""
    return str(tabulate(cells, headers=headers, tablefmt="html", disable_numparse=True))


def _cell(cell: Picture | str) -> str:
    if isinstance(cell, str):
        return escape(cell)
    caption = escape(cell.caption).replace("\n", "<br>")
    return f'<img src="{data_uri(cell)}"><figcaption>{caption}</figcaption>'
