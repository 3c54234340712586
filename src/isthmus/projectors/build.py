"""`build_projector`: a projector by the name of its kind."""

from __future__ import annotations

from collections.abc import Sequence

from isthmus.projectors.projector import Projector
from isthmus.projectors.tokens import TokenProjector, takes_tokens


def build_projector(
    kind: str,
    parts: Sequence[int],
    width: int,
    *,
    norm: str = "layer",
    dropout: float = 0.0,
    expand: float | None = None,
) -> Projector:
    """A projector with fresh weights (from torch's global generator).

    Args:
        kind: one of `KINDS`, or a chain of them such as freeze-align's text head on pooled features,
            "parallel+residual". Only the first block of a chain sees the parts; the next ones take its output and have
            no norm of their own. With slots, such as "cls:parallel,tokens:parallel", a `TokenProjector`.
        parts: widths of what stands side by side in the features: [1024, 1024] for CLS and mean of a ViT-L, one
            width per token for a token head.
        width: d of the joint space.
        norm: "layer" normalises each part on its own, "whole" all of them as one vector (SAIL); "none" takes the
            features as they are.
        dropout: share of the normalised features dropped in training (and inside "residual").
        expand: hidden units per feature for "mlp" (default 4) and "glu" (8), per output for "parallel" (1).
            See `solve_expand`.

    Raises:
        UsageError: an unknown kind or norm, or sizes that are not positive.
    """
    projector = TokenProjector if takes_tokens(kind) else Projector
    return projector(kind, parts, width, norm=norm, dropout=dropout, expand=expand)
