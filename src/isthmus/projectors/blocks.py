"""The blocks projectors are made of, as their papers' code defines and initialises them.

SAIL: Zhang, Yang, Agrawal, CVPR 2025, arXiv 2412.04616. freeze-align: Maniparambil et al., CVPR 2025,
arXiv 2409.19425.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """[N, sum(parts)] to [N, width]. `expand` None is the block's own; blocks of fixed size ignore it."""

    def __init__(self, parts: Sequence[int], width: int, *, expand: float | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.build(list(parts), width, expand, dropout)

    def build(self, parts: list[int], width: int, expand: float | None, dropout: float) -> None:
        raise NotImplementedError


class Linear(Block):
    """One matrix on all parts (SAIL's alignment probe)."""

    def build(self, parts: list[int], width: int, expand: float | None, dropout: float) -> None:
        self.linear = xavier(nn.Linear(sum(parts), width))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)

    def load_linear(self, weight: Tensor, bias: Tensor) -> None:
        """Compute x W + b: weight [inputs, w], bias [w], w at most the width."""
        set_linear(self.linear, weight, bias)


class Mlp(Block):
    """Linear, GELU, Linear (SAIL's MLP), `expand` (4) hidden units per feature."""

    def build(self, parts: list[int], width: int, expand: float | None, dropout: float) -> None:
        hidden = units(expand, 4, sum(parts))
        self.up, self.down = xavier(nn.Linear(sum(parts), hidden)), xavier(nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Glu(Block):
    """g(ReLU6(f1 x) ∘ f2 x) (SAIL's star layer), `expand` (8) hidden units per feature."""

    LIMIT = 1e3  # SAIL's clamp of both branches, against overflow in fp16

    def build(self, parts: list[int], width: int, expand: float | None, dropout: float) -> None:
        hidden = units(expand, 8, sum(parts))
        self.gate, self.up = (xavier(nn.Linear(sum(parts), hidden)) for _ in range(2))
        self.down = xavier(nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        gate, up = (layer(x).clamp(-self.LIMIT, self.LIMIT) for layer in (self.gate, self.up))
        return self.down(F.relu6(gate) * up)


class Parallel(Block):
    """A(x) + C(GELU(B(x))) for each part, summed (freeze-align's token projector, one per part).

    On [CLS, mean of patches] this is freeze-align's image head on pooled features: its local block on the
    mean and its CLS block. `expand` (1): hidden units per output.
    """

    def build(self, parts: list[int], width: int, expand: float | None, dropout: float) -> None:
        hidden = units(expand, 1, width)
        self.parts = parts
        self.linear = nn.ModuleList(nn.Linear(part, width) for part in parts)
        self.up = nn.ModuleList(nn.Linear(part, hidden) for part in parts)
        self.down = nn.ModuleList(nn.Linear(hidden, width) for _ in parts)

    def forward(self, x: Tensor) -> Tensor:
        branches = zip(x.split(self.parts, dim=-1), self.linear, self.up, self.down, strict=True)
        outputs = [linear(part) + down(F.gelu(up(part))) for part, linear, up, down in branches]
        return sum(outputs[1:], start=outputs[0])

    def load_linear(self, weight: Tensor, bias: Tensor) -> None:
        """Compute x W + b in the linear branches; the others start at zero, and learn."""
        for number, (layer, piece) in enumerate(zip(self.linear, weight.split(self.parts), strict=True)):
            set_linear(layer, piece, bias if number == 0 else torch.zeros_like(bias))
        for parameter in self.down.parameters():
            nn.init.zeros_(parameter)


class Residual(Block):
    """p = Linear(x); LayerNorm(p + Dropout(Linear(GELU(p)))) (freeze-align's MLP head)."""

    def build(self, parts: list[int], width: int, expand: float | None, dropout: float) -> None:
        self.linear, self.inner = nn.Linear(sum(parts), width), nn.Linear(width, width)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        p = self.linear(x)
        return self.norm(p + self.dropout(self.inner(F.gelu(p))))


def units(expand: float | None, default: float, base: int) -> int:
    """Hidden units: `expand` times `base`, rounded, at least one."""
    return max(1, round((default if expand is None else expand) * base))


@torch.no_grad()
def set_linear(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Make the first outputs of `layer` x W + b. Further ones keep a hundredth of their weights.

    Those are then too small to be seen. At zero on both sides they could never learn: each side's gradient is
    the other's output.
    """
    rows, offset = layer.get_parameter("weight"), layer.get_parameter("bias")
    width = len(bias)
    rows[:width], offset[:width] = weight.T, bias
    rows[width:] *= 0.01
    offset[width:] = 0


def xavier(layer: nn.Linear) -> nn.Linear:
    """SAIL's initialisation: Xavier-uniform weights, zero bias."""
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
