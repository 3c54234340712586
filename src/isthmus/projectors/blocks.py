"""The blocks of projectors, defined and initialised as in their papers' code.

SAIL: Zhang, Yang, Agrawal, CVPR 2025, arXiv 2412.04616. freeze-align: Maniparambil et al., CVPR 2025,
arXiv 2409.19425.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """[…, sum(parts)] to […, width]. `expand` None is the block's own; blocks of fixed size ignore it.

    A block is `readout(*features(x))`, and the readout is affine: the mean of the block over many x is the readout
    of the mean features, so that a mean over tokens costs one readout per item and not one per token.
    """

    def __init__(self, parts: Sequence[int], width: int, *, expand: float | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.build(list(parts), width, expand, dropout)

    def build(self, parts: list[int], width: int, expand: float | None, dropout: float) -> None:
        raise NotImplementedError

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """The part that must be computed for each x."""
        raise NotImplementedError

    def readout(self, *features: Tensor) -> Tensor:
        """The affine part, after a mean over several x."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(*self.features(x))


class Identity(Block):
    """The features as they are."""

    def build(self, parts: list[int], width: int, expand: float | None, dropout: float) -> None:
        pass

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,)

    def readout(self, *features: Tensor) -> Tensor:
        return features[0]


class Linear(Block):
    """One matrix on all parts (SAIL's alignment probe)."""

    def build(self, parts: list[int], width: int, expand: float | None, dropout: float) -> None:
        self.linear = xavier(nn.Linear(sum(parts), width))

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,)

    def readout(self, *features: Tensor) -> Tensor:
        return self.linear(features[0])

    def load_linear(self, weight: Tensor, bias: Tensor) -> None:
        """Compute x W + b: weight [inputs, w], bias [w], w at most the width."""
        set_linear(self.linear, weight, bias)


class Mlp(Block):
    """Linear, GELU, Linear (SAIL's MLP), `expand` (4) hidden units per feature."""

    def build(self, parts: list[int], width: int, expand: float | None, dropout: float) -> None:
        hidden = units(expand, 4, sum(parts))
        self.up, self.down = xavier(nn.Linear(sum(parts), hidden)), xavier(nn.Linear(hidden, width))

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        return (F.gelu(self.up(x)),)

    def readout(self, *features: Tensor) -> Tensor:
        return self.down(features[0])


class Glu(Block):
    """g(ReLU6(f1 x) ∘ f2 x) (SAIL's star layer), `expand` (8) hidden units per feature."""

    LIMIT = 1e3  # SAIL's clamp of both branches, against overflow in fp16

    def build(self, parts: list[int], width: int, expand: float | None, dropout: float) -> None:
        hidden = units(expand, 8, sum(parts))
        self.gate, self.up = (xavier(nn.Linear(sum(parts), hidden)) for _ in range(2))
        self.down = xavier(nn.Linear(hidden, width))

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        gate, up = (layer(x).clamp(-self.LIMIT, self.LIMIT) for layer in (self.gate, self.up))
        return (F.relu6(gate) * up,)

    def readout(self, *features: Tensor) -> Tensor:
        return self.down(features[0])


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

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        pieces = zip(x.split(self.parts, dim=-1), self.up, strict=True)
        return x, *(F.gelu(up(piece)) for piece, up in pieces)

    def readout(self, *features: Tensor) -> Tensor:
        pieces = features[0].split(self.parts, dim=-1)
        branches = zip(pieces, features[1:], self.linear, self.down, strict=True)
        outputs = [linear(piece) + down(bent) for piece, bent, linear, down in branches]
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

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        p = self.linear(x)
        return (self.norm(p + self.dropout(self.inner(F.gelu(p)))),)

    def readout(self, *features: Tensor) -> Tensor:
        return features[0]


def units(expand: float | None, default: float, base: int) -> int:
    """Hidden units: `expand` times `base`, rounded, at least one."""
    return max(1, round((default if expand is None else expand) * base))


@torch.no_grad()
def set_linear(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Make the first outputs of `layer` x W + b. Further outputs keep a hundredth of their weights, too little to
    matter. With zeros on both sides they could not be trained: each side's gradient is the other's output.
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
