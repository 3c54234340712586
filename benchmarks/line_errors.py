"""Wrong characters of lines, in percent, with intervals by line."""

from __future__ import annotations

from typing import Any

import numpy as np


def rate(counts: list[list[int]]) -> float:
    edits, characters = np.array(counts).sum(0)
    return float(edits / characters)


def interval(counts: list[Any], others: list[Any] | None = None) -> str:
    """The mean rate over seeds, or its difference from another's, with the interval by line, in percent."""
    own, base = np.array(counts).sum(0), None if others is None else np.array(others).sum(0)

    def value(weights: np.ndarray) -> float:
        edits, characters = weights @ own
        found = edits / characters
        return 100 * float(found if base is None else found - np.divide(*(weights @ base)))

    rng, lines = np.random.default_rng(0), len(own)
    drawn = [value(np.bincount(rng.integers(lines, size=lines), minlength=lines)) for _ in range(1000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    sign = "" if base is None else "+"
    return f"{value(np.ones(lines)):{sign}.1f} ({low:{sign}.1f} – {high:{sign}.1f})".replace("-", "−")
