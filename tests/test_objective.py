"""The trainer with an objective of another kind: stages, what is inherited and frozen, resuming, rates by part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import isthmus as ist
from isthmus.encoders import load_encoder
from isthmus.errors import InputError, UsageError
from isthmus.evaluation.tasks import TASKS
from isthmus.models.loading import KINDS
from isthmus.training.fit import Fitting, fit
from isthmus.training.freezing import digest
from isthmus.training.recipe import OBJECTIVES, load_recipe
from isthmus.training.run import Run
from isthmus.training.stages import fit_stages
from tiny_encoders import save_dinov2
from toy_objective import ClassifierObjective, ClassifierRecipe, LabelledStates
from toys import picture

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


PLACES = ((OBJECTIVES, "classifier", ""), (KINDS, "classifier", ":ClassifierModel"), (TASKS, "labels", ":labels"))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the entry points of another package do."""
    for registry, name, attribute in PLACES:
        monkeypatch.setattr(registry, "own", {**registry.own, name: f"toy_objective{attribute}"})
        registry.__dict__.pop("_entries", None)
    yield
    for registry, *_ in PLACES:
        registry.__dict__.pop("_entries", None)


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


def recipe_file(tmp_path: Path, text: str = RECIPE) -> str:
    (tmp_path / "toy.toml").write_text(text)
    return str(tmp_path / "toy.toml")


def recipe(tmp_path: Path, text: str = RECIPE) -> ClassifierRecipe:
    return load_recipe(recipe_file(tmp_path, text))


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


def test_a_classifier_of_layer_states_trains_and_is_saved_loaded_and_evaluated(tmp_path: Path) -> None:
    save_dinov2(tmp_path / "dinov2")
    encoder = load_encoder(f"hf:{tmp_path / 'dinov2'}")
    colours = [
        (colour, shade, place) for colour in ("red", "blue") for shade in ("dark", "pale") for place in ("left", "top")
    ]
    items = [picture(*one) for one in colours]
    truth = [int(colour == "blue") for colour, *_ in colours]
    held = LabelledStates.of(encoder, items, truth)
    model = ist.train((held, held), recipe=recipe_file(tmp_path), overrides=["optim.epochs=30"], out=tmp_path / "model")
    found = ist.load_model(tmp_path / "model")
    assert found.kind == "classifier" and found.describe() == "a classifier of 2 classes"
    assert (found.predict(items) == model.predict(items)).all()
    assert ist.evaluate(found, "labels", (items, truth))["metrics"]["acc1"] > 0.9
    assert all(one["ok"] for one in ist.doctor(tmp_path / "model"))
    with pytest.raises(InputError, match="kind 'classifier', not 'dual_encoder'"):
        ist.DualEncoder.from_pretrained(tmp_path / "model")


def test_an_option_that_the_objective_does_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="objective = 'classifier' takes no 'image'"):
        ist.train((states(0), states(1)), recipe=recipe_file(tmp_path), image="hf:some")


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
