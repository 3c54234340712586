"""The plan of a run: a recipe applied to given data, before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from isthmus.errors import UsageError
from isthmus.training.order import batch_slices


@dataclass(frozen=True)
class Plan:
    """The effective recipe for a number of items, and one epoch's batches as slices of the order.

    recipe: of the objective's own class. unit: the name of an item. changes: choices of the recipe that the data rule
    out, in words. schedule, last: the steps that the schedule is made for and the step after which the run ends; None:
    all epochs.
    """

    recipe: Any
    items: int
    slices: list[slice]
    unit: str = "pair"
    changes: tuple[str, ...] = ()
    schedule: int | None = None
    last: int | None = None

    @classmethod
    def of(cls, recipe: Any, items: int, changes: list[str], *, processes: int = 1, unit: str = "pair") -> Plan:
        """Batches over some processes. Raises `UsageError` for a batch of fewer items than processes."""
        slices = batch_slices(items, recipe.optim.batch, processes)
        if slices[0].stop < processes:
            raise UsageError(f"A batch of {slices[0].stop} {unit}s cannot be shared by {processes} processes.")
        return cls(recipe, items, slices, unit, tuple(changes))

    @property
    def batch(self) -> int:
        return self.slices[0].stop

    @property
    def steps(self) -> int:
        return self.recipe.optim.epochs * len(self.slices) if self.schedule is None else self.schedule

    @property
    def end(self) -> int:
        return self.steps if self.last is None else self.last

    def seen(self, step: int) -> int:
        """Items seen after so many steps, epoch upon epoch."""
        epoch, position = divmod(step, len(self.slices))
        return epoch * self.items + self.slices[position].start

    def deviations(self) -> list[str]:
        """Changes of the batch or of other choices that the data make necessary, in words."""
        if self.steps == 0:
            return [*self.changes]
        wanted, last = self.recipe.optim.batch, self.slices[-1].stop - self.slices[-1].start
        if wanted > self.items:
            return [*self.changes, f"batch {wanted:,} → {self.items:,} (all {self.unit}s)"]
        short = [f"last batch of every epoch: {last:,} {self.unit}s instead of {wanted:,}"] if last != wanted else []
        return [*self.changes, *short]
