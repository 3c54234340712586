"""No pair is wasted: what was chosen on validation pairs is fitted again on training and validation pairs together.

A fifth of a small set validates. Once the best epoch, a closed form's settings, the scale and the share are chosen on
it, it has done its work, and trains like the rest.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any, ClassVar

from isthmus.projectors import Head
from isthmus.training.contrastive.ensemble import set_again
from isthmus.training.contrastive.joint import Joint, Start, build_joint
from isthmus.training.contrastive.objective import ContrastiveObjective
from isthmus.training.fit import Fitting, fit
from isthmus.training.plan import Plan
from isthmus.training.recipe import Recipe
from isthmus.training.run import Run

Fitted = tuple[Head, Head, float, float | None]  # projectors, scale and bias


class RefitObjective(ContrastiveObjective):
    """All pairs of an objective, trained as a run of it that is over was; nothing is held out.

    start: how the module of that run began. plan: of that run. last: the step whose weights it gave.
    """

    stage: ClassVar[str] = "refit, "

    def __init__(self, first: ContrastiveObjective, start: Start, plan: Plan, last: int) -> None:
        assert first.val is not None
        super().__init__(first.train.joined(first.val), None, first.frozen)
        self.start, self.first, self.last = start, plan, last

    def planned(self, recipe: Recipe, processes: int = 1) -> Plan:
        """The schedule of the first run, up to the step that it gave."""
        plan = super().planned(recipe, processes)
        return dataclasses.replace(plan, schedule=self.first.steps, last=self.last)

    def fingerprint(self) -> dict[str, Any]:
        begun = {**dataclasses.asdict(self.start), "steps": [self.first.steps, self.last]}
        return super().fingerprint() | {"refit": begun}

    def build(self) -> Joint:
        return build_joint(self.plan.recipe, self.plan.batch, self.train, self.start, self.frozen)


@dataclass(frozen=True)
class Refitted:
    """fitted: on all pairs. facts: for the summary. cost: of the ledger, both runs together."""

    fitted: Fitted
    facts: dict[str, Any]
    cost: dict[str, Any]


def refit(run: Run, fitted: Fitted, beside: dict[str, Any] | None, how: Fitting) -> Refitted | None:
    """Fit again on all pairs what `run` and its validation pairs led to, in a folder `refit` of its own.

    fitted, beside: as `set_beside` returns them. None where nothing is held out, and where time ran out: a later call
    goes on.
    """
    first = run.objective
    assert isinstance(first, ContrastiveObjective)
    if first.val is None or (run.stopped() and not run.out_of_patience()):
        return None
    began = time.monotonic()
    last = 0 if beside is not None and beside["share"] == 1 else run.returned  # the closed form alone: no head is used
    again = RefitObjective(first, first.module.start, run.plan, last)
    folder = None if how.out is None else how.out / "refit"
    second = fit(again, run.plan.recipe, dataclasses.replace(how, out=folder, log=()))
    if not second.finished():
        return None
    second.finish()
    found: Fitted = again.result()
    if beside is not None:  # the scale of both together is known from pairs that trained neither
        found = (*set_again(again.result()[:2], again.train, beside, again.frozen), fitted[2], fitted[3])
    both = run.summary()["ledger"], again.cost(second.seen(), second.state.seconds)
    cost = {name: sum(one[name] for one in both) for name in both[0]}
    seconds = round(time.monotonic() - began, 2)
    facts = {"pairs": again.items, "images": len(again.train), "steps": second.state.step, "seconds": seconds}
    return Refitted(found, facts, cost)
