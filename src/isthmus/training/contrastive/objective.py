"""The contrastive objective: two projectors, and a loss that pulls pairs together and pushes others apart."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.encoders.modality import Modality
from isthmus.errors import UsageError
from isthmus.models.ledger import training_cost
from isthmus.projectors import Projector
from isthmus.projectors.projector import project
from isthmus.training.contrastive.batches import Batches, fingerprint
from isthmus.training.contrastive.joint import Joint, build_joint
from isthmus.training.contrastive.locked_head import adapted, fixed_width
from isthmus.training.contrastive.recipe import ContrastiveRecipe
from isthmus.training.contrastive.validation import guessed, recalls
from isthmus.training.objective import Objective
from isthmus.training.plan import Plan
from isthmus.training.recipe import Recipe

Batch = tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]


class ContrastiveObjective(Objective):
    """Captions with their images, `train`, judged by retrieval on `val`; one side may be `frozen`.

    train, val: as in `train_projectors`. frozen: the side whose features are embeddings of an existing space.
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

    def planned(self, recipe: Recipe, processes: int = 1) -> Plan:
        """Also raises `UsageError` if several processes would share images with different numbers of captions."""
        plan = super().planned(recipe, processes)
        if plan.unit == "image" and processes > 1:
            captions = np.unique(self.train.image_of, return_counts=True)[1]
            if captions.min() < captions.max():
                raise UsageError('optim.unit = "images" on several processes needs as many captions for every image.')
        return plan

    def counted(self, recipe: ContrastiveRecipe) -> tuple[int, str]:
        """Pairs, or images that have captions."""
        if recipe.optim.unit == "pairs":
            return super().counted(recipe)
        return len(np.unique(self.train.image_of)), "image"

    def build(self) -> Joint:
        return build_joint(self.plan.recipe, self.plan.batch, self.train, self.val, self.frozen)

    def prepare(self, plan: Plan, device: torch.device) -> Joint:
        super().prepare(plan, device)
        self.batches = Batches(self.train, plan.recipe.loss.positives, device, plan.recipe.optim.unit)
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

    def chance(self) -> dict[str, float]:
        return {} if self.val is None else guessed(self.val)

    def facts(self) -> dict[str, Any]:
        return {"scale": self.module.scale().item(), "bias": self._bias()}

    def counts(self) -> dict[str, int]:
        return {"pairs": self.items, "images": len(self.train)}

    def parameters(self) -> int:
        heads = self.module.image, self.module.text
        return sum(parameter.numel() for head in heads for parameter in head.parameters())

    def cost(self, seen: int, seconds: float) -> dict[str, Any]:
        """Pairs seen, seconds and floating-point operations of the heads' training (`isthmus.models.ledger`)."""
        pairs = seen * self.items // self.plan.items
        image, text = self.module.image, self.module.text
        widths = [*self.plan.recipe.loss.matryoshka, image.width]
        return training_cost(image, text, pairs_seen=pairs, batch=self.plan.batch, widths=widths, seconds=seconds)

    def result(self) -> tuple[Projector, Projector, float, float | None]:
        """Projectors, scale and bias."""
        return self.module.image, self.module.text, self.module.scale().item(), self._bias()

    def _bias(self) -> float | None:
        return None if self.module.bias is None else self.module.bias.item()
