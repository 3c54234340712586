"""The hidden size at which a projector has so many parameters: kinds compare at equal size."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from isthmus.errors import UsageError
from isthmus.projectors.build import build_projector

TOLERANCE = 0.01
SMALLEST, LARGEST = 1e-6, 2.0**16  # one hidden unit, and more than anyone trains


def solve_expand(kind: str, parts: Sequence[int], width: int, budget: int) -> float:
    """The `expand` that gives a projector of this kind `budget` parameters (LayerNorms count), within 1 %.

    Raises `UsageError` where the kind has no hidden size to choose (linear, residual), or where no number of
    hidden units comes within 1 % of the budget.
    """

    def size(expand: float) -> int:
        with torch.device("meta"):
            projector = build_projector(kind, parts, width, expand=expand)
        return sum(parameter.numel() for parameter in projector.parameters())

    if size(SMALLEST) == size(LARGEST):
        raise UsageError(
            f"projector {kind!r} from {sum(parts)} to {width} always has {size(1):,} parameters: a budget "
            "cannot size it. Change its width, or choose mlp, glu or parallel."
        )
    low, high = SMALLEST, LARGEST
    while high - low > 1e-6 * high:  # below one hidden unit of any width
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle) <= budget else (low, middle)
    nearest = min((low, high), key=lambda expand: abs(size(expand) - budget))
    if abs(size(nearest) - budget) > TOLERANCE * budget:
        raise UsageError(
            f"projector {kind!r} from {sum(parts)} to {width} cannot have {budget:,} parameters: the nearest "
            f"it can have is {size(nearest):,}."
        )
    return nearest
