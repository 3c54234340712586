"""Recipes in stages: each stage trains parts of a module and starts from results of earlier ones."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from isthmus.errors import InputError
from isthmus.training.checkpoint import Tensors
from isthmus.training.fit import Fitting, fit
from isthmus.training.objective import Objective
from isthmus.training.recipe import Recipe, Stage
from isthmus.training.run import Run

Make = Callable[[Any], Objective]  # the objective of a stage, from the stage's recipe


def fit_stages(make: Make, recipe: Recipe, how: Fitting) -> tuple[Run, list[dict[str, Any]]]:
    """Train the stages of a recipe, one after the other; returns the last run, and the summaries of all.

    Each has a folder of its own below `how.out` with its checkpoint, which stays when it is over: an interrupted call
    continues inside the stage where it stopped, and only the weights of finished stages are read. A stage that hits a
    time limit is the last one of the call.
    """
    began, ended, summaries = time.monotonic(), dict[str, Tensors](), list[dict[str, Any]]()
    for stage in recipe.stages:
        left = None if how.max_seconds is None else max(0.0, how.max_seconds - (time.monotonic() - began))
        folder = None if how.out is None else how.out / "stages" / stage.name
        chosen = recipe.at(stage)
        run = _fit_stage(make(chosen), chosen, stage, ended, dataclasses.replace(how, out=folder, max_seconds=left))
        summaries.append({"stage": stage.name, **run.summary()})
        wanted = [part for later in recipe.stages for part, source in later.start.items() if source == stage.name]
        ended[stage.name] = {
            name: value.clone()
            for name, value in run.module.state_dict().items()
            if name.startswith(tuple(f"{part}." for part in wanted))
        }
        if run.stopped() and not run.out_of_patience():
            break
    return run, summaries


def _fit_stage(objective: Objective, recipe: Recipe, stage: Stage, ended: dict[str, Tensors], how: Fitting) -> Run:
    start = {part: _part(ended[other], part, other) for part, other in stage.start.items()}
    run = fit(objective, recipe, how, train=stage.train, start=start)
    run.finish()
    return run


def _part(tensors: Tensors, part: str, stage: str) -> Tensors:
    """The tensors of one module of an earlier stage, by their names in it."""
    found = {name[len(part) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{part}.")}
    if not found:
        raise InputError(f"start: stage {stage!r} ended without a module {part!r}.")
    return found
