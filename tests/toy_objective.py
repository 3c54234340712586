"""An objective of another kind than pairs, in few lines: the class of an item from the states of an encoder's layers.

It trains in stages, resumes, is saved, loaded and evaluated by the same parts as the dual encoder: what the design of
the trainer is measured by. See test_objective.py, which registers it as another package would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.encoders import Encoder
from isthmus.evaluation.tasks import task
from isthmus.metrics.results import Result, result
from isthmus.models.saved import WEIGHTS, check_encoders, load_encoders_of, read_config, read_weights, write_model
from isthmus.training.fit import Fitting
from isthmus.training.objective import Objective
from isthmus.training.recipe import Recipe
from isthmus.training.stages import fit_stages
from isthmus.values import within


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
        self.sizes = {"layers": layers, "width": width, "hidden": hidden, "classes": classes}
        self.mix = nn.Parameter(torch.zeros(layers))
        self.body = nn.Sequential(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.Dropout(0.1), nn.ReLU())
        self.head = nn.Linear(hidden, classes)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        mixed = torch.einsum("l,nltd->ntd", self.mix.softmax(0), states)
        pooled = (mixed * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return self.head(self.body(pooled))


@dataclass
class LabelledStates:
    """States float32 [N, L, T, D], mask bool [N, T], labels int64 [N]; the encoder they are of, if any."""

    states: Tensor
    mask: Tensor
    labels: Tensor
    encoder: Encoder | None = None

    @classmethod
    def of(cls, encoder: Encoder, items: list[Any], labels: list[int]) -> LabelledStates:
        found = encoder.states(items)
        return cls(found.values.float(), found.mask, torch.tensor(labels), encoder)  # type: ignore[union-attr, arg-type]


class ClassifierObjective(Objective):
    recipe: ClassVar[type[Recipe]] = ClassifierRecipe
    primary: ClassVar[str] = "val_loss"
    higher: ClassVar[bool] = False
    unit: ClassVar[str] = "item"

    def __init__(self, train: LabelledStates, val: LabelledStates) -> None:
        self.train, self.val = train, val

    @property
    def items(self) -> int:
        return len(self.train.labels)

    def fingerprint(self) -> dict[str, Any]:
        return {"labels": self.train.labels.tolist(), "sum": float(self.train.states.sum())}

    def build(self) -> nn.Module:
        _, layers, _, width = self.train.states.shape
        return LayerClassifier(layers, width, self.plan.recipe.classifier.hidden, int(self.train.labels.max()) + 1)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        return self.train.states[rows], self.train.mask[rows], self.train.labels[rows]

    def losses(self, batch: Any, group: Any) -> dict[str, Tensor]:
        states, mask, labels = batch
        logits = self.module(states, mask)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.plan.recipe.classifier.smoothing)
        return {"loss": loss / (group.size() if group else 1), "mistakes": (logits.argmax(1) != labels).float().mean()}

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        logits = self.module(self.val.states, self.val.mask)
        right = (logits.argmax(1) == self.val.labels).float().mean()
        return {"val_loss": F.cross_entropy(logits, self.val.labels).item(), "val_acc1": right.item()}

    def learning_rate(self, name: str) -> float:
        return 10.0 if name.startswith("head.") else 1.0

    def result(self) -> LayerClassifier:
        return self.module  # type: ignore[return-value]


class ClassifierModel:
    """A frozen encoder and what was trained on its states."""

    kind = "classifier"

    def __init__(self, classifier: LayerClassifier, encoder: Encoder, summary: dict[str, Any]) -> None:
        self.classifier, self.encoder, self.summary = classifier.eval(), encoder, summary
        self.records = {encoder.modality: [encoder.record()]}

    def describe(self) -> str:
        return f"a classifier of {self.classifier.sizes['classes']} classes"

    @torch.inference_mode()
    def predict(self, items: list[Any]) -> np.ndarray:
        found = self.encoder.states(items)
        return self.classifier(found.values.float(), found.mask).argmax(1).numpy()  # type: ignore[union-attr]

    def save_pretrained(self, path: Path) -> Path:
        shared = {"records": self.records, "summary": self.summary, "own": {"classifier": self.classifier.sizes}}
        card = lambda file: file.write_text(f"# {self.describe()}\n")  # noqa: E731
        return write_model(path, self.kind, weights=dict(self.classifier.state_dict()), card=card, **shared)

    @classmethod
    def from_pretrained(cls, path: Path, encoder: Encoder | None = None, **options: Any) -> ClassifierModel:
        config = read_config(path, cls.kind, ["classifier"], [])
        ((modality, records),) = config["encoders"].items()
        encoder = encoder or load_encoders_of(config["encoders"])[modality][0]
        check_encoders([encoder], records)
        classifier = LayerClassifier(**config["classifier"])
        classifier.load_state_dict(read_weights(path / WEIGHTS, config["weights"]))
        return cls(classifier, encoder, config["summary"])


recipe = ClassifierRecipe


def train(store: tuple[LabelledStates, LabelledStates], choices: ClassifierRecipe, how: Fitting) -> ClassifierModel:
    run, stages = fit_stages(lambda _: ClassifierObjective(*store), choices, how)
    model = ClassifierModel(run.objective.result(), store[0].encoder, {"stages": stages})  # type: ignore[arg-type]
    if how.out is not None:
        model.save_pretrained(how.out)
    return model


@task(primary="acc1", columns=("acc1",))
def labels(model: ClassifierModel, data: tuple[list[Any], list[int]]) -> Result:
    """The share of items whose class is told."""
    found = {
        "metrics": {"acc1": float((model.predict(data[0]) == np.array(data[1])).mean())},
        "n": {"items": len(data[1])},
    }
    return result(found, dataset="toy", model=model.kind, task="classification")
