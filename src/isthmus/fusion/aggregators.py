"""What enters a cross-modal layer: layers of one encoder, mixed, and the state of the cross-modal layer before.

Sources: METER (arXiv 2111.02387), BridgeTower (2206.08657), ManagerTower (2306.00103) and Manager (2506.11515, eq. 5
to 7). All aggregators of one half have one signature and give their mixing weights back, so that nothing needs hooks:

    layers  [B, N, T, D]   the N layers of this half's encoder, projected to the width of the cross-modal layers
    state   [B, T, D]      what the previous cross-modal layer gave for this half; None before the first
    other   [B, S, D]      what it gave for the other half; None before the first
    mask    [B, S] bool    which tokens of the other half are real

to (input of the cross-modal layer [B, T, D], weights). The weights are [N] where they are the same for every item and
token, else [B, N, T]. Beside `last` and `layer:K`, their sum over N is 1, but for `zero-init`, whose weights are free.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from isthmus.errors import UsageError


class Mixed(NamedTuple):
    """The input of a cross-modal layer [B, T, D], and the weights of the encoder's layers [N] or [B, N, T]."""

    values: Tensor
    weights: Tensor


class Aggregator(nn.Module):
    """Base of all: the layers and the state before, to one sequence.

    layers: N. width: D. place: index of the cross-modal layer that it feeds, from 0.
    """

    def __init__(self, layers: int, width: int, place: int) -> None:
        super().__init__()
        self.layers, self.width, self.place = layers, width, place

    def forward(self, layers: Tensor, state: Tensor | None, other: Tensor | None, mask: Tensor | None) -> Mixed:
        raise NotImplementedError

    def _one_hot(self, layer: int, like: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.tensor(layer, device=like.device), self.layers).to(like.dtype)


class OneLayer(Aggregator):
    """One layer of the encoder enters the first cross-modal layer, nothing enters the later ones (METER: the last)."""

    def __init__(self, layers: int, width: int, place: int, *, layer: int = -1) -> None:
        super().__init__(layers, width, place)
        self.layer = layer % layers

    def forward(self, layers: Tensor, state: Tensor | None, other: Tensor | None, mask: Tensor | None) -> Mixed:
        weights = self._one_hot(self.layer, layers)
        if state is None:
            return Mixed(layers[:, self.layer], weights)
        return Mixed(state, torch.zeros_like(weights))


class Bridge(Aggregator):
    """BridgeTower: LN(U_k + C), one layer of the encoder for each cross-modal layer, upwards to the last.

    cross: how many cross-modal layers there are; layer `place` takes the layer that many below the last.
    Raises `UsageError` where the encoder gives fewer layers than there are cross-modal layers.
    """

    def __init__(self, layers: int, width: int, place: int, *, cross: int) -> None:
        super().__init__(layers, width, place)
        if cross > layers:
            raise UsageError(
                f"`bridge` takes one layer of an encoder for each cross-modal layer, but there are {cross} of these "
                f"and {layers} of that: ask for at least {cross} layers, or for fewer cross-modal layers (depth)."
            )
        self.layer = layers - cross + place
        self.norm = nn.LayerNorm(width)

    def forward(self, layers: Tensor, state: Tensor | None, other: Tensor | None, mask: Tensor | None) -> Mixed:
        chosen = layers[:, self.layer]
        return Mixed(self.norm(chosen if state is None else chosen + state), self._one_hot(self.layer, layers))


class LayerNorms(nn.Module):
    """A LayerNorm of its own for each of N layers: [B, N, T, D] to the same."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(layers, 1, width))
        self.bias = nn.Parameter(torch.zeros(layers, 1, width))

    def forward(self, layers: Tensor) -> Tensor:
        return nn.functional.layer_norm(layers, layers.shape[-1:]) * self.weight + self.bias


class Managed(Aggregator):
    """Σ_i A_i ⊙ LN_i(U_i) + w ⊙ LN(C): all that `mean`, `saum` and `aaum` share.

    The second term is absent before the first cross-modal layer; w in R^D starts at 1 and is not normalised.
    """

    def __init__(self, layers: int, width: int, place: int) -> None:
        super().__init__(layers, width, place)
        self.norms = LayerNorms(layers, width)
        if place:
            self.state_norm = nn.LayerNorm(width)
            self.state_weight = nn.Parameter(torch.ones(width))

    def _weighted(self, weights: Tensor, layers: Tensor, state: Tensor | None) -> Tensor:
        """weights: broadcast to [B, N, T, D]. state: [B, T, D], normalised."""
        mixed = (weights * self.norms(layers)).sum(1)
        return mixed if state is None else mixed + self.state_weight * state

    def _state(self, state: Tensor | None) -> Tensor | None:
        return None if state is None else self.state_norm(state)


class Mean(Managed):
    """The plain mean of the normalised layers: a manager that learns no weights."""

    def forward(self, layers: Tensor, state: Tensor | None, other: Tensor | None, mask: Tensor | None) -> Mixed:
        weights = layers.new_full((self.layers,), 1 / self.layers)
        return Mixed(self._weighted(weights[:, None, None], layers, self._state(state)), weights)


class Static(Managed):
    """SAUM, static aggregation of unimodal layers (eq. 5): weights learned for each layer, the same for every token.

    vector: a weight for each feature (N × D), else one for each layer (N × 1). temperature: of the softmax over the
    layers, learned. noise: N(0, 1/N²) on the scores, in training alone.
    """

    def __init__(
        self, layers: int, width: int, place: int, *, vector: bool = True, temperature: float = 1.0, noise: bool = True
    ) -> None:
        super().__init__(layers, width, place)
        self.scores = nn.Parameter(torch.full((layers, 1, width if vector else 1), 1 / layers))
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        self.noise = noise

    def forward(self, layers: Tensor, state: Tensor | None, other: Tensor | None, mask: Tensor | None) -> Mixed:
        weights = (_noisy(self.scores, self.noise and self.training) / self.temperature).softmax(0)
        return Mixed(self._weighted(weights, layers, self._state(state)), weights.mean((1, 2)))


class StaticAll(Static):
    """SAM, static aggregation of the layers and of all cross-modal states before (ManagerTower, section 3.2).

    Layers and states have a softmax each, which start uniform; one softmax over both is the paper's first attempt.
    state: [B, place, T, D], what all cross-modal layers before gave for this half.
    """

    all_states = True

    def __init__(self, layers: int, width: int, place: int, **options: bool | float) -> None:
        super().__init__(layers, width, place, **options)  # type: ignore[arg-type]
        if place:
            del self.state_norm, self.state_weight
            self.state_norms = LayerNorms(place, width)
            self.state_scores = nn.Parameter(self.scores.new_full((place, *self.scores.shape[1:]), 1 / place))
            self.state_temperature = nn.Parameter(self.temperature.detach().clone())

    def forward(self, layers: Tensor, state: Tensor | None, other: Tensor | None, mask: Tensor | None) -> Mixed:
        mixed, weights = super().forward(layers, None, other, mask)
        if state is None:
            return Mixed(mixed, weights)
        scores = _noisy(self.state_scores, self.noise and self.training) / self.state_temperature
        return Mixed(mixed + (scores.softmax(0) * self.state_norms(state)).sum(1), weights)


class Adaptive(Managed):
    """AAUM, adaptive aggregation of unimodal layers (eq. 6 and 7): weights for each token of each item.

    fused: whether the query is the state of both halves: this half's token beside what one head of attention, without
        a value projection, finds for it among the other half's real tokens. (The authors' release lets padding in.)
    vector is not used: a weight is for a whole token. Before the first cross-modal layer there is no query; `build`
    puts a `Static` there.
    """

    def __init__(
        self, layers: int, width: int, place: int, *, fused: bool = True, temperature: float = 1.0, noise: bool = True
    ) -> None:
        super().__init__(layers, width, place)
        if fused:
            self.query, self.key, self.other_norm = (
                nn.Linear(width, width),
                nn.Linear(width, width),
                nn.LayerNorm(width),
            )
        self.fused, self.noise = fused, noise
        self.score = nn.Linear(width * (1 + fused), layers)
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))

    def forward(self, layers: Tensor, state: Tensor | None, other: Tensor | None, mask: Tensor | None) -> Mixed:
        own = self._state(state)
        assert own is not None and other is not None
        query = torch.cat([self._found(own, other, mask), own], -1) if self.fused else own
        scores = self.score(query).transpose(1, 2)  # [B, N, T]
        weights = (_noisy(scores, self.noise and self.training) / self.temperature).softmax(1)
        return Mixed(self._weighted(weights[..., None], layers, own), weights)

    def _found(self, own: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
        values = self.other_norm(other)
        scores = self.query(own) @ self.key(values).transpose(1, 2) / math.sqrt(self.width)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], -math.inf)
        return scores.softmax(-1) @ values


class ZeroInit(Aggregator):
    """C + Σ_i W_i ⊙ U_i with W = 0 at first: what it feeds starts as if it were not there (Manager, section IV).

    Before the first cross-modal layer the last layer takes the place of C.
    """

    def __init__(self, layers: int, width: int, place: int, *, vector: bool = True) -> None:
        super().__init__(layers, width, place)
        self.gates = nn.Parameter(torch.zeros(layers, 1, width if vector else 1))

    def forward(self, layers: Tensor, state: Tensor | None, other: Tensor | None, mask: Tensor | None) -> Mixed:
        start = layers[:, -1] if state is None else state
        return Mixed(start + (self.gates * layers).sum(1), self.gates.mean((1, 2)))


AGGREGATORS = ("last", "layer:K", "mean", "bridge", "sam", "saum", "aaum-own", "aaum", "zero-init")


def build_aggregator(
    name: str,
    layers: int,
    width: int,
    place: int,
    cross: int,
    *,
    vector: bool = True,
    temperature: float = 1.0,
    noise: bool = True,
) -> Aggregator:
    """The aggregator `name` (one of `AGGREGATORS`) that feeds cross-modal layer `place` of `cross`.

    Raises `UsageError` for an unknown name, or a layer that is not among the N given.
    """
    learned: dict[str, Any] = {"temperature": temperature, "noise": noise}
    if name == "last":
        return OneLayer(layers, width, place)
    if name.startswith("layer:"):
        return OneLayer(layers, width, place, layer=_place_of(name, layers))
    if name == "mean":
        return Mean(layers, width, place)
    if name == "bridge":
        return Bridge(layers, width, place, cross=cross)
    if name == "sam":
        return StaticAll(layers, width, place, vector=vector, **learned)
    if name == "saum" or (name in ("aaum", "aaum-own") and place == 0):
        return Static(layers, width, place, vector=vector, **learned)
    if name in ("aaum", "aaum-own"):
        return Adaptive(layers, width, place, fused=name == "aaum", **learned)
    if name == "zero-init":
        return ZeroInit(layers, width, place, vector=vector)
    raise UsageError(f"no aggregator {name!r}: there are {', '.join(AGGREGATORS)}.")


def _place_of(name: str, layers: int) -> int:
    """The K of `layer:K`, from 0."""
    number = name.partition(":")[2]
    if not number.isdecimal() or not 1 <= int(number) <= layers:
        raise UsageError(f"{name!r}: K is one of the layers given, 1 to {layers} (the last).")
    return int(number) - 1


def _noisy(scores: Tensor, noise: bool) -> Tensor:
    """Scores over N layers with N(0, 1/N²) added; N is the first axis of [N, 1, D], the second of [B, N, T]."""
    if not noise:
        return scores
    layers = scores.shape[1] if scores.shape[1] > 1 else scores.shape[0]
    return scores + torch.randn_like(scores) / layers
