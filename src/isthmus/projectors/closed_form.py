"""Closed forms: linear maps into one space, solved from the covariances of the features in about a second.

- "cca": regularised canonical correlation analysis (Hotelling 1936; Hardoon, Szedmak and Shawe-Taylor 2004).
  Each canonical direction is weighted by its correlation to some power, as canonical similarity analysis does
  (Li, Chinchali and Topcu, ICLR 2025, arXiv 2410.07610): directions that the sides do not share should not count.
- "ridge": least squares from image features to the principal components of the text features.
- "procrustes": the rotation between the principal components of both (Schönemann 1966).

All use the input of a linear projector: each part of the features, layer-normalised on its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.matrix import Matrix, evenly, rows
from isthmus.errors import InputError, UsageError, did_you_mean
from isthmus.losses import infonce
from isthmus.projectors.blocks import Linear, Parallel
from isthmus.projectors.build import build_projector
from isthmus.projectors.projector import PartNorm, Projector

KINDS = ("cca", "ridge", "procrustes")
MIN_PAIRS = 10
RIDGES = (1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0)  # in units of the mean variance of a feature
POWERS = (0.5, 1.0, 2.0, 4.0)
ROWS = 4096  # captions read at a time
HELD_OUT = 2000  # most captions for comparing settings

T = TypeVar("T")
Settings = dict[str, float]  # of a closed form that was chosen: `ClosedForm.settings`
By = FeaturePairs | Settings | None  # how settings are found: on held-out pairs, or they are given, or the usual ones
Map = tuple[Tensor, Tensor]  # weight [inputs, width] and bias [width], float32: x ↦ x W + b


@dataclass(frozen=True)
class ClosedForm:
    """The maps of both sides, for layer-normalised features.

    Only the direction of an output matters; each side is scaled so that its outputs have mean square 1, like those of a
    fresh linear layer on such features, so that learning rates mean the same. settings: width, ridge and power. score:
    on held-out pairs (see `choose`), None after `fit`.
    """

    kind: str
    image: Map
    text: Map
    image_parts: list[int]
    text_parts: list[int]
    settings: Settings
    score: float | None = None

    @property
    def width(self) -> int:
        return len(self.image[1])

    def to_projectors(self) -> tuple[Projector, Projector]:
        """The linear projectors (image, text) that compute these maps."""
        image = build_projector("linear", self.image_parts, self.width)
        text = build_projector("linear", self.text_parts, self.width)
        load_linear(image, *self.image)
        load_linear(text, *self.text)
        return image, text


def fit(
    kind: str,
    pairs: FeaturePairs,
    *,
    width: int | None = None,
    ridge: float = 0.1,
    power: float = 1.0,
    spectra: Spectra | None = None,
) -> ClosedForm:
    """The closed form at given settings.

    Args:
        kind: "cca", "ridge" or "procrustes".
        pairs: every caption with its image counts as one pair. Read once, 4,096 captions at a time.
        width: of the joint space; default and maximum `max_width`.
        ridge: added to the variances, in units of their mean ("procrustes" has none).
        power: of the correlations that weight the directions of "cca".
        spectra: of these pairs, if several kinds are fitted to them.

    Raises:
        UsageError: an unknown kind, a width or ridge out of range.
        InputError: fewer than 10 pairs.
    """
    _check(kind, ridge)
    return _closed_form(kind, spectra or Spectra.of(pairs), pairs, _width(kind, pairs, width), ridge, power)


def choose(
    kind: str,
    train: FeaturePairs,
    val: FeaturePairs,
    *,
    width: int | None = None,
    ridges: Sequence[float] = RIDGES,
    powers: Sequence[float] = POWERS,
    spectra: Spectra | None = None,
) -> ClosedForm:
    """The closed form whose ridge, power and width are best on held-out pairs.

    One pass over the data and one eigendecomposition per side serve all settings. They are compared by the
    mean reciprocal rank of both directions, which jumps less than recall on few pairs, on at most 2,000
    captions of `val`: ridge with power first, then the width, halved while that does not hurt; a given
    `width` is kept. spectra: as in `fit`.
    """
    _check(kind, *ridges)
    spectra = spectra or Spectra.of(train)
    held_out = HeldOut(spectra, val)
    ridges = ridges if kind != "procrustes" else [0.0]
    powers = powers if kind == "cca" else [1.0]
    most = _width(kind, train, width)

    def score(width: int, ridge: float, power: float) -> float:
        return held_out.score(*_solve(kind, spectra, width, ridge, power))

    best = max((score(most, ridge, power), ridge, power) for ridge in ridges for power in powers)
    chosen, (value, ridge, power) = most, best
    while width is None and chosen > 1 and (narrower := score(chosen // 2, ridge, power)) >= value:
        chosen, value = chosen // 2, narrower
    return _closed_form(kind, spectra, train, chosen, ridge, power, value)


def solve(kind: str, train: FeaturePairs, by: By, width: int | None = None) -> ClosedForm:
    """The closed form that `by` asks for: the best on held-out pairs, or that of settings; None: the usual settings."""
    if isinstance(by, FeaturePairs):
        return choose(kind, train, by, width=width)
    return fit(kind, train, **{"width": width, **(by or {})})  # type: ignore[arg-type]


def init_from(kind: str, image: Projector, text: Projector, train: FeaturePairs, by: By = None) -> ClosedForm:
    """Start both projectors from a closed form (see `solve`), and return it.

    A linear projector becomes the closed form; of a parallel one the linear branches do, and the others start
    at zero, with gradients. Outputs beyond the closed form's width keep a hundredth of their random weights:
    too little to matter, but enough for training.

    Raises:
        UsageError: another kind of projector, no norm, or projectors of different width.
    """
    for projector in (image, text):
        _check_startable(kind, projector)
    if image.width != text.width:
        raise UsageError(f"init = {kind!r} needs projectors of one width, not {image.width} and {text.width}.")
    width = min(image.width, max_width(kind, train))
    form = solve(kind, train, by, width)
    load_linear(image, *form.image)
    load_linear(text, *form.text)
    return form


def best_scale(image: Tensor, text: Tensor, *, max: float = 100.0, **options: Any) -> float:
    """The inverse temperature in [1, max] at which InfoNCE is least on held-out embeddings, to 1 %.

    image [N, d], text [M, d]: L2-normalised. options: those of `isthmus.losses.infonce` (groups). The loss is
    convex in the scale, so its logarithm has one minimum, which Brent's bounded golden-section search finds.
    """
    from scipy.optimize import minimize_scalar

    @torch.no_grad()
    def loss(log_scale: float) -> float:
        return float(infonce(image, text, math.exp(log_scale), **options))

    if max <= 1:
        return max
    found = minimize_scalar(loss, bounds=(0, math.log(max)), method="bounded", options={"xatol": 0.01})
    return math.exp(found.x)


def max_width(kind: str, pairs: FeaturePairs) -> int:
    """The greatest width a closed form can have: all text components for "ridge", else the narrower side."""
    text = sum(pairs.text_parts)
    return text if kind == "ridge" else min(text, sum(pairs.image_parts))


@dataclass
class Spectrum:
    """One side's features: their mean [D], and the eigenvalues [D], falling, and eigenvectors [D, D] of their
    covariance. fp64.
    """

    mean: Tensor
    values: Tensor
    basis: Tensor

    @classmethod
    def of(cls, mean: Tensor, covariance: Tensor) -> Spectrum:
        values, basis = torch.linalg.eigh(covariance)
        return cls(mean, values.flip(0).clamp_(min=0), basis.flip(1))

    def inverse(self, ridge: float, power: float) -> Tensor:
        """[D] (values + ridge · mean value) to the −power; 0 where there is nothing to invert."""
        values = self.values + ridge * self.values.mean()
        solid = values > values.max() * 1e-12
        return torch.where(solid, values, 1).pow(-power) * solid

    def map(self, components: Tensor) -> Map:
        """Weights given on the eigenvectors [D, width] as a map from features, of mean square output 1."""
        energy = (self.values[:, None] * components**2).sum() / components.shape[1]
        weight = self.basis @ components / energy.sqrt().clamp(min=1e-30)
        return weight.float(), (-self.mean @ weight).float()


@dataclass
class Spectra:
    """The second moments of pairs on the eigenvectors of both sides; `cross` [Dx, Dy] is their covariance."""

    image: Spectrum
    text: Spectrum
    cross: Tensor
    _canonical: dict[float, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, pairs: FeaturePairs, image: Spectrum | None = None, text: Spectrum | None = None) -> Spectra:
        """One pass over the captions: memory D × D, whatever their number. fp64, since moments cancel.

        image, text: spectra of these sides that are known already.
        """

        def read(captions: np.ndarray) -> tuple[Tensor, Tensor]:
            x = normalized(pairs.image, pairs.image_of[captions], pairs.image_parts)
            return x.double(), normalized(pairs.text, captions, pairs.text_parts).double()

        means, (xx, yy, xy) = moments(len(pairs.image_of), read, image is None, text is None)
        image, text = image or Spectrum.of(means[0], xx), text or Spectrum.of(means[1], yy)
        return cls(image, text, image.basis.T @ xy @ text.basis)

    def canonical(self, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
        """Canonical directions of both sides [Dx, k], [Dy, k] on their eigenvectors, and correlations [k]."""
        if ridge not in self._canonical:
            whiten_x, whiten_y = (side.inverse(ridge, 0.5)[:, None] for side in (self.image, self.text))
            a, s, b = torch.linalg.svd(whiten_x * self.cross * whiten_y.T, full_matrices=False)
            self._canonical[ridge] = whiten_x * a, whiten_y * b.T, s
        return self._canonical[ridge]


def moments(
    n: int, read: Callable[[np.ndarray], tuple[Tensor, Tensor]], own_x: bool, own_y: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Means of x [n, a] and y [n, b], and their covariances xx [a, a], yy [b, b] and xy [a, b], in one pass.

    read: gives both sides of some rows, fp64. own_x, own_y: whether xx and yy are wanted; otherwise they are undefined.
    Raises `InputError` for fewer than 10 rows.
    """
    if n < MIN_PAIRS:
        raise InputError(f"{n} pairs are too few for a closed form: it needs at least {MIN_PAIRS}.")
    sums, products = [], []
    for start in range(0, n, ROWS):
        x, y = read(np.arange(start, min(start + ROWS, n)))
        if not start:
            sums = [side.new_zeros(side.shape[1]) for side in (x, y)]
            products = [a.new_zeros(a.shape[1], b.shape[1]) for a, b in squares(x, y)]
        for total, side in zip(sums, (x, y), strict=True):
            total += side.sum(0)
        for product, (a, b), wanted in zip(products, squares(x, y), (own_x, own_y, True), strict=True):
            if wanted:
                product.addmm_(a.T, b)
    means = [total / n for total in sums]
    return means, [p / n - a[:, None] * b for p, (a, b) in zip(products, squares(*means), strict=True)]


class HeldOut:
    """Held-out pairs on the eigenvectors of the training pairs, read once to score any settings."""

    def __init__(self, spectra: Spectra, val: FeaturePairs) -> None:
        captions = evenly(len(val.image_of), HELD_OUT)
        images = np.unique(val.image_of[captions])
        x = normalized(val.image, images, val.image_parts).double() - spectra.image.mean
        y = normalized(val.text, captions, val.text_parts).double() - spectra.text.mean
        self.image, self.text = (x @ spectra.image.basis).float(), (y @ spectra.text.basis).float()
        groups = (torch.from_numpy(val.image_group[images]), torch.from_numpy(val.text_group[captions]))
        self.same = groups[0][:, None] == groups[1]

    def score(self, image: Tensor, text: Tensor) -> float:
        """Mean reciprocal rank of both directions; a query's rank is that of its best partner."""
        return reciprocal_rank(
            F.normalize(self.image @ image.float()), F.normalize(self.text @ text.float()), self.same
        )


def normalized(matrix: Matrix, index: np.ndarray, parts: Sequence[int]) -> Tensor:
    """Rows of features as the projectors see them: float32, each part layer-normalised."""
    x = torch.from_numpy(rows(matrix, index))
    return torch.cat([F.layer_norm(part, part.shape[-1:]) for part in x.split(list(parts), dim=1)], dim=1)


def _solve(kind: str, spectra: Spectra, width: int, ridge: float, power: float) -> tuple[Tensor, Tensor]:
    """Weights of both sides on their eigenvectors, [Dx, width] and [Dy, width]."""
    if kind == "cca":
        x, y, correlations = spectra.canonical(ridge)
        weights = correlations[:width] ** power
        return x[:, :width] * weights, y[:, :width] * weights
    component = torch.eye(len(spectra.text.values), width, dtype=torch.float64)
    if kind == "ridge":
        return spectra.image.inverse(ridge, 1.0)[:, None] * spectra.cross[:, :width], component
    a, _, b = torch.linalg.svd(spectra.cross[:width, :width])
    rotation = torch.zeros(len(spectra.image.values), width, dtype=torch.float64)
    rotation[:width] = a @ b
    return rotation, component


def _closed_form(
    kind: str,
    spectra: Spectra,
    pairs: FeaturePairs,
    width: int,
    ridge: float,
    power: float,
    score: float | None = None,
) -> ClosedForm:
    image, text = _solve(kind, spectra, width, ridge, power)
    settings = {"width": width, "ridge": ridge, "power": power}
    parts = list(pairs.image_parts), list(pairs.text_parts)
    return ClosedForm(kind, spectra.image.map(image), spectra.text.map(text), *parts, settings, score)


def reciprocal_rank(x: Tensor, y: Tensor, same: Tensor) -> float:
    """Mean over both directions of unit rows x [n, d] and y [m, d]; same: bool [n, m], True for partners. A query's
    rank is that of its best partner among non-partners: 1 + greater + equal / 2.
    """
    scores, found = x @ y.T, 0.0
    for similarity, partner in ((scores, same), (scores.T, same.T)):
        best = similarity.masked_fill(~partner, -torch.inf).amax(1, keepdim=True)
        greater, equal = ((op(similarity, best) & ~partner).sum(1) for op in (torch.gt, torch.eq))
        found += float((1 + greater + equal / 2).reciprocal().mean())
    return found / 2


def load_linear(projector: Projector, weight: Tensor, bias: Tensor) -> None:
    """Let a linear projector, or the linear branches of a parallel one, compute x ↦ x W + b of normalised features."""
    block = projector.blocks[0]
    assert isinstance(block, Linear | Parallel)
    block.load_linear(weight, bias)


def _check_startable(kind: str, projector: Projector) -> None:
    if projector.kind not in ("linear", "parallel"):
        raise UsageError(
            f"init = {kind!r} makes no sense for {projector.kind!r}: it has no linear branch from the "
            "features to the joint space. Use linear or parallel, or a random start."
        )
    if not isinstance(projector.norm, PartNorm) or projector.norm.parts != projector.parts:
        raise UsageError(f"init = {kind!r} needs norm = 'layer': closed forms are fitted on normalised features.")


def _check(kind: str, *ridges: float) -> None:
    if kind not in KINDS:
        raise UsageError(f"closed form {kind!r} does not exist.{did_you_mean(kind, KINDS)}")
    if not ridges or not all(0 <= ridge < float("inf") for ridge in ridges):
        raise UsageError(f"ridge = {', '.join(map(str, ridges))} must be finite and not negative.")


def _width(kind: str, pairs: FeaturePairs, width: int | None) -> int:
    most = max_width(kind, pairs)
    if width is not None and not 1 <= width <= most:
        raise UsageError(f"closed form {kind!r} of these features has a width of 1 to {most}, not {width}.")
    return most if width is None else width


def squares(x: T, y: T) -> tuple[tuple[T, T], ...]:
    """Sizes of the moments of two sides: each with itself, and both."""
    return (x, x), (y, y), (x, y)
