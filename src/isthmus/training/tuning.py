"""Choose a recipe's settings by trials on held-out data: successive halving within a number of minutes.

Of the nine trials of a bracket the best third trains on, three times as long, and of these again; then the next bracket
begins (Jamieson and Talwalkar, AISTATS 2016, arXiv:1502.07943; brackets as in Li et al., JMLR 2018, arXiv:1603.06560).
Trials are compared after equally many epochs, so that all have seen as many pairs. The recipe as it is goes first at
each length and is never dropped, so that no choice is below it on the held-out data. Which trials there are follows
from the space and the seed; only how many depends on the time.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.errors import InputError, IsthmusError, UsageError
from isthmus.files import read_sealed, write_sealed
from isthmus.training import checkpoint
from isthmus.training.checkpoint import differences

KEEP = 3  # one of so many trains on, so many times as long
BRACKET = KEEP**2
STATE = "trials.json"
FORMAT = 1

Space = dict[str, tuple[Any, ...]]  # values to try, by dotted key
TrialSettings = dict[str, Any]  # one of them each


@dataclass
class TrialStop:
    """A trial so far: epochs and pairs seen, its score on held-out data, and whether its schedule is over."""

    epochs: float
    pairs: int
    score: float
    over: bool


@dataclass
class Trial:
    """Settings, what they led to at each stop, and the time that took; `failed` says why they led to nothing."""

    number: int
    settings: TrialSettings
    stops: list[TrialStop] = field(default_factory=list)
    seconds: float = 0.0
    failed: str = ""

    @classmethod
    def of(cls, saved: dict[str, Any]) -> Trial:
        return cls(**{**saved, "stops": [TrialStop(**one) for one in saved["stops"]]})

    @property
    def last(self) -> TrialStop:
        return self.stops[-1] if self.stops else TrialStop(0, 0, -math.inf, bool(self.failed))

    def reached(self, epochs: float) -> bool:
        return bool(self.failed) or bool(self.stops and (self.last.over or self.last.epochs >= epochs))

    def score(self, epochs: float) -> float:
        """After so many epochs, or at the end of a schedule that is shorter."""
        return next((one.score for one in self.stops if one.epochs >= epochs), self.last.score)


RunTrial = Callable[[Trial, float, float | None], TrialStop]  # of a trial, up to an epoch, in so many seconds at most


@dataclass(frozen=True)
class TrialBudget:
    """Where trials end: minutes of work in all calls, or a number of trials, or when there are no other settings."""

    minutes: float | None = None
    trials: int | None = None


class Tuning:
    """All trials of a recipe, remembered in `folder`.

    space: what is tried. epochs: of the recipe as it is. identity: says what is tuned; trials of anything else in
    `folder` are refused with `InputError`.
    """

    def __init__(self, folder: Path, space: Space, epochs: int, seed: int, identity: dict[str, Any]) -> None:
        self.folder, self.space, self.seed = folder, space, seed
        self.identity = json.loads(json.dumps({"space": space, "seed": seed, **identity}))  # as it is read back
        most = max([epochs, *space.get("optim.epochs", ())])
        self.rungs = sorted({math.ceil(most / KEEP**power) for power in range(3)})
        self.trials = self._read() or [Trial(0, {})]

    def run(self, run: RunTrial, budget: TrialBudget, say: Callable[[str], None]) -> Trial:
        """Try until the budget is used up; returns the best trial."""
        for trial, epochs in self._work(budget.trials):
            left = None if budget.minutes is None else 60 * budget.minutes - self.seconds
            if left is not None and left <= 0:
                break
            self._try(trial, run, epochs, left)
            say(self._line(trial, budget))
        if self.best.last.score == -math.inf:
            raise InputError(f"No trial came to a result. {self.best.failed or 'Give more time: --tune.'}")
        return self.best

    @property
    def best(self) -> Trial:
        """Of the highest score; the first of several."""
        return max(self.trials, key=lambda trial: trial.last.score)

    @property
    def tried(self) -> list[Trial]:
        """Those that have begun."""
        return [trial for trial in self.trials if trial.stops or trial.failed]

    @property
    def seconds(self) -> float:
        return sum(trial.seconds for trial in self.trials)

    @property
    def pairs(self) -> int:
        """Pairs seen by all trials."""
        return sum(trial.last.pairs for trial in self.trials)

    def place(self, trial: Trial) -> Path:
        """Where a trial's run is kept."""
        return self.folder / f"{trial.number:03d}"

    def _work(self, most: int | None) -> Iterator[tuple[Trial, float]]:
        """What is to be done next, a trial and the epoch that it goes on to; what is done is passed over."""
        as_it_is = self.trials[0]
        for first in range(1, sys.maxsize, BRACKET):
            alive = self._bracket(first, most)
            if not alive and as_it_is.reached(self.rungs[-1]):
                return
            for rung in self.rungs:
                yield from self._unless_reached([as_it_is, *alive], rung)
                ranked = sorted(alive, key=lambda trial: -trial.score(rung))
                alive = sorted(ranked[: math.ceil(len(alive) / KEEP)], key=lambda trial: trial.number)
                self._forget([trial for trial in ranked if trial not in alive])

    def _unless_reached(self, trials: list[Trial], epochs: float) -> Iterator[tuple[Trial, float]]:
        for trial in trials:
            if not trial.reached(epochs):
                yield trial, epochs

    def _bracket(self, first: int, most: int | None) -> list[Trial]:
        """The trials from number `first` on, made where they are new."""
        stop = first + BRACKET if most is None else min(first + BRACKET, most)
        drawn = draw(self.space, stop - 1, self.seed)
        self.trials += [Trial(number, drawn[number - 1]) for number in range(len(self.trials), len(drawn) + 1)]
        return self.trials[first:stop]

    def _try(self, trial: Trial, run: RunTrial, epochs: float, left: float | None) -> None:
        began = time.monotonic()
        try:
            trial.stops.append(run(trial, epochs, left))
        except InputError:
            raise  # the data, not the settings
        except IsthmusError as error:
            if not trial.number:
                raise
            trial.failed = str(error)
        trial.seconds += time.monotonic() - began
        self._write()

    def _forget(self, trials: list[Trial]) -> None:
        """Remove the checkpoints of trials that do not go on; the best one's is where its training goes on."""
        for trial in trials:
            if trial is not self.best:
                checkpoint.clear(self.place(trial) / "checkpoint")

    def _read(self) -> list[Trial]:
        path = self.folder / STATE
        if not path.exists():
            return []
        saved, remedy = read_sealed(path), f"Remove {self.folder} to start anew, or choose another output folder."
        if not isinstance(saved, dict) or saved.get("format") != FORMAT:
            raise InputError(f"{path}: no trials of this version of isthmus. {remedy}")
        if what := differences(saved.get("identity"), self.identity):
            raise InputError(f"{self.folder} holds trials of another recipe or of other data: {what}. {remedy}")
        return [Trial.of(one) for one in saved["trials"]]

    def _write(self) -> None:
        done = [asdict(trial) for trial in self.tried]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_sealed(self.folder / STATE, {"format": FORMAT, "identity": self.identity, "trials": done})

    def _line(self, trial: Trial, budget: TrialBudget) -> str:
        got = trial.failed or f"{trial.last.epochs:g} epochs, {100 * trial.last.score:.1f} %"
        of = "" if budget.minutes is None else f" of {budget.minutes:g}"
        best = f"best {100 * self.best.last.score:.1f} %, trial {self.best.number}"
        return f"trial {trial.number}: {got}; {best}; {self.seconds / 60:.1f}{of} minutes"


def draw(space: Space, count: int, seed: int) -> list[TrialSettings]:
    """`count` different settings, or all there are: the first of an endless random row, so that more begin the same."""
    most, found = math.prod(len(values) for values in space.values()), dict[tuple[int, ...], None]()
    random = np.random.default_rng(seed)
    while len(found) < min(count, most):
        found[tuple(int(random.integers(len(values))) for values in space.values())] = None
    return [{key: space[key][place] for key, place in zip(space, places, strict=True)} for places in found]


def check_space(space: Space, name: str, pinned: dict[str, Any]) -> Space:
    """The space without what `--set` has fixed. Raises `UsageError` where nothing is left to try."""
    fixed = {f"{section}.{key}" for section, values in pinned.items() for key in values}
    left = {key: values for key, values in space.items() if key not in fixed}
    if not left:
        raise UsageError(
            f"recipe {name!r} lists nothing to try{' that --set leaves free' if space else ''}: write a table [tune] "
            "into a recipe file, such as optim.lr = [3e-4, 1e-3]."
        )
    return left


def summary(tuning: Tuning, best: Trial) -> dict[str, Any]:
    """What the trials were and what they chose, for the model's card."""
    as_it_is = tuning.trials[0].last.score
    counts = {"trials": len(tuning.tried), "seconds": round(tuning.seconds, 1), "pairs_seen": tuning.pairs}
    scores = {"as_it_is": None if as_it_is == -math.inf else as_it_is, "score": best.last.score}
    return {**counts, "trial": best.number, "settings": best.settings, **scores}


def plain(trial: Trial) -> dict[str, Any]:
    """A trial as JSON has it."""
    return dataclasses.asdict(trial) | {"pairs": trial.last.pairs}
