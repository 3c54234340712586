"""A selection as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isthmus.data.feature_pairs import SIDES
from isthmus.report import render_page, write_page
from isthmus.selection import figures
from isthmus.selection.scoring import LABELS

ROWS = 30  # pairs in the table; select.json has all


def write_report(selection: Mapping[str, Any], path: str | Path) -> None:
    """Write the page of what `select.json` holds. Raises `UsageError` without the packages of the `report` extra."""
    write_page(render(selection), path)


def render(selection: Mapping[str, Any]) -> str:
    """The page as HTML."""
    several = all(len(listed) > 1 for listed in selection["encoders"].values())
    drawn = {
        "bars": figures.bars(selection),
        "heat": figures.heat_maps(selection) if several else None,
        "agreement": figures.agreement(selection) if selection["agreement"] else None,
        "layers": figures.layer_curves(selection) if figures.layered(selection) else None,
        "front": figures.pareto_front(selection) if len(selection["pairs"]) > 2 else None,
    }
    return render_page(
        "isthmus.selection",
        "report.html.j2",
        command=selection["command"],
        modalities=selection.get("modalities", SIDES),
        selection=selection,
        first=selection["pairs"][0],
        tied=[row for row in selection["pairs"][1:] if row["tied_with_first"]],
        rows=selection["pairs"][:ROWS],
        labels={name: label for name, label in LABELS.items() if name in selection["scores"]},
        figures=drawn,
        short=figures.short,
        number=figures.number,
        shown=shown,
        span=span,
        layer_columns=min(figures.COLUMNS, len(figures.layered(selection))),
        unimodal=[name for name in ("knn@20", "linear") if _any_unimodal(selection, name)],
    )


def shown(name: str, value: float) -> str:
    """A score in the unit of its column: recall in percent."""
    return f"{100 * value:.1f}" if "recall" in name else figures.number(value)


def span(name: str, score: Mapping[str, Any]) -> str:
    """Its interval."""
    return "–".join(shown(name, bound) for bound in score["ci95"]) if score["ci95"] else ""


def _any_unimodal(selection: Mapping[str, Any], name: str) -> bool:
    return any(name in (row["unimodal"] or {}) for rows in selection["encoders"].values() for row in rows)
