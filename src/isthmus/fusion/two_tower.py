"""Two frozen encoders, joined in depth: aggregators feed cross-modal layers, half by half.

One frame holds METER (`last`), BridgeTower (`bridge`) and ManagerTower (`saum`, `aaum`); see fusion.aggregators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from isthmus.errors import UsageError
from isthmus.fusion.aggregators import StaticAll, build_aggregator
from isthmus.fusion.cross_modal import CrossModalLayer
from isthmus.values import within


@dataclass(frozen=True)
class FusionOptions:
    """The `[fusion]` section of a recipe.

    aggregator: one of `AGGREGATORS`. depth: cross-modal layers. width, heads, expand, dropout: of these.
    vector: a mixing weight for each feature, else one for each layer. temperature: of their softmax, at first.
    noise: on the scores in training. layer_embedding: a learned vector for each layer of an encoder.
    image_layers, text_layers: how many of the encoders' layers, the uppermost ones; 0: all that there are.
    grid: the side of the grid that patches are averaged on, 0: as they are, or where the layers have several grids
    (stages of a CNN) the smallest of them.
    norm: of states before they are projected: "layer", of each token by itself; "data", of each feature by its mean and
    spread in the training data, since layers of one encoder differ twentyfold; or none.
    """

    aggregator: str = "aaum"
    depth: int = within(6, 1)
    width: int = within(768, 1)
    heads: int = within(12, 1)
    expand: float = within(4.0, 0.1)
    dropout: float = within(0.1, 0, 0.9)
    vector: bool = True
    temperature: float = within(1.0, 0.01)
    noise: bool = True
    layer_embedding: bool = True
    image_layers: int = within(0, 0)
    text_layers: int = within(0, 0)
    grid: int = within(0, 0, 64)
    norm: Literal["none", "layer", "data"] = "none"


@dataclass(frozen=True)
class Fused:
    """What a `TwoTower` gives.

    states: of each half after the last cross-modal layer, [B, T, D]. pooled: tanh of a linear layer on each half's
    first token, side by side in the order of the halves, [B, 2·D]. weights: of each half, one entry for each
    cross-modal layer, [N] or [B, N, T]. inputs: what entered each cross-modal layer, where `inputs=True`.
    """

    states: dict[str, Tensor]
    pooled: Tensor
    weights: dict[str, list[Tensor]]
    inputs: dict[str, list[Tensor]]


class InputNorm(nn.Module):
    """States of a layer [..., D], normalised as `FusionOptions.norm` says; `fit` learns the data's mean and spread."""

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "data":
            self.register_buffer("mean", torch.zeros(width))
            self.register_buffer("spread", torch.ones(width))

    def fit(self, states: Tensor) -> None:
        """From real tokens [n, D]. A feature that hardly varies is not blown up."""
        if self.kind == "data":
            spread = states.std(0)
            self.mean.copy_(states.mean(0))
            self.spread.copy_(spread.clamp(min=max(0.05 * float(spread.mean()), 1e-6)))

    def forward(self, states: Tensor) -> Tensor:
        if self.kind == "data":
            return (states - self.mean) / self.spread
        return nn.functional.layer_norm(states, states.shape[-1:]) if self.kind == "layer" else states


class Half(nn.Module):
    """One encoder's side: its projection, embeddings, aggregators and halves of the cross-modal layers.

    widths: D_k of each layer used, bottom first. Layers of one width share a projection, as published; layers of
    several widths (stages of a CNN) have one each.
    """

    def __init__(self, widths: Sequence[int], options: FusionOptions) -> None:
        super().__init__()
        self.options = options
        width, count = options.width, len(widths)
        several = len(set(widths)) > 1
        self.project = nn.ModuleList(nn.Linear(inputs, width) for inputs in (widths if several else widths[:1]))
        self.norms = nn.ModuleList(InputNorm(inputs, options.norm) for inputs in widths)
        self.modality = nn.Parameter(torch.zeros(width))
        self.layer_embedding = nn.Parameter(torch.zeros(count, 1, width)) if options.layer_embedding else None
        chosen: dict[str, Any] = {"vector": options.vector, "temperature": options.temperature, "noise": options.noise}
        self.aggregators = nn.ModuleList(
            build_aggregator(options.aggregator, count, width, place, options.depth, **chosen)
            for place in range(options.depth)
        )
        self.cross = nn.ModuleList(
            CrossModalLayer(width, options.heads, expand=options.expand, dropout=options.dropout)
            for _ in range(options.depth)
        )
        self.pooler = nn.Linear(width, width)

    def projected(self, layers: Tensor | Sequence[Tensor]) -> Tensor:
        """Layers [B, N, T, D_k], or a list of N [B, T, D_k], to [B, N, T, D] with their embeddings."""
        each = layers.unbind(1) if isinstance(layers, Tensor) else layers
        plain = len(self.project) == 1 and self.options.norm == "none"
        if plain and isinstance(layers, Tensor):
            found = self.project[0](layers)
        else:
            projections = self.project if len(self.project) > 1 else list(self.project) * len(each)
            parts = zip(projections, self.norms, each, strict=True)
            found = torch.stack([project(norm(one)) for project, norm, one in parts], 1)
        found = found + self.modality
        return found if self.layer_embedding is None else found + self.layer_embedding


class TwoTower(nn.Module):
    """The cross-modal encoder over two frozen encoders.

    widths: for each half, by the name of its modality, the widths of the layers used, bottom first; the halves may
    differ in number of layers, width and tokens. The order of the halves is that of `pooled`.
    Raises `UsageError` for options that do not fit, such as layers that are not there.
    """

    def __init__(self, widths: Mapping[str, Sequence[int]], options: FusionOptions) -> None:
        super().__init__()
        if len(widths) != 2:
            raise UsageError(f"two encoders are joined, not {len(widths)}: {', '.join(widths)}.")
        if options.width % options.heads:
            raise UsageError(f"fusion.width {options.width} cannot be shared by {options.heads} heads (fusion.heads).")
        self.options = options
        self.halves = nn.ModuleDict({name: Half(listed, options) for name, listed in widths.items()})
        start(self, options.width)

    @torch.no_grad()
    def fit(self, side: str, layers: Tensor | Sequence[Tensor], mask: Tensor) -> None:
        """Learn the norms of one half from states as `forward` takes them; mask: bool [B, T]."""
        each = layers.unbind(1) if isinstance(layers, Tensor) else layers
        for norm, one in zip(cast(Half, self.halves[side]).norms, each, strict=True):
            cast(InputNorm, norm).fit(one[mask])

    def forward(
        self,
        layers: Mapping[str, Tensor | Sequence[Tensor]],
        masks: Mapping[str, Tensor | None],
        *,
        inputs: bool = False,
        pooled_only: bool = False,
    ) -> Fused:
        """layers: of each half, [B, N, T, D_k] or a list of N [B, T, D_k]. masks: [B, T] bool, None: all are real.

        inputs: whether to keep what enters each cross-modal layer. pooled_only: the last layer computes each half's
        first token alone, which is all that `pooled` reads; `states` are then [B, 1, D].
        """
        halves = {name: cast(Half, half) for name, half in self.halves.items()}
        first, second = halves
        projected = {name: half.projected(layers[name]) for name, half in halves.items()}
        states: dict[str, list[Tensor]] = {first: [], second: []}
        weights: dict[str, list[Tensor]] = {first: [], second: []}
        kept: dict[str, list[Tensor]] = {first: [], second: []}
        for place in range(self.options.depth):
            entering = {}
            for own, other in ((first, second), (second, first)):
                aggregator = halves[own].aggregators[place]
                before = _before(aggregator, states[own])
                last = states[other][-1] if states[other] else None
                entering[own], mixing = aggregator(projected[own], before, last, masks[other])
                weights[own].append(mixing)
            for own, other in ((first, second), (second, first)):
                layer = halves[own].cross[place]
                tokens = 1 if pooled_only and place == self.options.depth - 1 else None
                states[own].append(layer(entering[own], entering[other], masks[own], masks[other], tokens))
                kept[own].extend([entering[own]] * inputs)
        pooled = [half.pooler(states[name][-1][:, 0]).tanh() for name, half in halves.items()]
        return Fused({name: listed[-1] for name, listed in states.items()}, torch.cat(pooled, -1), weights, kept)


def _before(aggregator: nn.Module, states: list[Tensor]) -> Tensor | None:
    """The state that an aggregator takes: that of the layer before, or of all layers before."""
    if not states:
        return None
    return torch.stack(states, 1) if isinstance(aggregator, StaticAll) else states[-1]


def start(module: nn.Module, width: int) -> None:
    """N(0, 0.02) for linear layers and embeddings at the published width of 768; larger for narrower ones, so that
    what a layer gives is as large. Zero for biases.
    """
    std = 0.02 * (768 / width) ** 0.5
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=std)
            nn.init.zeros_(part.bias)
        elif isinstance(part, Half):
            nn.init.normal_(part.modality, std=std)
            if part.layer_embedding is not None:
                nn.init.normal_(part.layer_embedding, std=std)
