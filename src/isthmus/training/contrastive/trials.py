"""Trials of a contrastive recipe's settings, judged by retrieval on the validation pairs."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.encoders.modality import Modality
from isthmus.errors import InputError, UsageError
from isthmus.files import write_json
from isthmus.report.page import on_top
from isthmus.training.contrastive.objective import ContrastiveObjective
from isthmus.training.contrastive.recipe import ContrastiveRecipe
from isthmus.training.contrastive.trainer import train_projectors
from isthmus.training.fit import Fitting, alone_in
from isthmus.training.processes import Processes
from isthmus.training.run import NO_BETTER
from isthmus.training.tuning import Trial, TrialBudget, TrialStop, Tuning, check_space, plain, summary

Tuned = tuple[ContrastiveRecipe, Path, dict[str, Any]]  # the recipe, the folder of its run, facts for the summary


def tune(
    train: FeaturePairs,
    val: FeaturePairs | None,
    recipe: ContrastiveRecipe,
    how: Fitting,
    budget: TrialBudget,
    frozen: Modality | None = None,
) -> Tuned:
    """The recipe with the settings that are best on `val`, and the folder where training goes on with them.

    `how.out`/tune has all trials, `tune.json` and a plot. A call that was killed goes on; with more time, so does one
    that was over. Raises `UsageError` without an output folder or anything to try, `InputError` without validation
    pairs.
    """
    _check(how, val, budget)
    assert how.out is not None
    objective, folder = ContrastiveObjective(train, val, frozen), how.out / "tune"
    effective = objective.planned(recipe).recipe
    space = check_space(recipe.tune, recipe.name, recipe.overrides)
    identity = {"recipe": effective.identity(), "data": objective.fingerprint()}

    def say(line: str) -> None:
        if how.progress:
            sys.stderr.write(f"{line}\n")

    def run(trial: Trial, epochs: float, seconds: float | None) -> TrialStop:
        place = dataclasses.replace(
            how, out=tuning.place(trial), resume=True, max_seconds=seconds, max_epochs=epochs, progress=False, log=()
        )
        chosen = recipe.having({**trial.settings, "stop.refit": False})
        found = train_projectors(train, val, chosen, frozen=frozen, **vars(place)).summary
        over = found["stopped"] is None or NO_BETTER in found["stopped"]
        return TrialStop(found["epochs"], found["ledger"]["pairs_seen"], found["validation"]["val_recall"], over)

    with alone_in(how.out):
        if not how.resume and folder.exists():
            shutil.rmtree(folder)
        tuning = Tuning(folder, space, effective.optim.epochs, how.seed, identity)
        best = tuning.run(run, budget, say)
        _tell(tuning, best)
    return recipe.having(best.settings), tuning.place(best), summary(tuning, best)


def _check(how: Fitting, val: FeaturePairs | None, budget: TrialBudget) -> None:
    if how.out is None:
        raise UsageError("tune needs an output folder, in which its trials are kept.")
    if budget.minutes is not None and budget.minutes <= 0:
        raise UsageError(f"tune={budget.minutes:g} (--tune): the minutes that trials may take, more than 0.")
    if Processes().size > 1:
        raise UsageError("tune (--tune) runs in one process: tune first, then train under torchrun with --set.")
    if val is None or not len(val.image_of):
        raise InputError("tune (--tune) compares trials on validation pairs, and nothing is held out.")


def _tell(tuning: Tuning, best: Trial) -> None:
    """All trials as JSON, and the plot where matplotlib is."""
    from isthmus.report.trials import write_plot

    trials = [plain(trial) for trial in tuning.tried]
    write_json(tuning.folder / "tune.json", {"best": best.number, "trials": trials})
    with on_top():
        write_plot(tuning.folder / "tune.png", trials, best.number)
