"""Resume: a run that was killed, or interrupted, ends in the same bits as one that never was."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.errors import InputError
from isthmus.files import read_sealed, write_sealed
from isthmus.training import checkpoint, load_recipe, train_projectors
from isthmus.training import run as run_module
from isthmus.training.contrastive.objective import ContrastiveObjective
from isthmus.training.progress import deferred_interrupt

OVERRIDES = ["head.width=8", "optim.batch=8", "optim.epochs=2", "stop.restore_best=true", "optim.warmup=0.2"]
STEPS = 2 * 38  # 38 batches of 8 in 300 pairs, the last of 4


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices this small only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def data(seed: int = 0, pairs: int = 300) -> FeaturePairs:
    draws = np.random.default_rng(seed)
    latent = draws.normal(size=(pairs, 6))
    image, text = (latent @ draws.normal(size=(6, width)) + 0.3 for width in (12, 10))
    return FeaturePairs.from_arrays(image.astype(np.float32), text.astype(np.float32))


def train(out: Path | str | None, *, recipe="freeze-align-pooled", overrides=(), seed: int = 0, **options):
    chosen = load_recipe(recipe, [*OVERRIDES, *overrides])
    return train_projectors(data(), data(1, 60), chosen, out=out, seed=seed, **options)


def train_slowly(out: str) -> None:
    """What the child process runs: 30 ms a step, a checkpoint about every third."""
    step = run_module.Run.step

    def slow(self):
        time.sleep(0.03)
        return step(self)

    run_module.Run.step = slow
    train(out, checkpoint_seconds=0.08)


def outcome(trained):
    """All that must be equal bit for bit."""
    history = [{k: v for k, v in record.items() if k != "pairs_per_second"} for record in trained.history]
    heads = trained.image_projector.state_dict(), trained.text_projector.state_dict()
    weights = [(name, value.numpy().tobytes()) for head in heads for name, value in head.items()]
    return weights, trained.scale, trained.bias, history


@functools.cache
def uninterrupted(recipe: str = "freeze-align-pooled"):
    return outcome(train(None, recipe=recipe))


def saved_step(out: Path) -> int:
    path = out / "checkpoint" / "state.json"
    return json.loads(path.read_text())["step"] if path.exists() else 0


def stop_child(out: Path, how: signal.Signals) -> tuple[int, str]:
    """Start a real run, send it `how` once it has a checkpoint; (exit status, stderr)."""
    code = f"import test_training_resume as t; t.train_slowly({str(out)!r})"
    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, env=env, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while saved_step(out) < 3 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(how)
    return child.wait(timeout=60), child.communicate()[1]


def test_a_run_killed_in_the_middle_of_an_epoch_resumes_bit_for_bit(tmp_path):
    status, _ = stop_child(tmp_path, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert 3 <= saved_step(tmp_path) < STEPS / 2  # inside the first epoch
    resumed = train(tmp_path)
    assert outcome(resumed) == uninterrupted()
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == resumed.history


def test_ctrl_c_in_a_run_without_steps_is_not_lost(monkeypatch, tmp_path):
    def evaluate(self):
        signal.raise_signal(signal.SIGINT)
        return {}

    monkeypatch.setattr(run_module.Run, "evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, recipe="cca", overrides=["optim.epochs=0"])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_interrupts_at_once():
    with pytest.raises(KeyboardInterrupt), deferred_interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.pressed
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second one was swallowed")


def test_ctrl_c_writes_a_checkpoint_and_the_run_resumes_bit_for_bit(tmp_path):
    status, stderr = stop_child(tmp_path, signal.SIGINT)
    assert status != 0 and "KeyboardInterrupt" in stderr
    assert saved_step(tmp_path) >= 3
    assert outcome(train(tmp_path)) == uninterrupted()


class Stop(Exception):
    """Stands for the end of the process at a chosen place."""


def stop_at(monkeypatch, target, name: str, call: int) -> None:
    """Let the `call`-th call of `target.name` end the run."""
    original, calls = getattr(target, name), []

    def stopping(*args, **kwargs):
        calls.append(None)
        if len(calls) == call:
            raise Stop
        return original(*args, **kwargs)

    monkeypatch.setattr(target, name, stopping)


@pytest.mark.parametrize("recipe", ["linear", "sail"])
def test_other_losses_heads_and_optimizers_resume_bit_for_bit(monkeypatch, tmp_path, recipe):
    with monkeypatch.context() as patch:
        stop_at(patch, run_module.Run, "step", 12)
        with pytest.raises(Stop):
            train(tmp_path, recipe=recipe, checkpoint_seconds=0)
    assert outcome(train(tmp_path, recipe=recipe)) == uninterrupted(recipe)


@pytest.mark.parametrize(
    ("target", "name", "call"),
    [
        (run_module.Run, "step", 1),  # before anything was learned
        (run_module.Run, "step", 39),  # at an epoch's end
        (run_module.Run, "step", 50),
        (run_module.Run, "save", 39),
        (run_module.Run, "evaluate", 2),
        (checkpoint, "write_sealed", 20),  # between the tensors and the state that names them
        (checkpoint, "write_tensors", 20),
    ],
)
def test_a_run_that_ends_anywhere_resumes_bit_for_bit(monkeypatch, tmp_path, target, name, call):
    with monkeypatch.context() as patch:
        stop_at(patch, target, name, call)
        with pytest.raises(Stop):
            train(tmp_path, checkpoint_seconds=0)
    assert outcome(train(tmp_path)) == uninterrupted()
    assert [path.name for path in (tmp_path / "checkpoint").iterdir() if path.suffix == ".safetensors"] == [
        f"step-{STEPS:09d}.safetensors"
    ]


def test_resume_remembers_the_best_epoch_and_the_patience(monkeypatch, tmp_path):
    scores = [0.1, 0.9, 0.2, 0.3, 0.4, 0.5]
    overrides = ["optim.epochs=5", "stop.patience=3", "optim.batch=100"]

    def scored(first: int):
        left = iter(scores[first:])
        return lambda *_: {"val_recall": next(left)}

    monkeypatch.setattr(ContrastiveObjective, "validate", scored(0))
    whole = train(None, overrides=overrides)
    assert (whole.summary["best_epoch"], whole.summary["epochs"]) == (1, 4)
    with monkeypatch.context() as patch:
        stop_at(patch, run_module.Run, "step", 8)  # the third epoch; epochs 0, 1, 2 were judged
        patch.setattr(ContrastiveObjective, "validate", scored(0))
        with pytest.raises(Stop):
            train(tmp_path, overrides=overrides, checkpoint_seconds=0)
    monkeypatch.setattr(ContrastiveObjective, "validate", scored(3))
    assert outcome(train(tmp_path, overrides=overrides)) == outcome(whole)


def test_a_finished_run_returns_at_once(monkeypatch, tmp_path):
    first = train(tmp_path)
    stop_at(monkeypatch, run_module.Run, "step", 1)
    assert outcome(train(tmp_path)) == outcome(first)


def test_resume_off_starts_anew(monkeypatch, tmp_path):
    first = train(tmp_path)
    (tmp_path / "history.jsonl").write_text("old\n")
    again = train(tmp_path, resume=False)
    assert outcome(again) == outcome(first)
    assert "old" not in (tmp_path / "history.jsonl").read_text()
    with monkeypatch.context() as patch:  # and leaves no old checkpoint for a later resume
        stop_at(patch, run_module.Run, "step", 1)
        with pytest.raises(Stop):
            train(tmp_path, resume=False)
    assert not (tmp_path / "checkpoint" / "state.json").exists()


def test_a_second_run_into_one_folder_is_refused_and_the_first_is_unharmed(monkeypatch, tmp_path):
    step, refused = run_module.Run.step, []

    def one_more_run(run):
        with pytest.raises(InputError, match=r"another process is training into this folder \(it holds .*checkpoint"):
            train(tmp_path)
        refused.append(run.state.step)
        return step(run)

    monkeypatch.setattr(run_module.Run, "step", one_more_run)
    first = train(tmp_path)
    assert refused
    monkeypatch.undo()
    assert outcome(first) == outcome(train(tmp_path)) == outcome(train(None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overrides": ["optim.lr=0.5"]}, r"recipe\.optim\.lr is 0\.001 there, 0\.5 here"),
        ({"seed": 1}, "seed is 0 there, 1 here"),
        ({"recipe": "linear"}, r"recipe\.head\.dropout is 0\.1 there, 0\.0 here"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_says_what_differs(tmp_path, options, message):
    train(tmp_path, max_seconds=0)
    with pytest.raises(InputError, match=message) as error:
        train(tmp_path, **options)
    assert f"Remove {tmp_path / 'checkpoint'} to start anew" in str(error.value)


def test_a_run_with_compiled_losses_is_not_resumed_without_and_the_other_way_round(monkeypatch, tmp_path):
    compiled, eager = tmp_path / "compiled", tmp_path / "eager"
    train(compiled, max_seconds=0)
    monkeypatch.setenv("ISTHMUS_COMPILE", "0")
    train(eager, max_seconds=0)
    with pytest.raises(InputError, match=r"losses is 'compiled' there, 'not compiled \(.*ISTHMUS_COMPILE=0\)' here"):
        train(compiled)
    monkeypatch.delenv("ISTHMUS_COMPILE")
    with pytest.raises(InputError, match=r"losses is 'not compiled \(.*\)' there, 'compiled' here"):
        train(eager)
    train(compiled)


def test_a_run_that_goes_on_elsewhere_says_why_its_last_bits_may_differ(monkeypatch, tmp_path):
    train(tmp_path, max_seconds=0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "OTHER")
    with pytest.warns(UserWarning, match=r"processor is '\w+' there, 'OTHER' here; threads is 1 there, 7 here"):
        train(tmp_path)
    with warnings.catch_warnings():  # nothing is left to go on with
        warnings.simplefilter("error")
        monkeypatch.undo()
        train(tmp_path)


def test_a_checkpoint_of_version_0_1_0_goes_on_bit_for_bit(monkeypatch, tmp_path):
    """It named the version where the training format stands now, and neither the losses nor the machine."""
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_at(patch, run_module.Run, "step", 12)
        train(tmp_path, checkpoint_seconds=0)
    file = tmp_path / "checkpoint" / "state.json"
    state = read_sealed(file)
    identity = {name: value for name, value in state["identity"].items() if name not in ("training", "losses")}
    old = {name: value for name, value in state.items() if name != "machine"}
    write_sealed(file, {**old, "identity": {"isthmus": "0.1.0", **identity}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert outcome(train(tmp_path)) == uninterrupted()


def test_other_features_are_refused(tmp_path):
    recipe = load_recipe("linear", OVERRIDES)
    train_projectors(data(), None, recipe, out=tmp_path)
    changed = data()
    changed.text[17, 3] += 1
    with pytest.raises(InputError, match=r"data\.train is '\w+' there, '\w+' here"):
        train_projectors(changed, None, recipe, out=tmp_path)
    with pytest.raises(InputError, match=r"data\.val is None there"):
        train_projectors(data(), data(1), recipe, out=tmp_path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (truncate, "step-*", r"step-000000076\.safetensors: missing, truncated or changed"),
        (lambda path: path.unlink(), "step-*", "missing, truncated or changed"),
        (lambda path: path.write_bytes(b"\x80\x04junk"), "step-*", "missing, truncated or changed"),
        (truncate, "state.json", r"state\.json: cannot be read as JSON"),
        (lambda path: path.write_text("[1]"), "state.json", r"state\.json: not a training checkpoint"),
        (lambda path: path.write_text('{"format": 9}'), "state.json", r"state\.json: not a training"),
    ],
)
def test_a_damaged_checkpoint_is_named(tmp_path, damage, file, message):
    train(tmp_path)
    damage(next((tmp_path / "checkpoint").glob(file)))
    with pytest.raises(InputError, match=message):
        train(tmp_path)


def test_clear_removes_the_checkpoint_and_nothing_else(tmp_path):
    train(tmp_path)
    (tmp_path / "checkpoint" / "mine.txt").write_text("")
    checkpoint.clear(tmp_path / "checkpoint")
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == [".lock", "mine.txt"]
    checkpoint.clear(tmp_path / "checkpoint")
    checkpoint.clear(tmp_path / "none")
