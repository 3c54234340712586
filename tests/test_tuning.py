"""Trials of a recipe's settings: successive halving on validation pairs, within a budget, resumed after a kill."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import isthmus as ist
from isthmus.cli import main
from isthmus.errors import InputError, IsthmusError, UsageError
from isthmus.report.trials import table
from isthmus.training import load_recipe
from isthmus.training.run import Run
from isthmus.training.tuning import BRACKET, Trial, TrialBudget, TrialStop, Tuning, draw
from toys import pixel_encoder, word_encoder, write_pairs

SPACE: dict[str, tuple[Any, ...]] = {"optim.lr": tuple(range(1, 31)), "optim.epochs": (9, 27)}
RECIPE = """description = "a small one"
[head]
width = 8
[optim]
lr = 1e-4
batch = 32
epochs = 2
[tune]
optim.lr = [1e-2, 3e-2]
optim.epochs = [1, 4]
"""


def quality(trial: Trial, epochs: float) -> TrialStop:
    """A made-up learner: better with each epoch, and with a rate near 20."""
    whole = trial.settings.get("optim.epochs", 18)
    seen = min(epochs, whole)
    return TrialStop(
        seen, int(100 * seen), seen / (seen + 5) - abs(trial.settings.get("optim.lr", 9) - 20) / 50, seen == whole
    )


def made(folder: Path, ran: list[tuple[int, float]], trials: int | None = 19, **options: Any) -> Tuning:
    tuning = Tuning(folder, SPACE, 18, options.pop("seed", 0), {"data": "x"})

    def run(trial: Trial, epochs: float, seconds: float | None) -> TrialStop:
        ran.append((trial.number, epochs))
        return options["run"](trial, epochs) if "run" in options else quality(trial, epochs)

    tuning.run(run, TrialBudget(trials=trials), lambda line: None)
    return tuning


def test_the_first_third_of_a_bracket_goes_on_at_equal_epochs(tmp_path: Path) -> None:
    ran: list[tuple[int, float]] = []
    tuning = made(tmp_path, ran)
    assert [epochs for number, epochs in ran if not number] == [3, 9, 27] and tuning.rungs == [3, 9, 27]
    for first in (1, 1 + BRACKET):
        bracket = [(number, epochs) for number, epochs in ran if first <= number < first + BRACKET]
        at = {rung: [number for number, epochs in bracket if epochs == rung] for rung in tuning.rungs}
        assert at[3] == list(range(first, first + BRACKET))
        ranked = sorted(at[3], key=lambda number: -tuning.trials[number].score(3))
        assert at[9] == sorted(ranked[:3])
        assert len(at[27]) <= 1  # none where the best of them was over before
    assert tuning.best.last.score == max(trial.last.score for trial in tuning.trials)
    assert tuning.pairs == sum(trial.stops[-1].pairs for trial in tuning.trials)


@pytest.mark.parametrize("at", [1, 7, 12])
def test_a_killed_call_goes_on_with_the_unit_that_it_lost(tmp_path: Path, at: int) -> None:
    whole: list[tuple[int, float]] = []
    expected = made(tmp_path / "whole", whole)
    ran: list[tuple[int, float]] = []

    def killed(trial: Trial, epochs: float) -> TrialStop:
        if len(ran) == at:
            raise KeyboardInterrupt
        return quality(trial, epochs)

    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "cut", ran, run=killed)
    resumed = made(tmp_path / "cut", ran)
    assert ran == whole[: at - 1] + whole[at - 1 : at] + whole[at - 1 :]
    assert resumed.best.number == expected.best.number
    assert [one.stops for one in resumed.trials] == [one.stops for one in expected.trials]


def test_trials_follow_from_the_seed_and_more_of_them_begin_the_same() -> None:
    few, many = draw(SPACE, 5, 0), draw(SPACE, 40, 0)
    assert many[:5] == few and draw(SPACE, 5, 1) != few
    assert len({json.dumps(one) for one in many}) == 40
    assert len(draw({"optim.lr": (1, 2, 3)}, 99, 0)) == 3


def test_the_budget_ends_the_trials_and_more_of_it_adds_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 10))  # every look is ten seconds later
    monkeypatch.setattr("isthmus.training.tuning.time.monotonic", lambda: next(clock))
    given: list[float | None] = []

    def run(trial: Trial, epochs: float, seconds: float | None) -> TrialStop:
        given.append(seconds)
        return quality(trial, epochs)

    for minutes, units in ((1.0, 6), (1.5, 9)):
        tuning = Tuning(tmp_path, SPACE, 18, 0, {})
        tuning.run(run, TrialBudget(minutes=minutes), lambda line: None)
        assert sum(len(trial.stops) for trial in tuning.trials) == units
        assert given[-1] == 10


def test_a_trial_that_diverges_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    def run(trial: Trial, epochs: float) -> TrialStop:
        if trial.number == 2:
            raise IsthmusError("Training diverged")
        return quality(trial, epochs)

    tuning = made(tmp_path, [], run=run)
    assert tuning.trials[2].failed == "Training diverged" and tuning.trials[2].last.score == -math.inf
    assert len(tuning.trials) == 19 and "failed" in table(
        [{**t.__dict__, "stops": [s.__dict__ for s in t.stops], "pairs": 1} for t in tuning.trials[:4]], 1
    )


def test_trials_of_other_data_are_refused(tmp_path: Path) -> None:
    made(tmp_path, [])
    with pytest.raises(InputError, match=r"data is 'x' there, 'y' here.*Remove"):
        Tuning(tmp_path, SPACE, 18, 0, {"data": "y"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tune]\noptim.lrr = [1]", r"tune: unknown key 'optim.lrr'. Did you mean 'optim.lr'"),
        ("[tune]\noptim.lr = 1", r"tune.optim.lr must list values"),
        ("[tune]\noptim.lr = []", r"must list values"),
        ("[tune]\noptim.lr = ['a']", r"tune: optim.lr must be a number, not 'a'"),
        ("[tune]\noptim.batch = [1]", r"tune: optim.batch must be at least 2"),
        ("tune = 3", r"must list values"),
    ],
)
def test_a_space_is_read_as_strictly_as_values(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_recipe(tmp_path / "mine.toml")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tuning")
    ist.embed(write_pairs(folder / "pairs"), pixel_encoder(), word_encoder(), out=folder / "store")
    (folder / "small.toml").write_text(RECIPE)
    return folder / "store", folder / "small.toml"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_command_tunes_tells_and_goes_on_after_a_kill(
    toy: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, step = tmp_path / "model", Run.step
    command = ["train", str(toy[0]), "--recipe", str(toy[1]), "--tune", "5", "--out", str(out)]
    left = iter(range(9))

    def killed(self: Run) -> int:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Run, "step", killed)
    assert main(command) == 130
    monkeypatch.setattr(Run, "step", step)
    assert main(command) == 0
    said = capsys.readouterr()
    assert "trial 0: 2 epochs" in said.err and "of 5 minutes" in said.err
    assert "the recipe as it is" in said.out and "lr 0.0" in said.out
    assert all(len(line) <= 80 for line in said.out.splitlines() if str(tmp_path) not in line)
    trials = json.loads((out / "tune" / "tune.json").read_text())
    assert len(trials["trials"]) == 5  # as it is, and all four others
    best = max(trials["trials"], key=lambda trial: trial["stops"][-1]["score"])
    assert trials["best"] == best["number"]
    with Image.open(out / "tune" / "tune.png") as picture:
        assert picture.size == (840, 480)
    config = json.loads((out / "config.json").read_text())["summary"]
    for key, value in best["settings"].items():
        section, _, name = key.partition(".")
        assert config["recipe"][section][name] == value
    assert config["tuned"]["trials"] == 5 and config["tuned"]["settings"] == best["settings"]
    assert config["validation"]["val_recall"] == best["stops"][-1]["score"]
    card = " ".join((out / "README.md").read_text().split())
    assert "best of 5 trials on the validation pairs" in card and "tuned.settings.optim.lr" in card

    direct = [f"{key}={value}" for key, value in best["settings"].items()]
    same = ist.train(toy[0], recipe=str(toy[1]), overrides=direct)
    assert same.state_dict().keys() and all(
        (value == ist.DualEncoder.from_pretrained(out, load=False).state_dict()[name]).all()
        for name, value in same.state_dict().items()
    )


def test_what_cannot_be_tuned_is_refused(toy: tuple[Path, Path], tmp_path: Path) -> None:
    command = ["train", str(toy[0]), "--out", str(tmp_path / "m")]
    assert main([*command, "--tune", "0"]) == 2
    assert main([*command, "--recipe", "probe", "--tune", "1"]) == 2
    assert (
        main([*command, "--recipe", str(toy[1]), "--tune", "1", "--set", "optim.lr=1", "--set", "optim.epochs=1"]) == 2
    )
    assert main([*command, "--tune", "1", "--folds", "3"]) == 2
    with pytest.raises(UsageError, match="output folder"):
        ist.train(toy[0], recipe=str(toy[1]), tune=1)
