"""What a model that fuses reads of its encoders' layers, gathered batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from isthmus.data.asked import Asked, AskedQuestions
from isthmus.data.feature_pairs import SIDES
from isthmus.encoders.pictures import encode_each, reason
from isthmus.errors import InputError
from isthmus.fusion import Fused
from isthmus.fusion.attention import attention_over
from isthmus.models.fusion_model import FusionModel

EXAMPLES = 8
PICTURES = 16  # encoded at a time


@dataclass
class HalfWeights:
    """Sums over samples of the weights of one half; see `Mixing`."""

    mean: list[np.ndarray] = field(default_factory=list)  # [b, N] of each batch: means over tokens
    entropy: list[np.ndarray] = field(default_factory=list)  # [b]
    tokens: list[np.ndarray] = field(default_factory=list)  # [b, N]: standard deviation over tokens


@dataclass(frozen=True)
class Mixing:
    """The weights of one cross-modal layer over the N layers of one encoder.

    mean, sample_spread, token_spread: float64 [N]. entropy: of a token's weights, 0 to 1. adaptive: whether they differ
    between samples. samples: float64 [q, N], of each text; one row where they do not differ.
    """

    mean: np.ndarray
    sample_spread: np.ndarray
    token_spread: np.ndarray
    entropy: float
    adaptive: bool
    samples: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        spreads = {"sample_spread": self.sample_spread.tolist(), "token_spread": self.token_spread.tolist()}
        return {"mean": self.mean.tolist(), "entropy": self.entropy, "adaptive": self.adaptive, **spreads}


@dataclass(frozen=True)
class Look:
    """An example: a picture, a question about it, where it looks (float32 [side, side], sums to 1 or less), and its
    most probable answer with its probability, where the model answers."""

    picture: Image.Image
    asked: Asked
    map: np.ndarray
    answer: str = ""
    probability: float = 0.0


@dataclass
class LayerFindings:
    """What was found; mixing and cosine: by half, an entry for each cross-modal layer."""

    numbers: dict[str, list[int | None]]
    mixing: dict[str, list[Mixing]]
    cosine: dict[str, list[float]]
    kinds: list[str]
    looks: list[Look]
    asked: int
    skipped: list[tuple[str, str]]


def look_at(model: FusionModel, data: AskedQuestions, limit: int) -> LayerFindings:
    """Mix the layers for the questions about the first `limit` pictures."""
    by_image: dict[str, list[Asked]] = {}
    for one in data.asked:
        by_image.setdefault(one.image, []).append(one)
    ids = [id for id in data.pairs.images["id"].to_pylist() if id in by_image][:limit]
    row_of = {id: row for row, id in enumerate(data.pairs.images["id"].to_pylist())}
    sums = _Sums(model)
    skipped: list[tuple[str, str]] = []
    held: dict[int, Image.Image] = {}

    def read(row: int) -> Any:
        held[row] = data.pairs.decode(row_of[ids[row]])
        return held[row]

    encode: Any = lambda some: model.side(SIDES[0], some)  # noqa: E731
    for rows, states in encode_each(
        len(ids), read, encode, lambda row, error: skipped.append((ids[row], reason(error))), PICTURES
    ):
        asked = [(place, one) for place, row in enumerate(rows) for one in by_image[ids[row]]]
        sums.add(states, asked, [held.pop(row) for row in rows])
    if not sums.asked:
        raise InputError(f"{data.name}: no picture could be read; the first: {skipped[:1]}")
    return sums.findings(skipped)


class _Sums:
    """What is gathered batch by batch."""

    def __init__(self, model: FusionModel) -> None:
        self.model, self.depth = model, model.network.plan.options.depth
        self.weights = {side: [HalfWeights() for _ in range(self.depth)] for side in SIDES}
        self.adaptive = {side: [False] * self.depth for side in SIDES}
        self.cosine = {side: np.zeros(self.depth) for side in SIDES}
        self.kinds: list[str] = []
        self.looks: list[Look] = []
        self.asked = 0

    def add(self, pictures: Any, asked: list[tuple[int, Asked]], images: list[Image.Image]) -> None:
        """Questions about pictures, given as states, by the places of these."""
        model = self.model
        place = torch.tensor([place for place, _ in asked], device=model.device)
        texts = model.side(SIDES[1], [one.question for _, one in asked])
        states = dict(zip(SIDES, (pictures.take(place), texts), strict=True))
        fused = model.fuse(states, inputs=True)
        masks = {side: one.mask for side, one in states.items()}
        for side in SIDES:
            for layer, weights in enumerate(fused.weights[side]):
                self._mixed(side, layer, weights, masks[side])
            self.cosine[side] += _cosines(fused, side, masks[side]).sum(1).cpu().numpy()
        self.asked += len(asked)
        self.kinds += [one.kind for _, one in asked]
        self._look(fused, masks, asked, images)

    def _mixed(self, side: str, layer: int, weights: Tensor, mask: Tensor) -> None:
        into = self.weights[side][layer]
        if weights.ndim == 1:
            into.mean = [weights[None].cpu().double().numpy()]
            into.entropy = [_entropy(weights[None, :, None], None).cpu().numpy()]
            into.tokens = [np.zeros((1, len(weights)))]
            return
        self.adaptive[side][layer] = True
        real = mask[:, None].to(weights.dtype)
        count = real.sum(-1)
        mean = (weights * real).sum(-1) / count
        varied = (((weights - mean[..., None]) ** 2 * real).sum(-1) / count).sqrt()
        into.mean.append(mean.cpu().double().numpy())
        into.tokens.append(varied.cpu().double().numpy())
        into.entropy.append(_entropy(weights, mask).cpu().double().numpy())

    def _look(
        self, fused: Fused, masks: dict[str, Tensor], asked: list[tuple[int, Asked]], images: list[Image.Image]
    ) -> None:
        """Keep some examples: of every picture one question, each of another kind than the one before."""
        if len(self.looks) >= EXAMPLES:
            return
        over = attention_over(self.model.network.tower, fused, masks, own=SIDES[1], other=SIDES[0])[:, 1:]
        side = round(over.shape[1] ** 0.5)
        if side * side != over.shape[1]:
            return
        told = self.model.network.answer_logits(fused) if self.model.answers else None
        for place, image in enumerate(images):
            own = [row for row, (at, _) in enumerate(asked) if at == place]
            if len(self.looks) >= EXAMPLES or not own:
                break
            row = own[len(self.looks) % len(own)]
            look = over[row].reshape(side, side).float().cpu().numpy()
            self.looks.append(Look(image, asked[row][1], look, *self._answer(told, row)))

    def _answer(self, told: Tensor | None, row: int) -> tuple[str, float]:
        if told is None:
            return "", 0.0
        shares = told[row].sigmoid() if self.model.loss == "soft" else told[row].softmax(-1)
        best = int(shares.argmax())
        return self.model.answers[best], float(shares[best])

    def findings(self, skipped: list[tuple[str, str]]) -> LayerFindings:
        mixing = {
            side: [_mixing(one, self.adaptive[side][layer]) for layer, one in enumerate(self.weights[side])]
            for side in SIDES
        }
        cosine = {side: (sums / self.asked).tolist() for side, sums in self.cosine.items()}
        numbers = {side: [record.get("layer") for record in self.model.records[side]] for side in SIDES}
        return LayerFindings(numbers, mixing, cosine, self.kinds, self.looks, self.asked, skipped)


def _mixing(found: HalfWeights, adaptive: bool) -> Mixing:
    samples, tokens = np.concatenate(found.mean), np.concatenate(found.tokens)
    entropy = float(np.concatenate(found.entropy).mean())
    return Mixing(samples.mean(0), samples.std(0), tokens.mean(0), entropy, adaptive, samples)


def _entropy(weights: Tensor, mask: Tensor | None) -> Tensor:
    """Of weights [B, N, T] over N, as a share of log N; mean over real tokens, [B]. Gates may be negative: 0 then."""
    layers = weights.shape[1]
    if layers < 2:
        return weights.new_zeros(len(weights))
    safe = weights.clamp(min=1e-12)
    each = -(weights.clamp(min=0) * safe.log()).sum(1) / float(np.log(layers))
    if mask is None:
        return each.mean(-1)
    real = mask.to(each.dtype)
    return (each * real).sum(-1) / real.sum(-1)


def _cosines(fused: Fused, side: str, mask: Tensor) -> Tensor:
    """Of what enters each cross-modal layer with what enters the next, the last with what it gives: [depth, B]."""
    entering = [*fused.inputs[side], fused.states[side]]
    real = mask.to(entering[0].dtype)
    each = [torch.cosine_similarity(a, b, dim=-1) for a, b in pairwise(entering)]
    return torch.stack([(one * real).sum(-1) / real.sum(-1) for one in each])
