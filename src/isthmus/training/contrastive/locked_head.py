"""New features join an existing space: one side of a trained model is frozen, the other is trained onto it."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor, nn

from isthmus.data.feature_pairs import SIDES, FeaturePairs
from isthmus.encoders.modality import Modality, spec_of
from isthmus.errors import UsageError
from isthmus.projectors import Projector, build_projector, solve_expand
from isthmus.projectors.blocks import Linear, Parallel
from isthmus.projectors.closed_form import By, Settings
from isthmus.projectors.ridge import ridge_onto
from isthmus.projectors.tokens import takes_tokens
from isthmus.training.contrastive.recipe import ContrastiveRecipe, HeadOptions


class LockedHead(nn.Module):
    """The fixed side: embeddings in, the same embeddings out. Nothing to train."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.parts, self.width = [width], width

    def forward(self, x: Tensor) -> Tensor:
        return x


def fixed_width(pairs: FeaturePairs, frozen: Modality) -> int:
    """Width of the space that the frozen side of these pairs lies in."""
    return int(getattr(pairs, frozen).shape[1])


def adapted(recipe: ContrastiveRecipe, width: int) -> tuple[ContrastiveRecipe, list[str]]:
    """The effective recipe for one free side, and the changes in words.

    The space has its width. CCA and Procrustes move both sides; only ridge regression onto the fixed side remains.
    """
    head = recipe.head
    changes: dict[str, Any] = {} if head.width == width else {"width": width}
    changes |= {name: "ridge" for name in ("init", "beside") if getattr(head, name) in ("cca", "procrustes")}
    said = [f"head.{name} {getattr(head, name)} → {value} (one side is frozen)" for name, value in changes.items()]
    return dataclasses.replace(recipe, head=dataclasses.replace(head, **changes)), said


def build_free(head: HeadOptions, pairs: FeaturePairs, frozen: Modality) -> Projector:
    """The projector that is trained, with random weights."""
    (free,) = (side for side in SIDES if side != frozen)
    kind, parts = getattr(head, free), getattr(pairs, f"{free}_parts")
    width = fixed_width(pairs, frozen)
    expand = head.expand if head.budget is None else solve_expand(kind, parts, width, head.budget)
    options: dict[str, Any] = {"norm": head.norm, "dropout": head.dropout, "expand": expand}
    return build_projector(
        kind, parts, width, padded=takes_tokens(kind) and spec_of(pairs.modality(free)).padded, **options
    )


def start_onto(projector: Projector, train: FeaturePairs, by: By, frozen: Modality) -> Settings:
    """Start a linear or parallel projector as ridge regression onto the fixed side; returns the settings of this."""
    block = projector.blocks[0] if hasattr(projector, "blocks") else None
    if len(getattr(projector, "blocks", ())) != 1 or not isinstance(block, Linear | Parallel):
        raise UsageError(f"init = 'ridge' makes no sense for {projector.kind!r}: use linear or parallel.")
    form = ridge_onto(train, by, frozen)
    block.load_linear(*form.map)
    return form.settings


def ordered(free: Any, fixed: Any, frozen: Modality) -> tuple[Any, Any]:
    """(image, text)."""
    return (free, fixed) if frozen == "text" else (fixed, free)
