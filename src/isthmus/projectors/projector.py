"""A projector: LayerNorm on each part of the features, then one block or a chain of blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.errors import UsageError, did_you_mean
from isthmus.projectors.blocks import Block, Glu, Linear, Mlp, Parallel, Residual

KINDS: dict[str, type[Block]] = {
    "linear": Linear,
    "mlp": Mlp,
    "parallel": Parallel,
    "residual": Residual,
    "glu": Glu,
}
NORMS = ("layer", "none")


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
        kind: one of `KINDS`, or a chain of them such as freeze-align's text head, "parallel+residual". Only
            the first block of a chain sees the parts; the next ones take its output and have no norm of their
            own.
        parts: widths of what stands side by side in the features: [1024, 1024] for CLS and mean of a ViT-L.
        width: d of the joint space.
        norm: "layer" normalises each part on its own; "none" takes the features as they are.
        dropout: share of the normalised features dropped in training (and inside "residual").
        expand: hidden units per feature for "mlp" (default 4) and "glu" (8), per output for "parallel" (1).
            See `solve_expand`.

    Raises:
        UsageError: an unknown kind or norm, or sizes that are not positive.
    """
    return Projector(kind, parts, width, norm=norm, dropout=dropout, expand=expand)


class Projector(nn.Module):
    """[N, sum(parts)] to [N, width], not L2-normalised. Made by `build_projector`."""

    def __init__(
        self, kind: str, parts: Sequence[int], width: int, *, norm: str, dropout: float, expand: float | None
    ) -> None:
        super().__init__()
        self.kind, self.parts, self.width = kind, [int(part) for part in parts], int(width)
        self._options: dict[str, Any] = {"norm": norm, "dropout": dropout, "expand": expand}
        self._check()
        self.norm: nn.Module = PartNorm(self.parts) if norm == "layer" else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential()
        inputs = self.parts
        for name in kind.split("+"):
            self.blocks.append(KINDS[name](inputs, self.width, expand=expand, dropout=dropout))
            inputs = [self.width]

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.dropout(self.norm(x)))

    def config(self) -> dict[str, Any]:
        """What `build_projector` needs to make this projector again, as JSON takes it."""
        return {"kind": self.kind, "parts": self.parts, "width": self.width, **self._options}

    def _check(self) -> None:
        for name in self.kind.split("+"):
            if name not in KINDS:
                raise UsageError(f"projector {self.kind!r}: no kind {name!r}.{did_you_mean(name, KINDS)}")
        norm, dropout, expand = self._options.values()
        if norm not in NORMS:
            raise UsageError(f"projector norm = {norm!r} does not exist.{did_you_mean(str(norm), NORMS)}")
        if not self.parts or min(*self.parts, self.width) < 1:
            raise UsageError(f"projector: parts {self.parts} and width {self.width} must all be positive.")
        if expand is not None and not (math.isfinite(expand) and expand > 0):
            raise UsageError(f"projector expand = {expand} must be a positive number.")
        if not 0 <= dropout < 1:
            raise UsageError(f"projector dropout = {dropout} must be at least 0 and less than 1.")


class PartNorm(nn.Module):
    """LayerNorm with its own gain and offset on each part: a CLS token and a mean differ in scale."""

    def __init__(self, parts: Sequence[int]) -> None:
        super().__init__()
        self.parts = list(parts)
        self.norms = nn.ModuleList(nn.LayerNorm(part) for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        pieces = x.split(self.parts, dim=-1)
        return torch.cat([norm(piece) for norm, piece in zip(self.norms, pieces, strict=True)], dim=-1)
