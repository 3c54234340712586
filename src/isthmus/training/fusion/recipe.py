"""The sections of fusion recipes: the cross-modal encoder, its heads, the objectives and the rates of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from isthmus.errors import did_you_mean
from isthmus.fusion import AGGREGATORS, FusionHeads, FusionOptions
from isthmus.training.contrastive.recipe import DataOptions
from isthmus.training.recipe import Recipe
from isthmus.values import within


@dataclass(frozen=True)
class FusionObjectives:
    """Weights of the losses; 0 leaves one out, and its head.

    answers: of questions. "auto": 1 where the data have answers, else 0.
    matching: whether a text belongs to its picture, against negatives drawn by the contrastive similarities of the
        batch (evenly without `contrast`). "auto": 0 where the data have answers, else 1; so of contrast.
    contrast: InfoNCE between the unimodal ends. words: masked words, which needs the text encoder while training.
    answer_loss: "soft", each answer by itself against its score (VQA); "one", one of them is right (entailment).
    least: answers that fewer training questions have are not learned. masked: the share of words that are masked.
    """

    answers: float | Literal["auto"] = within("auto", 0, 1e3)
    matching: float | Literal["auto"] = within("auto", 0, 1e3)
    contrast: float | Literal["auto"] = within("auto", 0, 1e3)
    words: float = within(0.0, 0, 1e3)
    answer_loss: Literal["soft", "one"] = "soft"
    least: int = within(1, 1)
    masked: float = within(0.15, 0.01, 0.9)


@dataclass(frozen=True)
class PartRates:
    """Factors on `optim.lr`: of the cross-modal layers, the heads, the aggregators, and unfrozen encoder blocks."""

    cross: float = within(5.0, 0, 1e4)
    heads: float = within(10.0, 0, 1e4)
    managers: float = within(5.0, 0, 1e4)
    encoders: float = within(1.0, 0, 1e4)


@dataclass(frozen=True)
class UnfrozenBlocks:
    """How many of an encoder's last blocks are trained too; their states are then computed while training.

    image needs the pictures (--pixels); text has its texts in the store.
    """

    image: int = within(0, 0)
    text: int = within(0, 0)


@dataclass(frozen=True)
class FusionRecipe(Recipe):
    """All choices of a fusion run."""

    objective: ClassVar[str] = "fusion"
    sections: ClassVar[tuple[str, ...]] = (
        *("fusion", "heads", "objectives", "rates", "unfreeze", "optim", "stop", "data"),
    )

    fusion: FusionOptions = field(default=FusionOptions())
    heads: FusionHeads = field(default=FusionHeads())
    objectives: FusionObjectives = FusionObjectives()
    rates: PartRates = PartRates()
    unfreeze: UnfrozenBlocks = UnfrozenBlocks()
    data: DataOptions = field(default=DataOptions())

    def conflicts(self) -> Iterator[str]:
        """Choices that are valid alone but contradict each other."""
        fusion, chosen = self.fusion, self.objectives
        name = fusion.aggregator
        if name not in AGGREGATORS and not name.startswith("layer:"):
            yield f"no aggregator {name!r}.{did_you_mean(name, AGGREGATORS)}"
        if fusion.width % fusion.heads:
            yield f"fusion.width = {fusion.width} cannot be shared by fusion.heads = {fusion.heads}."
        if (chosen.answers, chosen.matching, chosen.contrast, chosen.words) == (0, 0, 0, 0):
            yield "every weight in [objectives] is 0: nothing is trained."
        yield from super().conflicts()


WEIGHTS = ("answers", "matching", "contrast", "words")
