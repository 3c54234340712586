"""No pair is wasted: what validation pairs decided is fitted again on training and validation pairs together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import isthmus as ist
from isthmus.cli import main
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.matrix import Chosen, rows, stacked
from isthmus.models.dual_encoder import DualEncoder
from isthmus.projectors.closed_form import choose, fit
from isthmus.projectors.projector import project
from isthmus.training import Trained, load_recipe, train_projectors
from isthmus.training.contrastive import refit as refit_module
from isthmus.training.contrastive.validation import recalls
from isthmus.training.run import Run
from toys import pixel_encoder, word_encoder, write_pairs

SMALL = ["head.width=16", "optim.batch=32", "optim.epochs=3"]
CPU = torch.device("cpu")


def made(n: int, seed: int, noise: float = 0.4) -> FeaturePairs:
    """Pairs that share a curved factor."""
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((n, 8)).astype(np.float32)
    to_image, to_text = (np.random.default_rng(key).standard_normal((8, 16)) for key in (1, 2))
    image = np.tanh(factor @ to_image) + noise * rng.standard_normal((n, 16))
    text = factor @ to_text + noise * rng.standard_normal((n, 16))
    return FeaturePairs.from_arrays(image.astype(np.float32), text.astype(np.float32))


TRAIN, VAL = made(80, 0), made(20, 1)


def run(recipe: str, *overrides: str, refit: bool = True, **options: Any) -> Trained:
    settings = [*([] if recipe == "cca" else SMALL), f"stop.refit={str(refit).lower()}", *overrides]
    return train_projectors(TRAIN, VAL, load_recipe(recipe, settings), **options)


def weights(trained: Trained) -> dict[str, np.ndarray]:
    heads = {"image": trained.image_projector, "text": trained.text_projector}
    return {f"{side}.{k}": v.numpy() for side, head in heads.items() for k, v in head.state_dict().items()}


def same(one: Trained, other: Trained) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a) and one.scale == other.scale


def test_pairs_put_together_keep_their_order_and_group_what_is_equal_in_both() -> None:
    draws = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    first = FeaturePairs.from_arrays(draws[:3], draws[:3], captions=["a", "b", "c"], groups=["x", "x", None])
    second = FeaturePairs.from_arrays(draws[2:6], draws[2:5], [0, 2, 3], captions=["d", "a", "e"])
    joined = first.joined(second)
    np.testing.assert_array_equal(rows(joined.image, slice(0, 7)), np.concatenate([draws[:3], draws[2:6]]))
    assert joined.image_of.tolist() == [0, 1, 2, 3, 5, 6] and joined.captions == ["a", "b", "c", "d", "a", "e"]
    # Caption "a" links images 0 and 5; equal features link 2 and 3.
    assert joined.image_group.tolist() == [0, 1, 2, 2, 3, 0, 4]
    assert joined.text_group.tolist() == [0, 1, 2, 2, 0, 4]
    assert joined.bootstrap_group.tolist() == [0, 0, 1, 1, 2, 3, 4]


def test_rows_on_demand_are_stacked_as_arrays_are() -> None:
    array = np.arange(20, dtype=np.float32).reshape(10, 2)
    lazy = stacked(Chosen(array, np.array([9, 8, 7])), Chosen(array, np.array([1, 0])))
    np.testing.assert_array_equal(rows(lazy, np.array([4, 0, 3, 3])), array[[0, 9, 1, 1]])


def test_a_closed_form_is_solved_on_everything_at_the_settings_chosen_before() -> None:
    before, after = run("cca", refit=False), run("cca")
    chosen = choose("cca", TRAIN, VAL)
    expected = fit("cca", TRAIN.joined(VAL), **chosen.settings).to_projectors()[0].eval()
    torch.testing.assert_close(after.image_projector(torch.ones(2, 16)), expected(torch.ones(2, 16)))
    assert after.scale == before.scale and not same(before, after)
    assert after.summary["validation"] == before.summary["validation"]
    assert after.summary["refit"]["pairs"] == 100 and after.summary["pairs"] == 80


@pytest.mark.parametrize("recipe", ["default", "linear"])
def test_the_refit_takes_the_steps_of_the_best_epoch_and_the_validation_numbers_stay(recipe: str) -> None:
    before = run(recipe, "stop.every=1", "stop.restore_best=true", refit=False)
    after = run(recipe, "stop.every=1", "stop.restore_best=true")
    for name in ("validation", "best_epoch", "returned_epoch", "steps", "pairs"):
        assert after.summary[name] == before.summary[name]
    assert after.history[-1].get("val_recall") == before.history[-1].get("val_recall")
    share = before.summary.get("beside", {}).get("share", 0)
    assert after.summary["refit"]["steps"] == (0 if share == 1 else 3 * before.summary["returned_epoch"])
    assert after.summary.get("beside") == before.summary.get("beside")
    assert after.summary["ledger"]["pairs_seen"] > before.summary["ledger"]["pairs_seen"] or share == 1
    assert not same(before, after)


@pytest.mark.parametrize("recipe", ["sail", "freeze-align-pooled"])
def test_published_recipes_are_not_refitted(recipe: str) -> None:
    assert load_recipe(recipe).stop.refit is False
    assert "refit" not in train_projectors(TRAIN, VAL, load_recipe(recipe, SMALL)).summary


def test_without_validation_pairs_there_is_nothing_to_refit() -> None:
    assert "refit" not in train_projectors(TRAIN, None, load_recipe("default", SMALL)).summary


def test_a_refit_goes_on_where_it_was_killed_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, step = run("linear"), Run.step

    def killed(self: Run) -> int:
        if self.objective.stage and self.state.step == 5:
            raise RuntimeError("killed")
        return step(self)

    monkeypatch.setattr(Run, "step", killed)
    with pytest.raises(RuntimeError, match="killed"):
        run("linear", out=tmp_path, checkpoint_seconds=0.0)
    monkeypatch.setattr(Run, "step", step)
    taken = []
    monkeypatch.setattr(Run, "step", lambda self: taken.append(self.objective.stage) or step(self))
    resumed = run("linear", out=tmp_path)
    assert same(resumed, whole) and resumed.summary["refit"]["pairs"] == 100
    assert taken == ["refit, "] * 4  # of nine, five were saved


def test_a_run_that_is_stopped_is_refitted_only_after_its_end(tmp_path: Path) -> None:
    stopped = run("linear", out=tmp_path, max_seconds=0)
    assert "refit" not in stopped.summary and stopped.summary["stopped"]
    assert same(run("linear", out=tmp_path), run("linear"))


def test_turning_the_refit_on_later_trains_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("linear", refit=False, out=tmp_path)
    taken, step = [], Run.step
    monkeypatch.setattr(Run, "step", lambda self: taken.append(self.objective.stage) or step(self))
    assert "refit" in run("linear", out=tmp_path).summary
    assert set(taken) == {refit_module.RefitObjective.stage}


@pytest.mark.parametrize("recipe", ["cca", "default"])
def test_a_test_split_gains_by_the_refit(recipe: str) -> None:
    """Mean over draws: a fifth more pairs, where pairs are few."""
    gains = []
    for seed in range(4):
        train, val, test = (made(n, 10 * seed + part, 0.6) for part, n in enumerate((48, 12, 300), 2))
        both = [
            train_projectors(train, val, load_recipe(recipe, [f"stop.refit={on}", *([] if recipe == "cca" else SMALL)]))
            for on in ("false", "true")
        ]
        before, after = (
            recalls(project(t.image_projector, test.image, CPU), project(t.text_projector, test.text, CPU), test)
            for t in both
        )
        gains.append(after["val_recall"] - before["val_recall"])
    assert np.mean(gains) > 0.005


def test_the_command_the_card_and_the_memory_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ist.embed(write_pairs(tmp_path / "pairs"), pixel_encoder(), word_encoder(), out=tmp_path / "store")
    out = str(tmp_path / "model")
    command = ["train", str(store.path), "--recipe", "cca", "--out", out, "--json", str(tmp_path / "m.json")]
    assert main(command) == 0
    assert "(fitted again on all 128 pairs, validation included)" in capsys.readouterr().out
    assert json.loads((tmp_path / "m.json").read_text())["refit"]["pairs"] == 128
    card = " ".join((tmp_path / "model" / "README.md").read_text().split())
    assert "second fit, on all 128 pairs" in card and "| image | trained it | 128 |" in card
    model = DualEncoder.from_pretrained(out, encoders={"image": [pixel_encoder()], "text": [word_encoder()]})
    assert model.seen is not None and model.seen.counts()["val"]["image"] == store.pairs(split="val").image.shape[0]
    monkeypatch.setattr(DualEncoder, "from_pretrained", lambda *args, **options: model)
    assert main(["eval", out, "retrieval", str(store.path), "--split", "val", "--bootstrap", "0"]) == 0
    assert "25 of 25 pictures trained this model" in " ".join(capsys.readouterr().err.split())
    assert main(["eval", out, "retrieval", str(store.path), "--bootstrap", "0", "--unseen"]) == 0
    assert "left out: 128" in " ".join(capsys.readouterr().out.split())
    assert main([*command[:-2], "--set", "stop.refit=false", "--dry-run"]) == 0
    assert "refit_pairs: 0" in capsys.readouterr().out
