"""`build_projector`: a projector by the name of its kind; `solve_expand`: with so many parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from isthmus.errors import UsageError
from isthmus.projectors.projector import Projector
from isthmus.projectors.tokens import TokenProjector, takes_tokens

TOLERANCE = 0.01
SMALLEST, LARGEST = 1e-6, 2.0**16  # from one hidden unit to more than is ever trained


def build_projector(
    kind: str,
    parts: Sequence[int],
    width: int,
    *,
    norm: str = "layer",
    dropout: float = 0.0,
    expand: float | None = None,
    padded: bool = True,
) -> Projector:
    """A projector with fresh weights (from torch's global generator).

    Args:
        kind: one of `KINDS`, or a chain of them such as freeze-align's text head on pooled features,
            "parallel+residual". Only the first block of a chain sees the parts; the next ones take its output and have
            no norm of their own. With slots, such as "cls:parallel,tokens:parallel", a `TokenProjector`.
        parts: widths of the parts that are concatenated in the features: [1024, 1024] for CLS and mean of a ViT-L, one
            width per token for a token head.
        width: d of the joint space.
        norm: "layer" normalises each part on its own, "whole" all of them as one vector (SAIL); "none" takes the
            features as they are.
        dropout: share of the normalised features dropped in training (and inside "residual").
        expand: hidden units per feature for "mlp" (default 4) and "glu" (8), per output for "parallel" (1).
            See `solve_expand`.
        padded: for a token head, whether rows may end in padding (texts), or all tokens are real (images).

    Raises:
        UsageError: an unknown kind or norm, or sizes that are not positive.
    """
    if takes_tokens(kind):
        return TokenProjector(kind, parts, width, norm=norm, dropout=dropout, expand=expand, padded=padded)
    return Projector(kind, parts, width, norm=norm, dropout=dropout, expand=expand)


def solve_expand(kind: str, parts: Sequence[int], width: int, budget: int) -> float:
    """The `expand` that gives a projector of this kind `budget` parameters (LayerNorms count), within 1 %.

    Raises `UsageError` if the kind has no hidden size to choose (linear, residual), or if no number of hidden units
    comes within 1 % of the budget.
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
    while high - low > 1e-6 * high:  # less than one hidden unit of any width
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle) <= budget else (low, middle)
    nearest = min((low, high), key=lambda expand: abs(size(expand) - budget))
    if abs(size(nearest) - budget) > TOLERANCE * budget:
        raise UsageError(
            f"projector {kind!r} from {sum(parts)} to {width} cannot have {budget:,} parameters: the nearest "
            f"it can have is {size(nearest):,}."
        )
    return nearest
