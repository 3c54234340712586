"""Ridge regression onto a fixed side: the closed form with which new features join an existing space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.matrix import Matrix, evenly, rows
from isthmus.encoders.modality import Modality
from isthmus.projectors.build import build_projector
from isthmus.projectors.closed_form import (
    HELD_OUT,
    RIDGES,
    By,
    Map,
    Settings,
    Spectrum,
    load_linear,
    moments,
    normalized,
    reciprocal_rank,
)
from isthmus.projectors.projector import Projector

OFFSETS = (1.0, 0.0)  # with the centre of the fixed side, or without: a gap between modalities may help or hurt


@dataclass(frozen=True)
class RidgeMap:
    """A map from layer-normalised features onto a fixed side, and the settings that were best on held-out pairs."""

    parts: list[int]
    map: Map
    settings: Settings

    def to_projector(self) -> Projector:
        """The linear projector that computes it."""
        projector = build_projector("linear", self.parts, len(self.map[1]))
        load_linear(projector, *self.map)
        return projector


def ridge_onto(pairs: FeaturePairs, by: By, frozen: Modality) -> RidgeMap:
    """Least squares with an L2 penalty from one side's features to the embeddings of the other.

    pairs: the `frozen` side holds unit rows of the joint space, the other one encoder features, which are
        layer-normalised part by part. Every caption with its image is a pair. One pass; memory D × D.
    by: held-out pairs (at most 2,000 captions) by whose mean reciprocal rank, both directions, the penalty and the
        use of the fixed side's centre are chosen; or these settings; None: a penalty of 0.1 and the centre.

    Raises `InputError` for fewer than 10 pairs.
    """
    (mean, centre), (xx, _, xy) = moments(len(pairs.image_of), lambda some: _sides(pairs, some, frozen), True, False)
    side = Spectrum.of(mean, xx)
    cross = side.basis.T @ xy  # with the fixed side, on the eigenvectors of the free one: [D, w]

    def solved(choice: tuple[float, float]) -> Map:
        return _solve(side, cross, centre, *choice)

    if isinstance(by, FeaturePairs):
        held_out = _HeldOut(by, frozen)
        choices = [(ridge, offset) for ridge in RIDGES for offset in OFFSETS]
        best = max(choices, key=lambda choice: held_out.score(*solved(choice)))
    else:
        best = (0.1, 1.0) if by is None else (by["ridge"], by["offset"])
    parts = list(pairs.image_parts if frozen == "text" else pairs.text_parts)
    return RidgeMap(parts, solved(best), {"ridge": best[0], "offset": best[1]})


def _sides(pairs: FeaturePairs, captions: np.ndarray, frozen: Modality) -> tuple[Tensor, Tensor]:
    """Both sides of some captions: normalised features of the free one and embeddings of the fixed one, fp64."""
    images = pairs.image_of[captions]
    if frozen == "text":
        return normalized(pairs.image, images, pairs.image_parts).double(), _given(pairs.text, captions)
    return normalized(pairs.text, captions, pairs.text_parts).double(), _given(pairs.image, images)


def _given(matrix: Matrix, index: np.ndarray) -> Tensor:
    return torch.from_numpy(rows(matrix, index)).double()


def _solve(side: Spectrum, cross: Tensor, centre: Tensor, ridge: float, offset: float) -> Map:
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
        captions = evenly(len(val.image_of), HELD_OUT)
        x, y = _sides(val, captions, frozen)
        self.x, self.y = x.float(), F.normalize(y.float())
        groups = torch.from_numpy(val.image_group[val.image_of[captions]]), torch.from_numpy(val.text_group[captions])
        free, fixed = groups if frozen == "text" else groups[::-1]
        self.same = free[:, None] == fixed

    def score(self, weight: Tensor, bias: Tensor) -> float:
        return reciprocal_rank(F.normalize(self.x @ weight + bias), self.y, self.same)
