"""A closed form and the trained head as an ensemble.

A closed form sees every pair at once and cannot overfit much; a trained head is non-linear. Their errors differ, so the
average of their cosines ranks better than either: see docs/recipes.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.encoders.modality import Modality
from isthmus.projectors import ConcatEnsemble, Head, Projector, SumEnsemble
from isthmus.projectors.closed_form import fit, solve
from isthmus.projectors.projector import project
from isthmus.projectors.ridge import ridge_onto
from isthmus.training.contrastive.joint import fitted_scale
from isthmus.training.contrastive.locked_head import ordered
from isthmus.training.contrastive.recipe import ContrastiveRecipe
from isthmus.training.contrastive.validation import recalls

SHARES = [tenth / 10 for tenth in range(11)]  # of the closed form; 0 and 1 leave one of the two
CPU = torch.device("cpu")


def set_beside(
    trained: tuple[Projector, Projector, float, float | None],
    train: FeaturePairs,
    val: FeaturePairs | None,
    recipe: ContrastiveRecipe,
    frozen: Modality | None = None,
) -> tuple[tuple[Head, Head, float, float | None], dict[str, Any]]:
    """The trained projectors, scale and bias, joined with the closed form of `head.beside`, if any.

    The share of each is the best on `val` (mean recall, as training is judged); without validation pairs, half and
    half. The scale is then that of the least InfoNCE on the same pairs. Also returns what this adds to the summary.
    """
    kind = recipe.head.beside
    if kind == "none":
        return trained, {}
    if frozen is not None:
        joined, added = blended(trained[:2], train, val, frozen)
        return (*joined, fitted_scale(*joined, val or train, recipe.loss), trained[3]), added
    form = solve(kind, train, val)
    closed = form.to_projectors()
    share, metrics = (0.5, {}) if val is None else best_share(closed, trained[:2], val)
    image, text = (join(*members, share) for members in zip(closed, trained[:2], strict=True))
    scale = fitted_scale(image, text, val or train, recipe.loss)
    beside = {"form": kind, "share": share, **form.settings}
    return (image, text, scale, trained[3]), {"validation": metrics, "beside": beside}


def set_again(
    trained: tuple[Projector, Projector], pairs: FeaturePairs, beside: dict[str, Any], frozen: Modality | None
) -> tuple[Head, Head]:
    """Trained projectors joined with the closed form of `pairs`, with the settings and the share that `set_beside`
    chose on others: `beside` of its summary.
    """
    settings = {name: value for name, value in beside.items() if name not in ("form", "share")}
    if frozen is None:
        closed = fit(beside["form"], pairs, **settings).to_projectors()
        image, text = (join(*members, beside["share"]) for members in zip(closed, trained, strict=True))
        return image, text
    free, fixed = trained if frozen == "text" else trained[::-1]
    ridge = ridge_onto(pairs, settings, frozen).to_projector().eval()
    return ordered(blend(ridge, free.eval(), beside["share"]), fixed, frozen)


def best_share(
    closed: tuple[Projector, Projector], trained: tuple[Projector, Projector], val: FeaturePairs
) -> tuple[float, dict[str, float]]:
    """The share of the closed form at which validation recall is highest, and the recalls there."""
    cpu = torch.device("cpu")
    ours, theirs = (
        (project(image.eval(), val.image, cpu), project(text.eval(), val.text, cpu))
        for image, text in (closed, trained)
    )

    def measured(share: float) -> dict[str, float]:
        sides = zip(ours, theirs, strict=True)
        image, text = (torch.cat([share**0.5 * a, (1 - share) ** 0.5 * b], dim=1) for a, b in sides)
        return recalls(image, text, val)

    found = {share: measured(share) for share in SHARES}
    best = max(found, key=lambda share: found[share]["val_recall"])
    return best, found[best]


def join(closed: Projector, trained: Projector, share: float) -> Head:
    """Both side by side, or the only one with a share."""
    if share in (0, 1):
        return closed if share else trained
    return ConcatEnsemble([closed, trained], [share, 1 - share]).eval()


def blend(closed: Projector, free: Projector, share: float) -> Head:
    """As `join`, in the width of a fixed side."""
    if share in (0, 1):
        return closed if share else free
    return SumEnsemble([closed, free], [share, 1 - share]).eval()


def blended(
    trained: tuple[Any, Any], train: FeaturePairs, val: FeaturePairs | None, frozen: Modality
) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """The trained projector and ridge regression averaged, in the share that is best on `val` (without: half each).

    Returns (image, text) projectors, the fixed one as it was, and what this adds to the summary.
    """
    free, fixed = trained if frozen == "text" else trained[::-1]
    form = ridge_onto(train, val, frozen)
    closed, free = form.to_projector().eval(), free.eval()
    share, metrics = 0.5, {}
    if val is not None:
        found = {one: _measured(SumEnsemble([closed, free], [one, 1 - one]), fixed, val, frozen) for one in SHARES}
        share = max(found, key=lambda one: found[one]["val_recall"])
        metrics = found[share]
    beside = {"form": "ridge", "share": share, **form.settings}
    return ordered(blend(closed, free, share), fixed, frozen), {"validation": metrics, "beside": beside}


def _measured(free: nn.Module, fixed: nn.Module, val: FeaturePairs, frozen: Modality) -> dict[str, float]:
    image, text = ordered(free, fixed, frozen)
    return recalls(project(image, val.image, CPU), project(text, val.text, CPU), val)
