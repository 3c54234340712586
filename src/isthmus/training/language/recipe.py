"""The sections of recipes of language models that see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from isthmus.fusion.language import LanguageOptions, ManagerOptions, PictureOptions
from isthmus.training.recipe import Recipe
from isthmus.values import within


@dataclass(frozen=True)
class SpokenData:
    """The `[data]` section.

    messages: a file of conversations about the store's pictures (JSON, JSON Lines or Parquet, with `messages` or
    `conversations`), in place of the questions and captions that the store holds. least: answers that fewer training
    questions have are not among those that a model chooses from. choices: at most so many are.
    """

    messages: str = ""
    least: int = within(1, 1)
    choices: int = within(1000, 0)


@dataclass(frozen=True)
class LanguageRates:
    """Factors on `optim.lr`: of the managers, and of what is trained of the language model."""

    managers: float = within(1.0, 0, 1e4)
    language: float = within(0.05, 0, 1e4)


@dataclass(frozen=True)
class LanguageRecipe(Recipe):
    """All choices of a run of a language model that sees."""

    objective: ClassVar[str] = "language"
    sections: ClassVar[tuple[str, ...]] = ("language", "picture", "managers", "data", "rates", "optim", "stop")

    language: LanguageOptions = field(default=LanguageOptions())
    picture: PictureOptions = field(default=PictureOptions())
    managers: ManagerOptions = field(default=ManagerOptions())
    data: SpokenData = field(default=SpokenData())
    rates: LanguageRates = field(default=LanguageRates())

    def conflicts(self) -> Iterator[str]:
        """Choices that are valid alone but contradict each other."""
        if self.managers.layers and not self.managers.every:
            yield "managers.layers names layers, but managers.every = 0: there are no managers."
        if len({*self.picture.layers}) < len(self.picture.layers):
            yield f"picture.layers = {list(self.picture.layers)} names a layer twice."
        yield from super().conflicts()
