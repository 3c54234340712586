"""Train any objective: in one run, or in several if the recipe lists stages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isthmus.errors import InputError, UsageError
from isthmus.locking import alone
from isthmus.owned import check_owned
from isthmus.training.objective import Objective
from isthmus.training.processes import Processes
from isthmus.training.progress import Progress, deferred_interrupt
from isthmus.training.recipe import Recipe
from isthmus.training.run import Run


@dataclass(frozen=True)
class Fitting:
    """Options of any run: the arguments of `train` with the same names. max_epochs: stop this call after so many."""

    out: Path | None = None
    seed: int = 0
    resume: bool = True
    max_seconds: float | None = None
    progress: bool | None = None
    log: Sequence[str] = ()
    device: str | None = None
    checkpoint_seconds: float = 60.0
    max_epochs: float | None = None


def fit(objective: Objective, recipe: Recipe, how: Fitting, **stage: Any) -> Run:
    """Train one objective to the end of its recipe, or to the time limit; returns the run in its last state.

    stage: `train` and `start` of `Run`. Raises what `isthmus.train` raises.
    """
    if how.seed < 0:
        raise UsageError(f"seed = {how.seed}: seeds are 0 or more.")
    if objective.items < 2:
        raise InputError(
            f"Training needs at least 2 {objective.unit}s, got {objective.items}: there is nothing to contrast."
        )
    with deferred_interrupt() as interrupt:
        began = saved = time.monotonic()
        run = Run(objective, recipe, out=how.out, seed=how.seed, device=how.device, **stage)
        run.start(how.resume, how.log)
        before = run.state.seconds
        total = run.plan.seen(run.plan.end)
        with Progress(how.progress if run.processes.first else False, total, run.seen(), run.plan.unit) as shown:
            while not run.finished():
                late = how.max_seconds is not None and time.monotonic() - began >= how.max_seconds
                late = late or (how.max_epochs is not None and run.epoch >= how.max_epochs)
                if run.processes.any(late or interrupt.pressed, run.device):
                    break
                items = run.step()
                run.record()
                now = time.monotonic()
                run.state.seconds = before + now - began
                shown.advance(items, run.note())
                if now - saved >= how.checkpoint_seconds:
                    run.save()
                    saved = now
        run.save()
        if run.processes.any(interrupt.pressed, run.device):
            raise KeyboardInterrupt
        run.judge_last()
        return run


def alone_in(out: Path | None) -> AbstractContextManager[None]:
    """A lock of the writing process, so that two runs cannot mix their checkpoints."""
    if out is None or not Processes().first:
        return nullcontext()
    check_owned(out, {"checkpoint", "tensorboard", "refit", "tune", "stages", "heard"})
    return alone(out / "checkpoint", "training into this folder")
