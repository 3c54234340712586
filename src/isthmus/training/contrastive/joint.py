"""The trained module: two projectors, the scale and, for the sigmoid loss, its bias."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from isthmus.data.feature_pairs import SIDES, FeaturePairs
from isthmus.data.matrix import Chosen, evenly
from isthmus.encoders.modality import Modality, spec_of
from isthmus.losses import LOSSES, Scale, initial_bias
from isthmus.projectors import Head, Projector, build_projector, solve_expand
from isthmus.projectors.closed_form import By, ClosedForm, Settings, best_scale, init_from, solve
from isthmus.projectors.projector import project
from isthmus.projectors.tokens import takes_tokens
from isthmus.training.contrastive.locked_head import LockedHead, build_free, ordered, start_onto
from isthmus.training.contrastive.recipe import ContrastiveRecipe, HeadOptions, LossOptions
from isthmus.training.contrastive.views import check_augmented, check_views

SCALE_PAIRS = 2000


@dataclass(frozen=True)
class Start:
    """Where a module began: settings of the closed form that it started from, if any, and its scale."""

    settings: Settings | None
    scale: float


class Temperature(nn.Module):
    """The inverse of a temperature that is learned directly (freeze-align), instead of `losses.Scale`."""

    def __init__(self, scale: float, *, min: float, max: float) -> None:
        super().__init__()
        self.bounds = 1 / max, 1 / min
        self.temperature = nn.Parameter(torch.tensor(1 / scale))

    def forward(self) -> Tensor:
        with torch.no_grad():
            self.temperature.clamp_(*self.bounds)
        return 1 / self.temperature


class Joint(nn.Module):
    """Both projectors and the loss between them.

    Args:
        image, text: projectors to one width.
        loss: the recipe's choices.
        scale: where the inverse temperature starts.
        batch: pairs in a batch, from which the sigmoid's bias starts if it is "auto".
        settings: of the closed form that the projectors start from.
    """

    def __init__(
        self,
        image: Projector,
        text: Projector,
        loss: LossOptions,
        scale: float,
        batch: int,
        settings: Settings | None = None,
    ) -> None:
        super().__init__()
        self.image, self.text, self.choices = image, text, loss
        self.start = Start(settings, scale)
        bounds = {"min": loss.min_scale, "max": loss.max_scale}
        self.scale: nn.Module
        if loss.learn == "raw":
            self.scale = Temperature(scale, **bounds)
        else:
            self.scale = Scale(scale, learn=loss.learn == "log", **bounds)
        self.function = LOSSES.find(loss.name)
        takes = inspect.signature(self.function).parameters
        given = {entry.name for entry in fields(loss)} - {"scale", "bias"}
        self.own = {name: getattr(loss, name) for name in takes if name in given}
        self.bias: nn.Parameter | None = None
        if "bias" in takes:
            self.bias = nn.Parameter(torch.tensor(initial_bias(batch) if loss.bias == "auto" else loss.bias))

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, Dx], [M, Dy] to unit rows [N, d], [M, d]: float32, under autocast too."""
        return F.normalize(self.image(image).float(), dim=-1), F.normalize(self.text(text).float(), dim=-1)

    def loss(
        self,
        image: Tensor,
        text: Tensor,
        groups: tuple[Tensor, Tensor] | None,
        process_group: ProcessGroup | None = None,
    ) -> Tensor:
        """The recipe's loss of a batch of unit rows, 0-d float32; of `process_group`'s rows together.

        With Matryoshka widths, the sum of the losses of the rows' first dimensions and of whole rows.
        """
        whole = self._loss(image, text, groups, process_group)
        prefixes = [
            self._loss(
                F.normalize(image[:, :width], dim=-1), F.normalize(text[:, :width], dim=-1), groups, process_group
            )
            for width in self.choices.matryoshka
        ]
        return sum(prefixes, start=whole)

    def _loss(
        self, image: Tensor, text: Tensor, groups: tuple[Tensor, Tensor] | None, process_group: ProcessGroup | None
    ) -> Tensor:
        bias = {} if self.bias is None else {"bias": self.bias}
        return self.function(image, text, self.scale(), **bias, **self.own, groups=groups, process_group=process_group)


def build_joint(
    recipe: ContrastiveRecipe,
    batch: int,
    train: FeaturePairs,
    by: FeaturePairs | Start | None,
    frozen: Modality | None = None,
) -> Joint:
    """The recipe's projectors, from random weights or from the closed form it names; none for a frozen side.

    by: held-out pairs, on which the closed form and its scale are chosen, or how a module began for which they were.

    Raises `UsageError` for a kind of projector that does not exist or cannot start from a closed form.
    """
    head, loss = recipe.head, recipe.loss
    check_views(head, train, frozen)
    check_augmented(recipe, train)
    if frozen is not None:
        return _onto(recipe, batch, train, by, frozen)
    if head.init == "random":
        assert isinstance(head.width, int) and isinstance(loss.scale, float)  # the recipe was checked
        return Joint(*build_projectors(head, train, head.width), loss, loss.scale, batch)
    settings = by.settings if isinstance(by, Start) else by
    if head.width == "auto":
        image, text, form = solved_projectors(head, train, settings)
    else:
        image, text = build_projectors(head, train, head.width)
        form = init_from(head.init, image, text, train, settings)
    return Joint(image, text, loss, _scale(image, text, train, by, loss), batch, form.settings)


def _scale(image: Head, text: Head, train: FeaturePairs, by: FeaturePairs | Start | None, loss: LossOptions) -> float:
    """The scale that a closed form begins with."""
    if loss.scale != "auto":
        return loss.scale
    return by.scale if isinstance(by, Start) else fitted_scale(image, text, by or train, loss)


def _onto(
    recipe: ContrastiveRecipe, batch: int, train: FeaturePairs, by: FeaturePairs | Start | None, frozen: Modality
) -> Joint:
    """The projector of the free side, and the fixed side's identity."""
    head, loss = recipe.head, recipe.loss
    free = build_free(head, train, frozen)
    settings = by.settings if isinstance(by, Start) else by
    chosen = None if head.init == "random" else start_onto(free, train, settings, frozen)
    image, text = ordered(free, LockedHead(free.width), frozen)
    return Joint(image, text, loss, _scale(image, text, train, by, loss), batch, chosen)


def build_projectors(head: HeadOptions, pairs: FeaturePairs, width: int) -> tuple[Projector, Projector]:
    """The image and the text projector, with random weights."""

    def build(side: str) -> Projector:
        kind, parts = getattr(head, side), getattr(pairs, f"{side}_parts")
        expand = head.expand if head.budget is None else solve_expand(kind, parts, width, head.budget)
        options: dict[str, Any] = {"norm": head.norm, "dropout": head.dropout, "expand": expand}
        return build_projector(
            kind, parts, width, padded=takes_tokens(kind) and spec_of(pairs.modality(side)).padded, **options
        )

    image, text = map(build, SIDES)
    return image, text


def solved_projectors(head: HeadOptions, train: FeaturePairs, by: By) -> tuple[Projector, Projector, ClosedForm]:
    """The closed form as linear projectors, with its best width on held-out pairs (without any: the greatest)."""
    form = solve(head.init, train, by)
    projectors = build_projectors(head, train, form.width)
    for projector, solved in zip(projectors, form.to_projectors(), strict=True):
        projector.load_state_dict(solved.state_dict())
    return *projectors, form


@torch.no_grad()
def fitted_scale(image: Head, text: Head, pairs: FeaturePairs, loss: LossOptions) -> float:
    """The scale at which InfoNCE is least on (at most 2,000 of) `pairs`, within the recipe's bounds."""
    count = len(pairs.image_of)
    captions = evenly(count, SCALE_PAIRS)
    images = pairs.image_of[captions]
    sides = (image, pairs.image, images), (text, pairs.text, captions)
    x, y = (project(head.eval(), Chosen(matrix, index), torch.device("cpu")) for head, matrix, index in sides)
    groups = torch.from_numpy(pairs.image_group[images]), torch.from_numpy(pairs.text_group[captions])
    return max(loss.min_scale, best_scale(x, y, max=loss.max_scale, groups=groups))
