"""Objectives: data, module, losses and validation of a run; the loop (`run.Run`) does the rest.

A new one is a subclass of `Objective` in a file of its own, a subclass of `Recipe` with its typed sections, and a line
in `recipe.OBJECTIVES` (or an entry point `isthmus.objectives` of another package).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from isthmus.training.plan import Plan
from isthmus.training.recipe import Recipe


class Objective(ABC):
    """One task of the trainer.

    recipe: the class of its recipes. primary: the metric of `validate` that says which state is best; higher: whether
    greater is better. unit: the name of an item in progress and plans. stage: what progress says before the epoch. Set
    by `prepare`: `plan` (the effective recipe, batches), `device`, and `module`, everything that a run trains, saves
    and restores.
    """

    recipe: ClassVar[type[Recipe]]
    primary: ClassVar[str]
    higher: ClassVar[bool] = True
    unit: ClassVar[str] = "pair"
    stage: ClassVar[str] = ""

    plan: Plan
    device: torch.device
    module: nn.Module

    @property
    @abstractmethod
    def items(self) -> int:
        """How many items an epoch visits."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """A fingerprint of its data; a checkpoint with other data is refused."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The module with fresh weights, drawn from torch's global generator."""

    @abstractmethod
    def batch(self, rows: np.ndarray) -> Any:
        """The items `rows`, int64 [n], as `losses` takes them, on the device. Valid until the next call."""

    @abstractmethod
    def losses(self, batch: Any, group: ProcessGroup | None) -> dict[str, Tensor]:
        """0-d losses of a batch, under the run's autocast; "loss" is what is minimised, the others are reported.

        group: the processes that share the batch, None for a single process. Gradients are summed over them: scale the
        total so that this sum is the gradient of the whole batch's loss.
        """

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Metrics on held-out data, `primary` among them; {} if nothing is held out."""

    def chance(self) -> dict[str, float]:
        """What guessing reaches of the metrics of `validate`, where that is known."""
        return {}

    @abstractmethod
    def result(self) -> Any:
        """The result of training, from the module, which is in eval mode on the CPU."""

    def planned(self, recipe: Recipe, processes: int = 1) -> Plan:
        """The plan of a recipe for these data. Raises `UsageError` for batches that the processes cannot share."""
        resolved, changes = self.adapt(recipe.resolve(self.items))
        count, unit = self.counted(resolved)
        return Plan.of(resolved, count, changes, processes=processes, unit=unit)

    def counted(self, recipe: Any) -> tuple[int, str]:
        """The number of items that batches are cut from, and the name of an item, under the effective recipe."""
        return self.items, self.unit

    def adapt(self, recipe: Recipe) -> tuple[Recipe, list[str]]:
        """The effective recipe for these data, and the changes in words."""
        return recipe, []

    def prepare(self, plan: Plan, device: torch.device) -> nn.Module:
        """Build the module for a plan, on a device."""
        self.plan, self.device = plan, device
        self.module = self.build().to(device)
        return self.module

    def learning_rate(self, name: str) -> float:
        """Factor on the recipe's learning rate for the parameter of this name."""
        return 1.0

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay acts on a parameter: not on vectors and scalars (biases, norms, scale)."""
        return self.plan.recipe.optim.decay_all or parameter.ndim >= 2

    def facts(self) -> dict[str, Any]:
        """Further values for each record of the history, from the module."""
        return {}

    def counts(self) -> dict[str, int]:
        """The amounts of data, for the summary."""
        return {"items": self.items}

    def parameters(self) -> int:
        """The numbers of parameters, for the summary."""
        return sum(parameter.numel() for parameter in self.module.parameters() if parameter.requires_grad)

    def cost(self, seen: int, seconds: float) -> dict[str, Any]:
        """The cost of training, for the ledger, after `seen` items."""
        return {"items_seen": seen, "seconds": round(seconds, 2)}
