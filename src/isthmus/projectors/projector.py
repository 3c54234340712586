"""A projector of pooled features: LayerNorm on each part or on all, then one block or a chain of blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.data.matrix import Matrix, rows, rows_at_once
from isthmus.errors import UsageError, did_you_mean
from isthmus.registry import Registry

# A kind is a `Block`: `Block(inputs, width, *, expand, dropout)`, from […, sum(inputs)] to […, width].
KINDS = Registry(
    "isthmus.projectors",
    {
        "linear": "isthmus.projectors.blocks:Linear",
        "mlp": "isthmus.projectors.blocks:Mlp",
        "parallel": "isthmus.projectors.blocks:Parallel",
        "residual": "isthmus.projectors.blocks:Residual",
        "glu": "isthmus.projectors.blocks:Glu",
    },
    noun="kind of projector",
)
NORMS = ("layer", "whole", "none")
BATCH = 8192


class Projector(nn.Module):
    """[…, sum(parts)] to […, width], not L2-normalised. Made by `build_projector`."""

    def __init__(
        self, kind: str, parts: Sequence[int], width: int, *, norm: str, dropout: float, expand: float | None
    ) -> None:
        super().__init__()
        self.kind, self.parts, self.width = kind, [int(part) for part in parts], int(width)
        self._options: dict[str, Any] = {"norm": norm, "dropout": dropout, "expand": expand}
        self._check()
        self._build()

    def _build(self) -> None:
        norm, dropout, _ = self._options.values()
        parts = [sum(self.parts)] if norm == "whole" else self.parts
        self.norm: nn.Module = nn.Identity() if norm == "none" else PartNorm(parts)
        self.dropout = nn.Dropout(dropout)
        self.blocks = self._chain(self.kind.split("+"), self.parts)

    def _chain(self, names: Sequence[str], inputs: list[int]) -> nn.Sequential:
        """Blocks one after the other; the first takes features of these parts, the next ones its output."""
        _, dropout, expand = self._options.values()
        chain = nn.Sequential()
        for name in names:
            chain.append(KINDS.find(name)(inputs, self.width, expand=expand, dropout=dropout))
            inputs = [self.width]
        return chain

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.dropout(self.norm(x)))

    def config(self) -> dict[str, Any]:
        """What `build_projector` needs to make this projector again, as JSON."""
        return {"kind": self.kind, "parts": self.parts, "width": self.width, **self._options}

    def _check(self) -> None:
        self._check_kind()
        norm, dropout, expand = self._options.values()
        if norm not in NORMS:
            raise UsageError(f"projector norm = {norm!r} does not exist.{did_you_mean(str(norm), NORMS)}")
        if not self.parts or min(*self.parts, self.width) < 1:
            raise UsageError(f"projector: parts {self.parts} and width {self.width} must all be positive.")
        if expand is not None and not (math.isfinite(expand) and expand > 0):
            raise UsageError(f"projector expand = {expand} must be a positive number.")
        if not 0 <= dropout < 1:
            raise UsageError(f"projector dropout = {dropout} must be at least 0 and less than 1.")

    def _check_kind(self) -> None:
        for name in self.kind.split("+"):
            self._check_block(name, KINDS.names())

    def _check_block(self, name: str, names: Iterable[str]) -> None:
        if name not in names:
            raise UsageError(f"projector {self.kind!r}: no kind {name!r}.{did_you_mean(name, names)}")


class PartNorm(nn.Module):
    """LayerNorm with its own gain and offset on each part: CLS tokens and means differ in scale."""

    def __init__(self, parts: Sequence[int]) -> None:
        super().__init__()
        self.parts = list(parts)
        self.norms = nn.ModuleList(nn.LayerNorm(part) for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        pieces = x.split(self.parts, dim=-1)
        return torch.cat([norm(piece) for norm, piece in zip(self.norms, pieces, strict=True)], dim=-1)


@torch.inference_mode()
def project(
    head: nn.Module, matrix: Matrix, device: torch.device, *, width: int | None = None, batch_size: int = BATCH
) -> Tensor:
    """Unit rows float32 [n, d] of all features [n, D] on the CPU, computed on `device`, normalised in fp32.

    head: used in its current mode; without a `width`, the width of the features is kept. width: keep only the first so
    many dimensions. batch_size: most rows at once.
    """
    own: Any = getattr(head, "width", matrix.shape[1])
    out = torch.empty(matrix.shape[0], width or own)
    batch = min(batch_size, rows_at_once(matrix.shape[1]))
    for start in range(0, len(out), batch):
        features = torch.from_numpy(rows(matrix, slice(start, start + batch))).to(device)
        out[start : start + batch] = nn.functional.normalize(head(features).float()[:, : out.shape[1]], dim=-1).cpu()
    return out
