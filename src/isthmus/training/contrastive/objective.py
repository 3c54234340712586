"""The contrastive objective: two projectors, and a loss that pulls pairs together and pushes the others apart."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.encoders.modality import Modality
from isthmus.models.ledger import training_cost
from isthmus.projectors import Projector
from isthmus.projectors.projector import project
from isthmus.training.contrastive.batches import Batches, fingerprint
from isthmus.training.contrastive.joint import Joint, build_joint
from isthmus.training.contrastive.locked_head import adapted, fixed_width
from isthmus.training.contrastive.recipe import ContrastiveRecipe
from isthmus.training.contrastive.validation import recalls
from isthmus.training.objective import Objective
from isthmus.training.plan import Plan

Batch = tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]


class ContrastiveObjective(Objective):
    """Captions with their images, `train`, judged by retrieval on `val`; one side may be `frozen`.

    train, val: as in `train_projectors`. frozen: the side whose features are embeddings of a space that exists.
    """

    recipe: ClassVar[type[ContrastiveRecipe]] = ContrastiveRecipe
    primary: ClassVar[str] = "val_recall"

    module: Joint
    batches: Batches

    def __init__(self, train: FeaturePairs, val: FeaturePairs | None, frozen: Modality | None = None) -> None:
        self.train, self.val = train, val if val is not None and len(val.image_of) else None
        self.frozen = frozen

    @property
    def items(self) -> int:
        return len(self.train.image_of)

    def adapt(self, recipe: Any) -> tuple[ContrastiveRecipe, list[str]]:
        return (recipe, []) if self.frozen is None else adapted(recipe, fixed_width(self.train, self.frozen))

    def build(self) -> Joint:
        return build_joint(self.plan.recipe, self.plan.batch, self.train, self.val, self.frozen)

    def prepare(self, plan: Plan, device: torch.device) -> Joint:
        super().prepare(plan, device)
        self.batches = Batches(self.train, plan.recipe.loss.positives, device)
        return self.module

    def fingerprint(self) -> dict[str, Any]:
        return {"train": fingerprint(self.train), "val": fingerprint(self.val) if self.val else None}

    def batch(self, rows: np.ndarray) -> Batch:
        return self.batches.take(rows)

    def losses(self, batch: Batch, group: ProcessGroup | None) -> dict[str, Tensor]:
        image, text, groups = batch
        x, y = self.module(image, text)
        return {"loss": self.module.loss(x, y, groups, group)}

    def validate(self) -> dict[str, float]:
        if self.val is None:
            return {}
        image = project(self.module.image, self.val.image, self.device)
        return recalls(image, project(self.module.text, self.val.text, self.device), self.val)

    def facts(self) -> dict[str, Any]:
        return {"scale": self.module.scale().item(), "bias": self._bias()}

    def counts(self) -> dict[str, int]:
        return {"pairs": self.items, "images": len(self.train)}

    def parameters(self) -> int:
        heads = self.module.image, self.module.text
        return sum(parameter.numel() for head in heads for parameter in head.parameters())

    def cost(self, seen: int, seconds: float) -> dict[str, Any]:
        """Pairs seen, seconds and floating-point operations of the heads' training (`isthmus.models.ledger`)."""
        image, text = self.module.image, self.module.text
        widths = [*self.plan.recipe.loss.matryoshka, image.width]
        return training_cost(image, text, pairs_seen=seen, batch=self.plan.batch, widths=widths, seconds=seconds)

    def result(self) -> tuple[Projector, Projector, float, float | None]:
        """Projectors, scale and bias."""
        return self.module.image, self.module.text, self.module.scale().item(), self._bias()

    def _bias(self) -> float | None:
        return None if self.module.bias is None else self.module.bias.item()
