"""The sections of recipes of language models that see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from isthmus.fusion.language import LanguageOptions, ManagerOptions, PictureOptions
from isthmus.training.recipe import Recipe
from isthmus.values import within

MOST_TILES = 12  # along a side of a grid


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

    def identity(self) -> dict[str, Any]:
        """A run without grids is the one that it was before there were any."""
        values = super().identity()
        if not self.picture.grids:
            values["picture"] = {name: one for name, one in values["picture"].items() if name not in ("grids", "tiles")}
        return values

    def conflicts(self) -> Iterator[str]:
        """Choices that are valid alone but contradict each other."""
        if self.managers.layers and not self.managers.every:
            yield "managers.layers names layers, but managers.every = 0: there are no managers."
        if len({*self.picture.layers}) < len(self.picture.layers):
            yield f"picture.layers = {list(self.picture.layers)} names a layer twice."
        grids = self.picture.grids
        if len({*grids}) < len(grids) or any(not 1 <= count <= MOST_TILES for grid in grids for count in grid):
            yield (
                f"picture.grids = {[list(one) for one in grids]}: a grid is given twice, or is not [rows, columns] of "
                f"1 to {MOST_TILES} each."
            )
        yield from super().conflicts()
