"""Fusion trained from a store of states: resumed bit for bit, shared by processes, encoders frozen, saved and asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import isthmus as ist
from fusion_cases import EVERY, SMALL, question_store
from isthmus.cli import main
from isthmus.encoders import load_encoder
from isthmus.errors import InputError, UsageError
from isthmus.fusion import SideStates
from isthmus.models.fusion_model import FusionModel
from isthmus.store import open_store
from isthmus.training.freezing import digest
from isthmus.training.run import Run
from test_loss_ring import spawn


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of questions in `store`, its encoders and pictures beside it."""
    folder = tmp_path_factory.mktemp("fusion")
    question_store(folder)
    return folder


def train(here: Path, out: Path, *changes: str, **options: object) -> FusionModel:
    return ist.train(here / "store", recipe="manager", overrides=[*SMALL, *changes], out=out, **options)  # type: ignore[return-value]


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_the_command_trains_from_a_store_of_questions(here: Path, tmp_path: Path, capsys) -> None:
    changes = [part for one in SMALL for part in ("--set", one)]
    told = ["train", str(here / "store"), "--recipe", "manager", *changes, "--out", str(tmp_path / "model")]
    assert main([*told, "--dry-run"]) == 0
    assert "image: [1, 2, 3]" in (plan := capsys.readouterr().out) and "answers: 3" in plan
    assert main(told) == 0
    assert "accuracy" in capsys.readouterr().out
    model = ist.load_model(tmp_path / "model")
    assert sorted(model.answers) == ["blue", "green", "red"]
    told_by = model.answer(here / "data" / "000.png", ["a dog", "two dogs in the park"])
    assert told_by.shape == (2, 3) and (told_by > 0).all() and (told_by < 1).all()
    assert "What it has seen" in (tmp_path / "model" / "README.md").read_text()
    assert main(["doctor", str(tmp_path / "model")]) == 0


def test_stored_and_live_states_give_the_same_answers(here: Path, tmp_path: Path) -> None:
    model, store = train(here, tmp_path), open_store(here / "store")
    rows = np.arange(4)
    stored = {side: model.prepared(side, *store.states(side).gather(rows)) for side in ("image", "text")}
    logits = model.network.answer_logits(model.fuse(stored)).sigmoid().numpy()
    pictures = [here / "data" / name for name in store.images["id"].to_pylist()[:4]]
    live = model.answer(pictures, store.captions["caption"].to_pylist()[:4])
    np.testing.assert_allclose(live, logits, atol=5e-3)  # states are stored in half precision


def test_a_run_resumes_bit_for_bit(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every objective, dropout and noise: what is drawn is a function of the step."""
    train(here, tmp_path / "whole", *EVERY)
    step = Run.step

    def mortal(self: Run) -> int:
        if self.state.step == 4:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Run, "step", mortal)
    with pytest.raises(KeyboardInterrupt):
        train(here, tmp_path / "cut", *EVERY, checkpoint_seconds=0)
    monkeypatch.undo()
    assert json.loads((tmp_path / "cut" / "checkpoint" / "state.json").read_text())["step"] == 4
    train(here, tmp_path / "cut", *EVERY)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


WORKER = """
import sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from pathlib import Path
import test_fusion_training as cases
cases.train(Path({here!r}), Path({out!r}), *{changes!r})
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(here: Path, tmp_path: Path) -> None:
    changes = ["fusion.dropout=0.0", "fusion.noise=false", *EVERY[:3]]
    parts = {"tests": str(Path(__file__).parent), "here": str(here), "out": str(tmp_path / "two"), "changes": changes}
    spawn(WORKER.format(**parts), 2)
    one, two = train(here, tmp_path / "one", *changes), ist.load_model(tmp_path / "two", load=False)
    for name, weight in one.network.state_dict().items():  # Adam enlarges what is rounding alone
        torch.testing.assert_close(two.network.state_dict()[name], weight, rtol=1e-3, atol=1e-3)
    losses = [
        [record["loss"] for record in map(json.loads, (tmp_path / name / "history.jsonl").read_text().splitlines()[1:])]
        for name in ("one", "two")
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_unfrozen_blocks_are_trained_and_saved_and_the_rest_stays(here: Path, tmp_path: Path) -> None:
    encoders = {side: load_encoder(f"hf:{here / name}", modality=side) for side, name in SIDES.items()}
    before = {side: encoder.network.state_dict() for side, encoder in encoders.items()}
    options = {"pixels": here / "data" / "questions.jsonl"}
    model = train(
        here, tmp_path, "unfreeze.image=1", "unfreeze.text=1", "optim.epochs=1", "rates.encoders=5", **options
    )
    for side, views in model.encoders.items():
        now = views[0].network.state_dict()
        changed = {name for name, value in now.items() if not torch.equal(value, before[side][name])}
        assert changed and all("layer.2." in name for name in changed)
    again = ist.load_model(tmp_path)
    picture, text = here / "data" / "001.png", "a dog in the park"
    np.testing.assert_allclose(again.answer(picture, [text]), model.answer(picture, [text]), rtol=1e-5)


SIDES = {"image": "vit", "text": "bert"}


def test_frozen_encoders_stay_as_they_were(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from isthmus.training.fusion import train as module

    loaded = {}

    def load(data, side, device):
        loaded[side] = load_views(data, side, device)
        loaded[f"{side} before"] = digest(loaded[side][0].network.state_dict())
        return loaded[side]

    load_views = module.load_views
    monkeypatch.setattr(module, "load_views", load)
    pixels = here / "data" / "questions.jsonl"
    train(here, tmp_path, "objectives.words=1", "optim.epochs=1", "data.augment=crop", pixels=pixels)
    for side in SIDES:
        assert digest(loaded[side][0].network.state_dict()) == loaded[f"{side} before"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (["fusion.image_layers=9"], UsageError, "holds 3 layers of the image encoder"),
        (["fusion.aggregator=saun"], UsageError, "Did you mean 'saum'"),
        (["fusion.aggregator=bridge", "fusion.depth=4"], UsageError, "there are 4 of these"),
        (["fusion.heads=3"], UsageError, "cannot be shared"),
        (["objectives.least=100"], InputError, "no answer has objectives.least = 100"),
        (["objectives.answers=0", "objectives.matching=0", "objectives.contrast=0"], UsageError, "nothing is trained"),
        (["unfreeze.image=1"], UsageError, "--pixels"),
        (["unfreeze.text=7"], UsageError, "has 3"),
        (["data.augment=crop"], UsageError, "--pixels"),
    ],
)
def test_choices_that_do_not_fit_are_named(here: Path, tmp_path: Path, changes, error, message) -> None:
    with pytest.raises(error, match=message):
        train(here, tmp_path / "model", *changes)


def test_questions_that_do_not_fit_are_named(here: Path, tmp_path: Path) -> None:
    model = train(here, tmp_path, "optim.epochs=0")
    with pytest.raises(UsageError, match=r"objectives\.matching was 0"):
        model.match(here / "data" / "000.png", ["a dog"])
    with pytest.raises(UsageError, match="2 pictures and 3 texts"):
        model.answer([here / "data" / "000.png"] * 2, ["a", "b", "c"])
    with pytest.raises(UsageError, match="no image is given"):
        model.answer([], ["a dog"])
    with pytest.raises(InputError, match=r"nowhere\.png"):
        model.answer(tmp_path / "nowhere.png", ["a dog"])


def test_a_store_without_states_says_what_to_embed(here: Path, tmp_path: Path) -> None:
    table = here / "data" / "questions.jsonl"
    ist.embed(table, f"hf:{here / 'vit'}", f"hf:{here / 'bert'}", out=tmp_path / "pooled")
    with pytest.raises(UsageError, match="pool=states"):
        ist.train(tmp_path / "pooled", recipe="manager", overrides=SMALL)


def test_a_damaged_model_is_refused(here: Path, tmp_path: Path) -> None:
    from isthmus.files import read_sealed, write_sealed

    train(here, tmp_path, "optim.epochs=0")
    config = read_sealed(tmp_path / "config.json")
    write_sealed(tmp_path / "config.json", config | {"answers": config["answers"][:-1]})
    with pytest.raises(InputError, match="answers are not those of its head"):
        ist.load_model(tmp_path, load=False)
    write_sealed(tmp_path / "config.json", config)
    data = bytearray(weights(tmp_path))
    data[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"model\.safetensors"):
        ist.load_model(tmp_path, load=False)


def test_captions_are_matched_and_contrasted(here: Path, tmp_path: Path) -> None:
    """Without answers, the same recipe learns which text belongs to which picture."""
    rows = [json.loads(line) for line in (here / "data" / "questions.jsonl").read_text().splitlines()]
    table = tmp_path / "captions.jsonl"
    told = [
        {"image": str(here / "data" / one["image"]), "caption": one["question"], "split": one["split"]} for one in rows
    ]
    table.write_text("\n".join(map(json.dumps, told)))
    image, text = (f"hf:{here / name}?layer=2,3&pool=states" for name in ("vit", "bert"))
    ist.embed(table, image, text, out=tmp_path / "store")
    assert "answers" not in (tmp_path / "store" / "captions.parquet").read_bytes().decode("latin-1")
    model = ist.train(tmp_path / "store", recipe="manager", overrides=SMALL, out=tmp_path / "model")
    assert model.answers == [] and {"val_recall", "val_matching"} <= set(model.summary["validation"])
    pictures = [one["image"] for one in told[:3]]
    assert model.match(pictures, ["a dog", "a cat", "two dogs"]).shape == (3,)
    norms = np.linalg.norm(model.encode_image(pictures), axis=1), np.linalg.norm(model.encode_text(["a cat"]), axis=1)
    for norm in norms:
        np.testing.assert_allclose(norm, 1, rtol=1e-5)
    with pytest.raises(UsageError, match=r"objectives\.answers was 0"):
        model.answer(pictures[0], ["a dog"])


def test_states_of_a_model_are_sides(here: Path, tmp_path: Path) -> None:
    model = train(here, tmp_path, "optim.epochs=0")
    states = model.states(here / "data" / "000.png", ["a", "two dogs in the park"])
    assert isinstance(states["image"], SideStates) and len(states["image"]) == len(states["text"]) == 2
    assert states["text"].mask.sum(1).tolist() == [3, 7]
    fused = model.fuse(states)
    assert [one.shape for one in fused.weights["text"]] == [(3,), (2, 3, 7)]
