"""What a fusion model trains: the cross-modal encoder and the heads that its objectives need."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from isthmus.data.feature_pairs import SIDES
from isthmus.errors import UsageError
from isthmus.fusion.heads import AnswerHead, Contrast, FusionHeads, WordHead
from isthmus.fusion.sides import SideStates
from isthmus.fusion.two_tower import Fused, FusionOptions, TwoTower, start


@dataclass(frozen=True)
class FusionPlan:
    """All that decides a network's shape.

    widths: of the layers of each side, bottom first. options, heads: of the recipe.
    answers: how many there are, 0 for no such head; matching, contrast: whether there are these; words: of the
    vocabulary, 0 for no such head.
    """

    widths: dict[str, list[int]]
    options: FusionOptions
    heads: FusionHeads
    answers: int = 0
    matching: bool = False
    contrast: bool = False
    words: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> FusionPlan:
        """From `to_dict`. Raises TypeError, ValueError or KeyError for anything else."""
        parts = {"options": FusionOptions(**found["options"]), "heads": FusionHeads(**found["heads"])}
        return cls(**{**found, **parts})


class FusionNetwork(nn.Module):
    """The tower and its heads; a head that the plan does not have is None."""

    def __init__(self, plan: FusionPlan) -> None:
        super().__init__()
        self.plan = plan
        width = plan.options.width
        self.tower = TwoTower({side: plan.widths[side] for side in reversed(SIDES)}, plan.options)  # text first
        self.answers = AnswerHead(2 * width, plan.answers, plan.heads) if plan.answers else None
        self.matching = nn.Linear(2 * width, 2) if plan.matching else None
        self.words = WordHead(width, plan.words) if plan.words else None
        last = {side: widths[-1] for side, widths in plan.widths.items()}
        self.contrast = Contrast(last, plan.heads) if plan.contrast else None
        for head in (self.answers, self.matching, self.words, self.contrast):
            if head is not None:
                start(head, width)

    def forward(self, states: Mapping[str, SideStates], *, inputs: bool = False, pooled_only: bool = False) -> Fused:
        """Both halves; inputs, pooled_only: as for `TwoTower`. Padding is masked only where there is some."""
        values = {side: one.values for side, one in states.items()}
        masks = {side: None if bool(one.mask.all()) else one.mask for side, one in states.items()}
        return self.tower(values, masks, inputs=inputs, pooled_only=pooled_only)

    def answer_logits(self, fused: Fused) -> Tensor:
        """[B, answers]. Raises `UsageError` where there is no such head, as do the others."""
        return self._head("answers")(fused.pooled)

    def match_logits(self, fused: Fused) -> Tensor:
        """[B]: the logit that picture and text belong together."""
        two = self._head("matching")(fused.pooled)
        return two[:, 1] - two[:, 0]

    def ends(self, states: Mapping[str, SideStates]) -> dict[str, Tensor]:
        """Unit vectors [B, contrast] of the sides given, before they are joined."""
        return self._head("contrast")(states)

    def _head(self, name: str) -> nn.Module:
        head = getattr(self, name)
        if head is None:
            raise UsageError(f"This model was not trained with the objective {name}: objectives.{name} was 0.")
        return head
