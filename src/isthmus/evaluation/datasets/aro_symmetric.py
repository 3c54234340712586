"""ARO's symmetric relations ("next to"): true in both directions, and left out of its published mean."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def symmetric_relations() -> frozenset[str]:
    """The 157 of ARO's own notebook."""
    text = resources.files("isthmus.evaluation.datasets").joinpath("aro_symmetric.txt").read_text("utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))
