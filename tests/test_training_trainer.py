"""The trainer on synthetic pairs with a shared latent: learning, stopping, reporting, refusing."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types

import numpy as np
import pytest
import torch

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.errors import InputError, IsthmusError, UsageError
from isthmus.losses import infonce
from isthmus.projectors.closed_form import choose, fit
from isthmus.projectors.projector import project
from isthmus.training import load_recipe, plan_training, recipe_names, train_projectors
from isthmus.training import run as run_module
from isthmus.training.contrastive.batches import Batches, fingerprint, positive_groups
from isthmus.training.contrastive.joint import Joint, Temperature
from isthmus.training.contrastive.objective import ContrastiveObjective
from isthmus.training.contrastive.recipe import LossOptions
from isthmus.training.contrastive.validation import recalls

SMALL = ["head.width=16", "optim.batch=64"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices this small only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shared_latent(images: int, captions: int = 1, *, seed: int = 0, **fields) -> FeaturePairs:
    """Two views of 8 latent numbers, 24 and 16 wide, with noise; every image has `captions` captions."""
    maps, draws = np.random.default_rng(99), np.random.default_rng(seed)
    to_image, to_text = maps.normal(size=(8, 24)), maps.normal(size=(8, 16))
    latent, image_of = draws.normal(size=(images, 8)), np.repeat(np.arange(images), captions)
    image = latent @ to_image + 0.5 * draws.normal(size=(images, 24))
    text = latent[image_of] @ to_text + 0.5 * draws.normal(size=(len(image_of), 16))
    return FeaturePairs.from_arrays(image.astype(np.float32), text.astype(np.float32), image_of, **fields)


TRAIN, VAL = shared_latent(300, seed=1), shared_latent(100, seed=2)
TOKENS = {"image_parts": [8, 8, 8], "text_parts": [8, 8]}  # the same features, read as tokens side by side
CONTRASTIVE = [name for name in recipe_names() if load_recipe(name).objective == "contrastive"]
CHANCE = (1 + 5 + 10) / 3 / 100  # mean recall@1, 5, 10 among 100


def shaped_for(name: str) -> tuple[FeaturePairs, FeaturePairs]:
    parts = TOKENS if name == "freeze-align" else {}
    return dataclasses.replace(TRAIN, **parts), dataclasses.replace(VAL, **parts)


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_every_shipped_recipe_beats_chance_after_a_few_steps(name):
    overrides = ["optim.batch=64"] if name == "cca" else ["head.width=32", "optim.batch=64"]
    if name in ("sail", "probe"):  # Lion's small steps move nothing in so few of them
        overrides += ["optim.lr=1e-3", "optim.epochs=10"]
    trained = train_projectors(*shaped_for(name), load_recipe(name, overrides), max_seconds=20)
    assert trained.summary["validation"]["val_recall"] > 3 * CHANCE
    x, y = torch.randn(5, 24), torch.randn(5, 16)
    assert trained.image_projector(x).shape == trained.text_projector(y).shape
    assert not trained.image_projector.training
    assert (trained.bias is None) == (trained.recipe["loss"]["name"] == "infonce")
    json.dumps([trained.recipe, trained.summary, trained.history], allow_nan=False)


def test_features_ids_and_the_callers_random_state_are_left_alone():
    before, state = fingerprint(TRAIN), torch.random.get_rng_state()
    train_projectors(TRAIN, VAL, load_recipe("linear", [*SMALL, "optim.epochs=2"]))
    assert fingerprint(TRAIN) == before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    recipe = load_recipe("freeze-align-pooled", [*SMALL, "optim.epochs=2"])

    def weights(seed: int):
        head = train_projectors(TRAIN, None, recipe, seed=seed).image_projector
        return torch.cat([param.flatten() for param in head.parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


def test_no_epochs_is_the_closed_form_itself():
    trained = train_projectors(TRAIN, VAL, load_recipe("cca", ["stop.refit=false"]))
    form = choose("cca", TRAIN, VAL)
    x = torch.randn(9, 24)
    assert torch.equal(trained.image_projector(x), form.to_projectors()[0].eval()(x))
    assert (trained.summary["steps"], trained.summary["epochs"], trained.summary["stopped"]) == (0, 0, None)
    assert [record["step"] for record in trained.history] == [0]


def test_the_closed_forms_scale_is_where_infonce_is_least_on_held_out_pairs():
    trained = train_projectors(TRAIN, VAL, load_recipe("cca", ["stop.refit=false"]))
    heads = trained.image_projector, trained.text_projector
    x, y = (
        torch.nn.functional.normalize(head(torch.from_numpy(features)), dim=-1)
        for head, features in zip(heads, (VAL.image, VAL.text), strict=True)
    )
    scales = torch.linspace(1, 100, 1000)
    losses = torch.stack([infonce(x, y, scale) for scale in scales])
    assert trained.scale == pytest.approx(scales[losses.argmin()].item(), rel=0.03)


@pytest.mark.parametrize("kind", ["cca", "ridge", "procrustes"])
def test_without_validation_a_closed_form_has_its_greatest_width(kind):
    trained = train_projectors(TRAIN, None, load_recipe("cca", [f"head.init={kind}"]))
    expected = fit(kind, TRAIN).to_projectors()[1]
    y = torch.randn(9, 16)
    assert torch.equal(trained.text_projector(y), expected.eval()(y))
    assert trained.summary["validation"] == {}


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_the_plan_says_what_training_then_does(name):
    recipe = load_recipe(name, ["optim.batch=128", "head.width=16"])
    data = shaped_for(name)
    plan, ran = plan_training(*data, recipe), train_projectors(*data, recipe, max_seconds=0)
    for key in ("pairs", "images", "batch", "parameters", "deviations"):
        assert plan[key] == ran.summary[key]
    assert plan["recipe"] == ran.recipe
    assert plan["steps"] == 3 * ran.summary["epochs_planned"]


def test_a_budget_sizes_both_projectors():
    recipe = load_recipe("linear", ["head.image=glu", "head.text=mlp", "head.width=16", "head.budget=20000"])
    assert plan_training(TRAIN, VAL, recipe)["parameters"] == pytest.approx(40_000, rel=0.02)


@pytest.mark.parametrize("overrides", [["head.image=glu"], ["head.norm=none"]])
def test_a_closed_form_start_is_refused_where_it_makes_no_sense(overrides):
    with pytest.raises(UsageError, match="init = 'cca'"):
        train_projectors(TRAIN, VAL, load_recipe("linear", ["head.init=cca", *overrides]))


def test_too_few_pairs_for_a_closed_form_are_refused():
    with pytest.raises(InputError, match="5 pairs are too few for a closed form"):
        train_projectors(shared_latent(5), None, load_recipe("default"))


def fake_scores(monkeypatch, scores):
    """Let validation return these scores, in order."""
    left = iter(scores)
    monkeypatch.setattr(ContrastiveObjective, "validate", lambda *_: {"val_recall": next(left)})


def weights_after(epochs: int, recipe) -> torch.Tensor:
    """The image weights after that many epochs of the same run."""
    run = run_module.Run(ContrastiveObjective(TRAIN, None), recipe, out=None, seed=0, device=None)
    run.start(resume=False)
    for _ in range(epochs * len(run.slices)):
        run.step()
    return torch.cat([param.detach().flatten() for param in run.objective.result()[0].parameters()])


@pytest.mark.parametrize(
    ("scores", "best", "ran"),
    [
        ([0.1, 0.3, 0.2, 0.2, 0.9], 1, 3),  # two evaluations without a better one end it
        ([0.5, 0.4, 0.3, 0.9], 0, 2),  # the state before the first step was the best
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 5, 5),
        ([0.3, 0.3, 0.3, 0.3], 0, 2),  # a tie is no better
    ],
)
def test_early_stopping_returns_the_best_epoch(monkeypatch, scores, best, ran):
    recipe = load_recipe(
        "linear", [*SMALL, "optim.epochs=5", "stop.every=1", "stop.patience=2", "stop.restore_best=true"]
    )
    expected = weights_after(best, recipe)
    fake_scores(monkeypatch, scores)
    trained = train_projectors(TRAIN, VAL, recipe)
    returned = torch.cat([param.detach().flatten() for param in trained.image_projector.parameters()])
    assert torch.equal(returned, expected)
    assert (trained.summary["best_epoch"], trained.summary["returned_epoch"]) == (best, best)
    assert trained.summary["epochs"] == ran
    assert trained.summary["validation"]["val_recall"] == scores[best]
    stopped = trained.summary["stopped"]
    assert stopped is None if ran == 5 else stopped == f"stopped at epoch {ran} of 5 (no better validation)"


def test_without_restore_best_the_last_weights_return(monkeypatch):
    recipe = load_recipe("linear", [*SMALL, "optim.epochs=2", "stop.every=1"])
    expected = weights_after(2, recipe)
    fake_scores(monkeypatch, [0.9, 0.2, 0.1])
    trained = train_projectors(TRAIN, VAL, recipe)
    returned = torch.cat([param.detach().flatten() for param in trained.image_projector.parameters()])
    assert torch.equal(returned, expected)
    assert (trained.summary["best_epoch"], trained.summary["returned_epoch"]) == (0, 2)
    assert trained.summary["validation"]["val_recall"] == 0.1


def test_evaluations_follow_the_recipe_and_the_last_epoch(monkeypatch):
    fake_scores(monkeypatch, [0.1] * 9)
    trained = train_projectors(TRAIN, VAL, load_recipe("linear", [*SMALL, "optim.epochs=5", "stop.every=2"]))
    assert [r["epoch"] for r in trained.history] == [0, 1, 2, 3, 4, 5]
    assert [r["epoch"] for r in trained.history if "val_recall" in r] == [0, 2, 4, 5]


def test_a_time_limit_keeps_the_schedule_and_says_where_it_stopped(tmp_path):
    recipe = load_recipe("linear", [*SMALL, "optim.epochs=2000"])
    trained = train_projectors(TRAIN, VAL, recipe, out=tmp_path, max_seconds=0.5)
    ran = trained.summary["epochs"]
    assert 0 < ran < 2000
    assert trained.summary["stopped"] == f"stopped at epoch {ran:.4g} of 2000 (time limit)"
    assert trained.history[-1]["step"] == trained.summary["steps"] and "val_recall" in trained.history[-1]
    more = train_projectors(TRAIN, VAL, recipe, out=tmp_path, max_seconds=0.5)
    assert more.summary["epochs"] > ran
    assert more.summary["seconds"] > trained.summary["seconds"]


@pytest.mark.parametrize(
    ("images", "batch", "deviations", "steps"),
    [
        (300, 4096, ["batch 4,096 → 300 (all pairs)"], 1),
        (300, 128, ["last batch of every epoch: 44 pairs instead of 128"], 3),
        (300, 100, [], 3),
        (300, 299, ["last batch of every epoch: 300 pairs instead of 299"], 1),  # no pair is left alone
    ],
)
def test_what_the_data_force_is_done_and_stated(images, batch, deviations, steps):
    recipe = load_recipe("linear", ["head.width=8", f"optim.batch={batch}", "optim.epochs=1"])
    trained = train_projectors(TRAIN, None, recipe)
    assert (trained.summary["deviations"], trained.summary["steps"]) == (deviations, steps)


def test_an_epoch_visits_every_caption_once():
    pairs = shared_latent(40, captions=3)
    recipe = load_recipe("linear", ["optim.batch=32"])
    run = run_module.Run(ContrastiveObjective(pairs, None), recipe, out=None, seed=0, device=None)
    run.start(resume=False)
    seen = []
    for _ in run.slices:
        seen += run.next_rows().tolist()
        run.step()
    assert sorted(seen) == list(range(120))
    assert run.epoch == 1


def test_what_counts_as_positive():
    # images 0 and 1 are near-duplicates to the user; captions 1 and 2 are the same text, of images 1 and 2
    pairs = FeaturePairs.from_arrays(
        np.ones((4, 2), np.float32),
        np.ones((5, 3), np.float32),
        image_of=[0, 1, 2, 3, 3],
        groups=["dup", "dup", None, None],
        captions=["a", "b", "b", "c", "d"],
    )
    assert positive_groups(pairs, "pair") is None

    def partition(ids):
        return [[int(np.flatnonzero(ids == value)[0]) for value in ids]][0]

    equal, group = positive_groups(pairs, "equal"), positive_groups(pairs, "group")
    assert partition(np.concatenate(equal)) == [0, 1, 1, 3, 0, 1, 1, 3, 3]
    assert partition(np.concatenate(group)) == [0, 0, 0, 3, 0, 0, 0, 3, 3]


def test_captions_of_one_image_do_not_push_it_apart():
    """With all captions of a single image in the batch, "equal" has nothing to contrast and "pair" does."""
    pairs = shared_latent(1, captions=4)
    losses = {}
    for positives in ("equal", "pair"):
        batches = Batches(pairs, positives, torch.device("cpu"))
        image, text, groups = batches.take(np.arange(4))
        joint = Joint(
            torch.nn.Linear(24, 8), torch.nn.Linear(16, 8), LossOptions(positives=positives), scale=14.0, batch=4
        )
        losses[positives] = joint.loss(*joint(image, text), groups).item()
    assert losses["equal"] == pytest.approx(0, abs=1e-6)
    assert losses["pair"] > math.log(2)


def uneven(seed: int = 0) -> FeaturePairs:
    """Nine images, of which number 4 has no caption, with one to three captions each, in no order."""
    rng = np.random.default_rng(seed)
    image_of = np.array([0, 8, 1, 1, 2, 3, 3, 3, 5, 6, 7, 7, 0])
    return FeaturePairs.from_arrays(rng.normal(size=(9, 24)), rng.normal(size=(13, 16)), image_of)


def test_a_step_of_images_has_each_once_with_all_of_its_captions():
    pairs = uneven()
    batches = Batches(pairs, "pair", torch.device("cpu"), "images")
    image, text, (of_image, of_text) = batches.take(np.array([3, 0, 7]))  # of those with captions: images 3, 0, 8
    np.testing.assert_array_equal(image.numpy(), pairs.image[[3, 0, 8]].astype(np.float32))
    np.testing.assert_array_equal(text.numpy(), pairs.text[[5, 6, 7, 0, 12, 1]].astype(np.float32))
    assert of_image.tolist() == [3, 0, 8]
    assert of_text.tolist() == [3, 3, 3, 0, 0, 8]


def test_sail_s_step_is_its_loss_over_all_images_and_both_captions():
    """Its own formula: each image against all raw captions and all others, siblings being its positives."""
    pairs = shared_latent(12, captions=2)
    recipe = load_recipe("sail").resolve(24)
    batches = Batches(pairs, recipe.loss.positives, torch.device("cpu"), recipe.optim.unit)
    image, text, groups = batches.take(np.arange(12))
    joint = Joint(torch.nn.Linear(24, 8), torch.nn.Linear(16, 8), recipe.loss, scale=20.0, batch=12)
    x, y = joint(image, text)
    ours = joint.loss(x, y, groups)
    raw, extra = y[0::2], y[1::2]
    sign = 2 * torch.eye(12).repeat(1, 2) - 1
    logits = joint.scale() * torch.cat([x @ raw.T, x @ extra.T], dim=1) + joint.bias
    sail = -torch.nn.functional.logsigmoid(sign * logits).mean()
    assert ours.item() == pytest.approx(sail.item(), rel=1e-5)
    shuffled = batches.take(np.random.default_rng(0).permutation(12))
    assert joint.loss(*joint(*shuffled[:2]), shuffled[2]).item() == pytest.approx(sail.item(), rel=1e-5)


def test_an_epoch_of_images_visits_each_once(monkeypatch):
    seen = []
    take = Batches.take
    monkeypatch.setattr(Batches, "take", lambda self, units: seen.append(units.tolist()) or take(self, units))
    recipe = load_recipe("sail", ["optim.batch=3", "optim.epochs=2", "head.width=8", "head.expand=1"])
    trained = train_projectors(uneven(), None, recipe)
    assert [len(units) for units in seen] == [3, 3, 2, 3, 3, 2]
    assert sorted(unit for units in seen[:3] for unit in units) == list(range(8))
    assert trained.summary["steps"] == 6
    assert trained.summary["deviations"] == ["last batch of every epoch: 2 images instead of 3"]
    planned = plan_training(uneven(), None, load_recipe("sail"))
    assert planned["deviations"] == ["batch 32,768 → 8 (all images)"]


def test_batches_read_from_disk_equal_those_in_memory(monkeypatch):
    captions = np.array([5, 0, 299])
    in_memory = Batches(TRAIN, "equal", torch.device("cpu")).take(captions)
    monkeypatch.setattr("isthmus.training.contrastive.batches.RESIDENT_BYTES", 0)
    from_disk = Batches(TRAIN, "equal", torch.device("cpu"))
    assert from_disk.image is TRAIN.image
    for a, b in zip(in_memory[:2], from_disk.take(captions)[:2], strict=True):
        assert torch.equal(a, b)


def test_the_raw_temperature_is_clamped_and_gets_a_gradient():
    temperature = Temperature(1 / 0.07, min=2, max=1000)
    assert temperature().item() == pytest.approx(1 / 0.07)
    temperature().backward()
    assert temperature.temperature.grad.item() == pytest.approx(-1 / 0.07**2)
    for value, scale in [(5.0, 2), (-1.0, 1000)]:
        temperature.temperature.data.fill_(value)
        assert temperature().item() == pytest.approx(scale)


def test_automatic_bias_follows_the_batch():
    heads = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    assert Joint(*heads, LossOptions(name="sigmoid"), scale=10.0, batch=101).bias.item() == pytest.approx(
        -math.log(100)
    )
    assert Joint(*heads, LossOptions(name="sigmoid", bias=-10.0), scale=10.0, batch=101).bias.item() == -10


def test_validation_of_a_perfect_and_of_a_useless_joint_space():
    same = np.eye(20, dtype=np.float32)
    val = FeaturePairs.from_arrays(same, same)
    perfect = recalls(*(project(torch.nn.Identity(), one, torch.device("cpu")) for one in (same, same)), val)
    assert perfect == {"val_recall": 1, "val_recall@1": 1, "val_recall@5": 1, "val_recall@10": 1}
    constant = FeaturePairs.from_arrays(np.ones_like(same), same)
    useless = recalls(torch.ones(20, 20), torch.from_numpy(same), constant)
    assert useless["val_recall@10"] < 1  # ties are no hits


def test_divergence_names_the_step_and_what_to_try(monkeypatch):
    calls = iter([1.0, 1.0, math.nan])
    loss = Joint.loss
    monkeypatch.setattr(Joint, "loss", lambda *args: loss(*args) * next(calls))
    with pytest.raises(IsthmusError, match=r"diverged at step 3 of 15: .*Lower optim.lr \(now 0.001\)"):
        train_projectors(TRAIN, None, load_recipe("linear", [*SMALL, "optim.epochs=3"]))


def test_one_pair_is_refused():
    with pytest.raises(InputError, match="at least 2 pairs, got 1"):
        train_projectors(shared_latent(1), None, load_recipe("linear"))


def test_a_negative_seed_is_refused():
    with pytest.raises(UsageError, match="seeds are 0 or more"):
        train_projectors(TRAIN, None, load_recipe("linear"), seed=-1)


def test_history_is_written_as_json_lines(tmp_path):
    trained = train_projectors(TRAIN, VAL, load_recipe("linear", [*SMALL, "optim.epochs=2"]), out=tmp_path)
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == trained.history
    last = trained.history[-1]
    assert {"step", "epoch", "loss", "lr", "scale", "bias", "pairs_per_second", "val_recall"} <= set(last)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_names_its_extra(monkeypatch, tmp_path, name):
    for module in ("torch.utils.tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"pip install 'isthmus\[{name}\]'"):
        train_projectors(TRAIN, None, load_recipe("linear", SMALL), out=tmp_path, log=[name])


def test_trackers_get_every_record(monkeypatch, tmp_path):
    seen = []

    class Writer:
        def __init__(self, folder, purge_step):
            assert folder == str(tmp_path / "tensorboard") and purge_step is None

        def add_scalar(self, key, value, step):
            seen.append((step, key, value))

        def flush(self):
            pass

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    run = types.SimpleNamespace(log=lambda values, step: seen.extend((step, *v) for v in values.items()))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **_: run))
    recipe = load_recipe("linear", [*SMALL, "optim.epochs=1"])
    for tracker in ("tensorboard", "wandb"):
        seen.clear()
        trained = train_projectors(TRAIN, VAL, recipe, out=tmp_path, log=[tracker], resume=False)
        last = trained.history[-1]
        assert (5, "loss", last["loss"]) in seen and (5, "val_recall", last["val_recall"]) in seen


def test_an_unknown_tracker_suggests_the_nearest(tmp_path):
    with pytest.raises(UsageError, match=r"Unknown tracker 'tensorbord'. Did you mean 'tensorboard'"):
        train_projectors(TRAIN, None, load_recipe("linear", SMALL), out=tmp_path, log=["tensorbord"])


def test_plain_lines_are_written_where_there_is_no_terminal(capsys):
    train_projectors(TRAIN, VAL, load_recipe("linear", [*SMALL, "optim.epochs=1"]), progress=True)
    assert "train 100%  epoch 1.0/1, loss " in capsys.readouterr().err


def test_both_precisions_learn_and_are_recorded():
    for precision in ("float32", "bf16"):
        recipe = load_recipe("linear", [*SMALL, f"optim.precision={precision}", "optim.epochs=20"])
        summary = train_projectors(TRAIN, VAL, recipe).summary
        assert summary["precision"] == precision
        assert summary["validation"]["val_recall"] > 5 * CHANCE
