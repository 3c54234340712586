"""Ridge regression onto a side that is fixed: the closed form by which new features join an existing space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.matrix import Matrix, rows
from isthmus.encoders.modality import Modality
from isthmus.errors import InputError
from isthmus.projectors.build import build_projector
from isthmus.projectors.closed_form import HELD_OUT, MIN_PAIRS, RIDGES, ROWS, Map, Side, best_ranks, normalized
from isthmus.projectors.projector import Projector

OFFSETS = (1.0, 0.0)  # with the centre of the fixed side, or without: a gap between modalities may help or hurt


@dataclass(frozen=True)
class Onto:
    """A map from layer-normalised features onto a fixed side, and the settings that were best on held-out pairs."""

    parts: list[int]
    map: Map
    settings: dict[str, float]

    def to_projector(self) -> Projector:
        """The linear projector that computes it."""
        projector = build_projector("linear", self.parts, len(self.map[1]))
        projector.blocks[0].load_linear(*self.map)  # type: ignore[operator]
        return projector


def ridge_onto(pairs: FeaturePairs, val: FeaturePairs | None, frozen: Modality) -> Onto:
    """Least squares with an L2 penalty from one side's features to the embeddings of the other.

    pairs: the `frozen` side holds unit rows of the joint space, the other one encoder features, which are
        layer-normalised part by part. Every caption with its image is a pair. One pass; memory D × D.
    val: held-out pairs (at most 2,000 captions) by whose mean reciprocal rank, both directions, the penalty and the
        use of the fixed side's centre are chosen; without any, a penalty of 0.1 and the centre.

    Raises `InputError` for fewer than 10 pairs.
    """
    side, cross, centre = _moments(pairs, frozen)
    choices = [(ridge, offset) for ridge in RIDGES for offset in OFFSETS] if val is not None else [(0.1, 1.0)]
    maps = {choice: _solve(side, cross, centre, *choice) for choice in choices}
    best = choices[0]
    if val is not None:
        held_out = _HeldOut(val, frozen)
        best = max(choices, key=lambda choice: held_out.score(*maps[choice]))
    parts = list(pairs.image_parts if frozen == "text" else pairs.text_parts)
    return Onto(parts, maps[best], {"ridge": best[0], "offset": best[1]})


def _sides(pairs: FeaturePairs, captions: np.ndarray, frozen: Modality) -> tuple[Tensor, Tensor]:
    """Of some captions: normalised features of the free side and embeddings of the fixed one, fp64."""
    images = pairs.image_of[captions]
    if frozen == "text":
        return normalized(pairs.image, images, pairs.image_parts).double(), _given(pairs.text, captions)
    return normalized(pairs.text, captions, pairs.text_parts).double(), _given(pairs.image, images)


def _given(matrix: Matrix, index: np.ndarray) -> Tensor:
    return torch.from_numpy(rows(matrix, index)).double()


def _moments(pairs: FeaturePairs, frozen: Modality) -> tuple[Side, Tensor, Tensor]:
    """The free side's spectrum, its covariance with the fixed side on its eigenvectors [D, w], the latter's mean."""
    n = len(pairs.image_of)
    if n < MIN_PAIRS:
        raise InputError(f"{n} pairs are too few for a closed form: it needs at least {MIN_PAIRS}.")
    widths = (pairs.image.shape[1], pairs.text.shape[1])
    free, fixed = widths if frozen == "text" else widths[::-1]
    sums = torch.zeros(free, dtype=torch.float64), torch.zeros(fixed, dtype=torch.float64)
    xx, xy = torch.zeros(free, free, dtype=torch.float64), torch.zeros(free, fixed, dtype=torch.float64)
    for start in range(0, n, ROWS):
        x, y = _sides(pairs, np.arange(start, min(start + ROWS, n)), frozen)
        for total, some in zip(sums, (x, y), strict=True):
            total += some.sum(0)
        xx.addmm_(x.T, x)
        xy.addmm_(x.T, y)
    mean, centre = (total / n for total in sums)
    side = Side.of(mean, xx / n - mean[:, None] * mean)
    return side, side.basis.T @ (xy / n - mean[:, None] * centre), centre


def _solve(side: Side, cross: Tensor, centre: Tensor, ridge: float, offset: float) -> Map:
    """x ↦ (x − mean) W + offset · centre, scaled so that outputs have mean square 1."""
    components = side.inverse(ridge, 1.0)[:, None] * cross
    weight = side.basis @ components
    bias = offset * centre - side.mean @ weight
    energy = (side.values[:, None] * components**2).sum() + offset * (centre @ centre)
    scale = (energy / len(centre)).sqrt().clamp(min=1e-30)
    return (weight / scale).float(), (bias / scale).float()


class _HeldOut:
    """Held-out pairs, read once to score any map."""

    def __init__(self, val: FeaturePairs, frozen: Modality) -> None:
        n = val.text.shape[0]
        captions = np.linspace(0, n - 1, min(n, HELD_OUT)).astype(np.int64)
        x, y = _sides(val, captions, frozen)
        self.x, self.y = x.float(), F.normalize(y.float())
        groups = torch.from_numpy(val.image_group[val.image_of[captions]]), torch.from_numpy(val.text_group[captions])
        free, fixed = groups if frozen == "text" else groups[::-1]
        self.same = free[:, None] == fixed

    def score(self, weight: Tensor, bias: Tensor) -> float:
        similarity = F.normalize(self.x @ weight + bias) @ self.y.T
        both = (similarity, self.same), (similarity.T, self.same.T)
        return sum(float(best_ranks(*direction).reciprocal().mean()) for direction in both) / 2
