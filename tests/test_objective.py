"""The trainer with an objective of another kind: stages, what is inherited and frozen, resuming, rates by part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from isthmus.errors import InputError, UsageError
from isthmus.training.fit import Fitting, fit
from isthmus.training.freezing import digest
from isthmus.training.recipe import OBJECTIVES, load_recipe
from isthmus.training.run import Run
from isthmus.training.stages import fit_stages
from toy_objective import ClassifierObjective, LabelledStates

RECIPE = """
objective = "classifier"

[classifier]
hidden = 6

[optim]
lr = 0.01
batch = 16
epochs = 4

[stop]
restore_best = true

[[stages]]
name = "body"
train = ["body.*", "head.*"]

[[stages]]
name = "mix"
train = ["mix", "head.*"]
start = { body = "body" }
optim.epochs = 6
"""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an entry point of another package does."""
    monkeypatch.setitem(OBJECTIVES.__dict__, "own", {**OBJECTIVES.own, "classifier": "toy_objective"})
    OBJECTIVES.__dict__.pop("_entries", None)
    yield
    OBJECTIVES.__dict__.pop("_entries", None)


def states(seed: int, items: int = 96) -> LabelledStates:
    """Two classes that only layer 1 tells apart; some items have fewer tokens than others."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(items) % 2
    values = torch.randn(items, 3, 5, 4, generator=random)
    values[:, 1, :, 0] += 2.0 * (2 * labels - 1)[:, None]
    lengths = torch.randint(1, 6, (items,), generator=random)
    return LabelledStates(values, torch.arange(5) < lengths[:, None], labels)


def objective() -> ClassifierObjective:
    return ClassifierObjective(states(0), states(1))


def recipe(tmp_path: Path, text: str = RECIPE, **changes: str):
    path = tmp_path / "toy.toml"
    path.write_text(text)
    return load_recipe(path, [f"{key}={value}" for key, value in changes.items()])


def trained(tmp_path: Path, how: Fitting, text: str = RECIPE) -> Run:
    return fit_stages(lambda _: objective(), recipe(tmp_path, text), how)[0]


def weights(run: Run) -> str:
    return digest(run.module.state_dict())


def test_two_stages_learn_and_what_is_frozen_stays_bit_for_bit(tmp_path: Path) -> None:
    run, summaries = fit_stages(lambda _: objective(), recipe(tmp_path), Fitting(out=tmp_path / "out"))
    assert [one["stage"] for one in summaries] == ["body", "mix"]
    assert [one["epochs"] for one in summaries] == [4, 6]
    assert run.state.best["val_acc1"] > 0.9 and run.module.mix.argmax() == 1
    first = fit(objective(), recipe(tmp_path).at(recipe(tmp_path).stages[0]), Fitting(), train=["body.*", "head.*"])
    first.finish()
    assert torch.equal(first.module.mix, torch.zeros(3))  # not trained in the first stage
    for name, value in first.module.body.state_dict().items():  # buffers of the frozen BatchNorm among them
        assert torch.equal(run.module.body.state_dict()[name], value), name
    assert not torch.equal(first.module.head.weight, run.module.head.weight)


def test_checkpoints_hold_no_frozen_parameters(tmp_path: Path) -> None:
    from safetensors import safe_open

    trained(tmp_path, Fitting(out=tmp_path / "out"))
    (file,) = (tmp_path / "out" / "stages" / "mix" / "checkpoint").glob("*.safetensors")
    with safe_open(file, framework="pt") as tensors:
        names = [name for name in tensors.keys() if name.startswith("model.")]  # noqa: SIM118
    assert {"model.mix", "model.head.weight"} <= set(names) and "model.body.0.weight" not in names


@pytest.mark.parametrize("stop_at", [3, 24, 27])  # inside the first stage, between both, inside the second
def test_an_interrupted_run_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    whole = weights(trained(tmp_path, Fitting(out=tmp_path / "whole")))
    step, taken = Run.step, []

    def mortal(self: Run) -> int:
        if len(taken) == stop_at:
            raise KeyboardInterrupt
        taken.append(1)
        return step(self)

    cut = Fitting(out=tmp_path / "cut", checkpoint_seconds=0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "step", mortal)
        trained(tmp_path, cut)
    assert weights(trained(tmp_path, cut)) == whole


def test_the_best_state_is_the_lowest_where_less_is_better(tmp_path: Path) -> None:
    run = trained(tmp_path, Fitting(out=tmp_path / "out"))
    losses = [record["val_loss"] for record in run.history.records if "val_loss" in record]
    assert run.state.best["val_loss"] == min(losses)


def test_history_holds_every_loss_and_the_unit_of_items(tmp_path: Path) -> None:
    trained(tmp_path, Fitting(out=tmp_path / "out"))
    lines = (tmp_path / "out" / "stages" / "mix" / "history.jsonl").read_text().splitlines()
    assert {"loss", "mistakes", "items_per_second", "val_acc1", "lr"} <= set(json.loads(lines[-1]))


def test_a_part_has_its_own_learning_rate(tmp_path: Path) -> None:
    run = Run(objective(), recipe(tmp_path), out=None, seed=0, device="cpu")
    run.start(resume=False)
    run.step()
    rates = {name: group["lr"] for group in run.optimizer.param_groups for name in (group["factor"],)}
    assert rates[10.0] == pytest.approx(10 * rates[1.0])


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    how = Fitting(out=tmp_path / "out", max_seconds=0)
    trained(tmp_path, how)
    with pytest.raises(InputError, match=r"data\.sum"):
        fit_stages(lambda _: ClassifierObjective(states(5), states(1)), recipe(tmp_path), how)


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ('train = ["mix", "head.*"]', 'train = ["mixture"]', UsageError, "'mixture' matches no parameter"),
        (
            'start = { body = "body" }',
            'start = { body = "later" }',
            UsageError,
            "starts from 'later', no stage before it",
        ),
        ('start = { body = "body" }', 'start = { tail = "body" }', InputError, "ended without a module 'tail'"),
        ("optim.epochs = 6", "classifier.hidden = 7", InputError, r"0\.weight is \[6, 4\] there, \[7, 4\] here"),
        ("optim.epochs = 6", "optim.epoch = 6", UsageError, r"Did you mean 'optim\.epochs'"),
        ('name = "mix"', 'name = "body"', UsageError, "every stage needs a name of its own"),
        ("hidden = 6", "hidden = 0", UsageError, r"classifier\.hidden must be at least 1"),
        ("hidden = 6", "head = 6", UsageError, r"unknown key 'classifier\.head'"),
        ("batch = 16", "batch = 2", UsageError, "smoothing needs optim.batch"),
        ('objective = "classifier"', 'objective = "classifer"', UsageError, "Did you mean 'classifier'"),
    ],
)
def test_what_a_recipe_cannot_mean_is_said(tmp_path: Path, old: str, new: str, error: type, message: str) -> None:
    text = RECIPE.replace(old, new)
    if "smoothing" in message:
        text = text.replace("hidden = 6", "hidden = 6\nsmoothing = 0.1")
    with pytest.raises(error, match=message):
        trained(tmp_path, Fitting(out=tmp_path / "out"), text)
