"""What a recipe comes to on given data, before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.errors import UsageError
from isthmus.projectors.closed_form import max_width
from isthmus.projectors.ridge import Modality
from isthmus.training.joint import build_projectors
from isthmus.training.locked_side import adapted, build_free, fixed_width
from isthmus.training.order import batch_slices
from isthmus.training.recipe import Recipe
from isthmus.training.views import check_views


@dataclass(frozen=True)
class Plan:
    """The recipe in force for a number of training pairs, and one epoch's batches as slices of the order.

    units: what the order is of: the pairs, or the images that have captions (`Optim.unit`).
    """

    recipe: Recipe
    pairs: int
    units: int
    slices: list[slice]
    changes: tuple[str, ...] = ()  # where a frozen side forces another head than the recipe's, in words

    @classmethod
    def of(cls, recipe: Recipe, train: FeaturePairs, frozen: Modality | None = None, processes: int = 1) -> Plan:
        """For these training pairs, of which one side may be frozen in a space that exists, over some processes.

        Raises `UsageError` for a batch of fewer pairs than processes, and for several processes that would share images
        of unequally many captions.
        """
        pairs, changes = len(train.image_of), list[str]()
        recipe = recipe.resolve(pairs)
        if frozen is not None:
            recipe, changes = adapted(recipe, fixed_width(train, frozen))
        counts = np.unique(train.image_of, return_counts=True)[1]
        units = pairs if recipe.optim.unit == "pairs" else len(counts)
        if recipe.optim.unit == "images" and processes > 1 and len(np.unique(counts)) > 1:
            raise UsageError('optim.unit = "images" on several processes needs as many captions for every image.')
        slices = batch_slices(units, recipe.optim.batch, processes)
        if slices[0].stop < processes:
            raise UsageError(
                f"A batch of {slices[0].stop} {recipe.optim.unit} cannot be shared by {processes} processes."
            )
        return cls(recipe, pairs, units, slices, tuple(changes))

    @property
    def batch(self) -> int:
        return self.slices[0].stop

    @property
    def steps(self) -> int:
        return self.recipe.optim.epochs * len(self.slices)

    def deviations(self) -> list[str]:
        """Where the data force another batch or head than the recipe's, in words."""
        if self.steps == 0:
            return [*self.changes]
        wanted, last = self.recipe.optim.batch, self.slices[-1].stop - self.slices[-1].start
        unit = self.recipe.optim.unit
        if wanted > self.units:
            return [*self.changes, f"batch {wanted:,} → {self.units:,} (all {unit})"]
        short = [f"last batch of every epoch: {last:,} {unit} instead of {wanted:,}"] if last != wanted else []
        return [*self.changes, *short]


def plan_training(
    train: FeaturePairs, val: FeaturePairs | None, recipe: Recipe, *, frozen: Modality | None = None
) -> dict[str, Any]:
    """What `train_projectors` would do with the same arguments; reads no features.

    Returns the recipe in force, counts of pairs, images and validation pairs, batch, steps, parameters (for a
    width of "auto": at most), and deviations from the recipe.
    """
    plan = Plan.of(recipe, train, frozen)
    head = plan.recipe.head
    check_views(head, train, frozen)
    width = max_width(head.init, train) if head.width == "auto" else head.width
    with torch.device("meta"):
        projectors = build_projectors(head, train, width) if frozen is None else [build_free(head, train, frozen)]
    return {
        "recipe": plan.recipe.to_dict(),
        "pairs": plan.pairs,
        "images": len(train),
        "validation_pairs": 0 if val is None else len(val.image_of),
        "batch": plan.batch,
        "steps": plan.steps,
        "parameters": sum(param.numel() for projector in projectors for param in projector.parameters()),
        "deviations": plan.deviations(),
    }
