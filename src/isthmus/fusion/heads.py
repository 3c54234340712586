"""Heads on fused states: answers, matching, words, and the two unimodal ends between which contrast is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import normalize

from isthmus.fusion.sides import SideStates
from isthmus.losses import Scale
from isthmus.values import within


@dataclass(frozen=True)
class FusionHeads:
    """The `[heads]` section of a recipe.

    expand: hidden units of the answers' head in units of its input, 2 · width. dropout: before its last layer.
    contrast: width of the space of both unimodal ends. pool: what these read of the last layer, its first token or the
    mean of its tokens. temperature: of contrast, at first.
    """

    expand: float = within(2.0, 0.01)
    dropout: float = within(0.0, 0, 0.9)
    contrast: int = within(256, 1)
    pool: Literal["first", "mean"] = "first"
    temperature: float = within(0.07, 0.001, 0.5)


class AnswerHead(nn.Sequential):
    """Linear, LayerNorm, GELU, linear: pooled [B, 2·D] to logits [B, answers] (METER's and ManagerTower's)."""

    def __init__(self, width: int, answers: int, options: FusionHeads) -> None:
        hidden = max(1, round(width * options.expand))
        layers: list[nn.Module] = [nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU()]
        super().__init__(*layers, nn.Dropout(options.dropout), nn.Linear(hidden, answers))


class WordHead(nn.Module):
    """States of the text half [B, T, D] to logits over the vocabulary (BERT's, not tied to the embeddings)."""

    def __init__(self, width: int, words: int) -> None:
        super().__init__()
        self.transform, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.words = nn.Linear(width, words)

    def forward(self, states: Tensor) -> Tensor:
        return self.words(self.norm(nn.functional.gelu(self.transform(states))))


class ContrastEnd(nn.Module):
    """The last layer of one encoder to unit vectors [B, contrast], before anything is joined."""

    def __init__(self, width: int, options: FusionHeads) -> None:
        super().__init__()
        self.pool = options.pool
        self.norm, self.project = nn.LayerNorm(width), nn.Linear(width, options.contrast)

    def forward(self, states: SideStates) -> Tensor:
        last = states.last
        if self.pool == "first":
            pooled = last[:, 0]
        else:
            real = states.mask[..., None].to(last.dtype)
            pooled = (last * real).sum(1) / real.sum(1).clamp(min=1)
        return normalize(self.project(self.norm(pooled)), dim=-1)


class Contrast(nn.Module):
    """Both ends and the temperature between them."""

    def __init__(self, widths: Mapping[str, int], options: FusionHeads) -> None:
        super().__init__()
        self.ends = nn.ModuleDict({side: ContrastEnd(width, options) for side, width in widths.items()})
        self.scale = Scale(1 / options.temperature, min=2.0, max=1000.0)

    def forward(self, states: Mapping[str, SideStates]) -> dict[str, Tensor]:
        return {side: self.ends[side](states[side]) for side in self.ends if side in states}
