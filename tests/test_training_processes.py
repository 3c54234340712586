"""Training by several processes: as one process trains, resumed bit for bit, the first one writing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import isthmus as ist
from isthmus.errors import UsageError
from isthmus.training.plan import Plan
from test_loss_ring import spawn
from test_training_resume import data

OVERRIDES = ["head.width=8", "optim.batch=30", "optim.epochs=3", "optim.warmup=0.2", "head.dropout=0.1"]
WORKER = """
import os, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
import test_training_processes as cases
cases.work({out!r}, {recipe!r}, {overrides!r}, {die_at})
"""


def work(out: str, recipe: str, overrides: list[str], die_at: int) -> None:
    """One process of a run, which all of them leave without a word before step `die_at`, if that is not 0."""
    import os

    from isthmus.training.run import Run

    step = Run.step

    def mortal(self):
        if die_at and self.state.step == die_at:
            os._exit(0)
        return step(self)

    Run.step = mortal
    ist.train(data(), val=data(1, 60), recipe=recipe, overrides=overrides, out=out, checkpoint_seconds=0)


def run(out: Path, size: int, recipe: str, overrides: list[str] = OVERRIDES, die_at: int = 0) -> bytes:
    """The weights that `size` processes end with."""
    tests = str(Path(__file__).parent)
    spawn(WORKER.format(tests=tests, out=str(out), recipe=recipe, overrides=overrides, die_at=die_at), size)
    return (out / "model.safetensors").read_bytes() if not die_at else b""


@pytest.mark.parametrize("recipe", ["linear", pytest.param("sail", marks=pytest.mark.slow)])
def test_two_processes_learn_what_one_learns(recipe, tmp_path):
    overrides = [*OVERRIDES, "head.dropout=0", "optim.precision=float32", "stop.patience=0"]
    run(tmp_path / "two", 2, recipe, overrides)
    ist.train(data(), val=data(1, 60), recipe=recipe, overrides=overrides, out=tmp_path / "one")
    one, two = (ist.DualEncoder.from_pretrained(tmp_path / name, load=False) for name in ("one", "two"))
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], weight, rtol=1e-3, atol=1e-4)
    records = [json.loads(line) for line in (tmp_path / "two" / "history.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [0, 1, 2, 3]
    assert two.summary["processes"] == 2


def test_small_gradients_are_summed_together_and_large_ones_alone(monkeypatch):
    from isthmus.training import processes

    sent = []
    monkeypatch.setattr(processes, "PARCEL", 10)
    monkeypatch.setattr(processes.dist, "all_reduce", lambda tensor, group: sent.append(tensor.mul_(2).numel()))
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in ((2, 3), (4,), (30,), (1,), (2,))]
    for number, parameter in enumerate(parameters[:-1]):
        parameter.grad = torch.full_like(parameter, number + 1.0)
    two = processes.Processes()
    two.group = "both"
    two.sum_gradients(parameters)
    assert sent == [10, 30, 1]
    assert all((one.grad == 2 * (number + 1)).all() for number, one in enumerate(parameters[:-1]))
    assert parameters[-1].grad is None


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit(tmp_path):
    whole = run(tmp_path / "whole", 2, "freeze-align-pooled")
    run(tmp_path / "cut", 2, "freeze-align-pooled", die_at=14)  # in the middle of the second epoch
    assert json.loads((tmp_path / "cut" / "checkpoint" / "state.json").read_text())["step"] == 14
    assert run(tmp_path / "cut", 2, "freeze-align-pooled") == whole


STAGED = """
import sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
import test_training_processes as cases
print(cases.work_in_stages({out!r}, {die_at}, {plain}))
"""


def work_in_stages(out: str, die_at: int = 0, plain: bool = False) -> str:
    """One process of a run in two stages, of another kind than pairs; a digest of its weights at the end.

    die_at: how many steps of both stages it takes before it is gone without a word, 0 for all. plain: without what
    draws at random or looks at the whole batch, so that two processes compute what one does.
    """
    import os

    from torch import nn

    from isthmus.training.fit import Fitting
    from isthmus.training.recipe import OBJECTIVES, load_recipe
    from isthmus.training.run import Run
    from test_objective import RECIPE, ClassifierObjective, digest, fit_stages, states

    class Plain(ClassifierObjective):
        def build(self):
            module = super().build()
            module.body[1], module.body[2] = nn.Identity(), nn.Identity()
            return module

    step, taken = Run.step, []

    def mortal(self):
        if die_at and len(taken) == die_at:
            os._exit(0)
        taken.append(1)
        return step(self)

    Run.step = mortal
    OBJECTIVES.own = {**OBJECTIVES.own, "classifier": "toy_objective"}
    recipe = Path(out).with_suffix(".toml")
    recipe.write_text(RECIPE)
    choices = load_recipe(recipe, ["optim.precision=float32", "optim.batch=32"])
    kind = Plain if plain else ClassifierObjective
    how = Fitting(out=Path(out), checkpoint_seconds=0 if die_at else 60, device="cpu")
    trained, _ = fit_stages(lambda _: kind(states(0), states(1)), choices, how)
    torch.save(trained.module.state_dict(), Path(out) / f"weights-{trained.processes.rank}.pt")
    return digest(dict(trained.module.named_parameters()))


def run_in_stages(out: Path, size: int = 2, **how: object) -> list[str]:
    """What `size` processes end with, each by itself."""
    out.mkdir(exist_ok=True)
    told = {"die_at": 0, "plain": False, **how}
    return spawn(STAGED.format(tests=str(Path(__file__).parent), out=str(out), **told), size)


@pytest.mark.slow
def test_two_processes_resume_inside_and_between_stages_bit_for_bit(tmp_path):
    whole = run_in_stages(tmp_path / "whole")
    assert whole[0] == whole[1]  # both hold the same model
    for die_at in (5, 12, 16):  # inside the first stage of 12 steps, between both, inside the second
        cut = tmp_path / f"cut{die_at}"
        run_in_stages(cut, die_at=die_at)
        assert not (cut / "weights-0.pt").exists()
        assert run_in_stages(cut) == whole
        assert (cut / "stages/mix/history.jsonl").read_text().count(
            "\n"
        ) == 7  # of each epoch one line, and the start's


@pytest.mark.slow
def test_two_processes_learn_in_stages_what_one_learns(tmp_path):
    run_in_stages(tmp_path / "two", plain=True)
    run_in_stages(tmp_path / "one", 1, plain=True)
    one, two = (torch.load(tmp_path / name / "weights-0.pt", weights_only=True) for name in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-4)


def test_batches_are_shared_out_whole_and_never_too_small():
    recipe = ist.load_recipe("linear", ["optim.batch=10", "head.width=8"])
    assert [s.stop for s in Plan.of(recipe, len(data(0, 23).image_of), [], processes=4).slices] == [10, 23]
    with pytest.raises(UsageError, match="batch of 10 pairs cannot be shared by 16 processes"):
        Plan.of(recipe, len(data(0, 23).image_of), [], processes=16)


def test_the_order_of_pairs_does_not_depend_on_the_processes():
    from isthmus.training.processes import Processes

    captions = np.arange(23)
    parts = []
    for rank in range(4):
        one = Processes()
        one.rank, one.size = rank, 4
        parts.append(one.own(captions))
    assert np.concatenate(parts).tolist() == list(range(20))
