"""An objective of another kind than pairs, in few lines: the class of an item from the states of an encoder's layers.

What the design of the trainer is measured by: see test_objective.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.training.objective import Objective
from isthmus.training.recipe import Recipe
from isthmus.training.values import within


@dataclass(frozen=True)
class ClassifierOptions:
    """hidden: units between states and classes. smoothing: of the labels."""

    hidden: int = within(8, 1)
    smoothing: float = within(0.0, 0, 0.5)


@dataclass(frozen=True)
class ClassifierRecipe(Recipe):
    objective: ClassVar[str] = "classifier"
    sections: ClassVar[tuple[str, ...]] = ("classifier", "optim", "stop")
    classifier: ClassifierOptions = ClassifierOptions()

    def conflicts(self) -> Iterator[str]:
        if self.classifier.smoothing and self.optim.batch < 4:
            yield "classifier.smoothing needs optim.batch of 4 or more."
        yield from super().conflicts()


class LayerClassifier(nn.Module):
    """States [N, L, T, D] with their mask [N, T] to logits [N, C]: the mean of the real tokens of mixed layers."""

    def __init__(self, layers: int, width: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(layers))
        self.body = nn.Sequential(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.Dropout(0.1), nn.ReLU())
        self.head = nn.Linear(hidden, classes)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        mixed = torch.einsum("l,nltd->ntd", self.mix.softmax(0), states)
        pooled = (mixed * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return self.head(self.body(pooled))


@dataclass
class LabelledStates:
    """States float32 [N, L, T, D], mask bool [N, T], labels int64 [N]."""

    states: Tensor
    mask: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class ClassifierObjective(Objective):
    recipe: ClassVar[type[Recipe]] = ClassifierRecipe
    primary: ClassVar[str] = "val_loss"
    higher: ClassVar[bool] = False
    unit: ClassVar[str] = "item"

    def __init__(self, train: LabelledStates, val: LabelledStates) -> None:
        self.train, self.val = train, val

    @property
    def items(self) -> int:
        return len(self.train)

    def fingerprint(self) -> dict[str, Any]:
        return {"labels": self.train.labels.tolist(), "sum": float(self.train.states.sum())}

    def build(self) -> nn.Module:
        _, layers, _, width = self.train.states.shape
        return LayerClassifier(layers, width, self.plan.recipe.classifier.hidden, int(self.train.labels.max()) + 1)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        index = torch.from_numpy(rows)
        return self.train.states[index], self.train.mask[index], self.train.labels[index]

    def losses(self, batch: Any, group: Any) -> dict[str, Tensor]:
        states, mask, labels = batch
        logits = self.module(states, mask)
        smoothing = self.plan.recipe.classifier.smoothing
        return {
            "loss": F.cross_entropy(logits, labels, label_smoothing=smoothing),
            "mistakes": (logits.argmax(1) != labels).float().mean(),
        }

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        logits = self.module(self.val.states, self.val.mask)
        right = (logits.argmax(1) == self.val.labels).float().mean()
        return {"val_loss": F.cross_entropy(logits, self.val.labels).item(), "val_acc1": right.item()}

    def learning_rate(self, name: str) -> float:
        return 10.0 if name.startswith("head.") else 1.0

    def result(self) -> LayerClassifier:
        return self.module  # type: ignore[return-value]
