"""`embed` with pool=states: what the store holds is what the encoder gives, resumed, planned and counted."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import isthmus as ist
from isthmus.cli import main
from isthmus.embedding import embed, plan, work_plan
from isthmus.embedding import run as embedding_run
from isthmus.encoders import load_encoder, load_encoders
from isthmus.errors import InputError, UsageError
from isthmus.selection.candidates import from_store
from isthmus.store import open_store
from isthmus.store.shards import open_shard
from isthmus.training.fit import Fitting, fit
from isthmus.training.recipe import OptimOptions
from isthmus.weights import read_header
from store_cases import snapshot
from tiny_encoders import save_dinov2, save_network, save_processor, save_sentence_pipeline
from toy_objective import ClassifierObjective, ClassifierRecipe, LabelledStates
from toys import COLOURS, pixel_encoder, word_encoder, write_pairs


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """Encoders of images and texts, and 64 pairs whose captions have one to nine words."""
    folder = tmp_path_factory.mktemp("states")
    save_dinov2(folder / "vit")
    save_sentence_pipeline(folder / "text")
    rows = [json.loads(line) for line in write_pairs(folder / "data", copies=1).read_text().splitlines()]
    for number, row in enumerate(rows):
        row["caption"] = " ".join(row["caption"].replace(",", "").split()[: 1 + number % 9])
        row["split"] = ("train", "train", "val", "test")[number % 4]
    (folder / "data" / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def table(here: Path) -> Path:
    return here / "data" / "pairs.jsonl"


@pytest.fixture
def vit(here: Path) -> str:
    return f"hf:{here / 'vit'}"


@pytest.fixture
def sentences(here: Path) -> str:
    return f"st:{here / 'text' / 'pipeline'}"


def shards(store: Path, record: dict) -> list[Path]:
    return sorted((store / "features" / record["modality"] / record["fingerprint"][:12]).glob("shard-*"))


def test_states_are_those_of_each_image_and_caption_from_one_forward_pass(table, vit, sentences, tmp_path):
    views = [f"{vit}?layer=0,2&pool=states", f"{vit}?pool=states", f"{vit}?pool=cls"]
    texts = [f"{sentences}?layer=*&pool=states", sentences]
    report = embed(table, out=tmp_path / "store", encoders=[*views, *texts], batch_size=7, precision="float32")
    assert report.encoded["image"] == 64
    store = open_store(tmp_path / "store", verify=True)
    for modality, uri, layers in (("image", vit, [2, 0, None]), ("text", sentences, [1, 3])):
        encoder, states = load_encoder(uri), store.states(modality, layers=layers)
        for row in (0, 5, 17, 40):
            if modality == "image":
                item = ist.data.decode((table.parent / store.images["id"][row].as_py()).read_bytes())
            else:
                item = store.captions["caption"][row].as_py()
            wanted = encoder.states([item], layers)
            values, mask = states.gather([row])
            assert mask.sum() == wanted.mask.sum()
            np.testing.assert_allclose(values[0], wanted.values[0].numpy(), atol=4e-3, rtol=2e-3)
    assert store.states("image").records[0]["prefix"] == 1
    lengths = store.states("text", layers=[1]).lengths(range(64))
    assert len(set(lengths.tolist())) > 3  # captions have as many tokens as they have, and no padding
    assert store.pairs().image_parts == [32]


def test_the_stages_of_a_cnn_are_stored_and_train_as_they_come_from_the_encoder(table, tmp_path):
    config = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
    uri = f"hf:{save_processor(save_network(tmp_path / 'cnn', 'ConvNext', config), crop=64)}"
    embed(table, out=tmp_path / "store", encoders=[f"{uri}?layer=0,2,4&pool=states"], precision="float32")
    store, encoder = open_store(tmp_path / "store", verify=True), load_encoder(uri)
    states = store.states("image")
    assert states.widths == [8, 16, 32] and states.lengths([0, 1]).tolist() == [[256, 64, 4]] * 2
    pictures = [ist.data.decode((table.parent / id).read_bytes()) for id in store.images["id"].to_pylist()[:3]]
    wanted = encoder.states(pictures, layers=[0, 2, 4])
    for found, mask, own in zip(*states.gather([0, 1, 2]), wanted.values, strict=True):
        assert mask.all()
        np.testing.assert_allclose(found, own.numpy(), atol=4e-3, rtol=2e-3)

    class Stages(ClassifierObjective):
        """The colour of a square, from the mean of each stage's tokens, out of the store batch by batch."""

        def build(self):
            return torch.nn.Linear(sum(states.widths), 4)

        def batch(self, rows):
            values, masks = states.gather(rows)
            means = [(v * m[..., None]).sum(1) / m.sum(1, keepdims=True) for v, m in zip(values, masks, strict=True)]
            return torch.from_numpy(np.concatenate(means, axis=1)).float(), self.train.labels[rows]

        def losses(self, batch, group):
            return {"loss": torch.nn.functional.cross_entropy(self.module(batch[0]), batch[1])}

        def validate(self):
            return {"val_loss": self.losses(self.batch(np.arange(64)), None)["loss"].item()}

        def fingerprint(self):
            return {}

    labels = torch.tensor([sorted(COLOURS).index(label) for label in store.images["label"].to_pylist()])
    held = LabelledStates(torch.empty(0), torch.empty(0), labels)
    recipe = ClassifierRecipe("stages", optim=OptimOptions(lr=0.05, batch=16, epochs=12))
    run = fit(Stages(held, held), recipe, Fitting(device="cpu"))
    losses = [record["val_loss"] for record in run.history.records if "val_loss" in record]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("states_dtype", ["float16", "int8"])
def test_the_plan_states_the_bytes_of_each_view_exactly_or_says_that_it_estimates(
    table, vit, sentences, tmp_path, states_dtype
):
    named = {"encoders": [f"{vit}?layer=1,2&pool=states", f"{vit}?pool=cls", f"{sentences}?layer=1&pool=states"]}
    planned = plan(table, **named, states_dtype=states_dtype)
    embed(table, out=tmp_path, **named, states_dtype=states_dtype)
    for record in open_store(tmp_path).encoders:
        payload = sum(path.stat().st_size - read_header(path)[1] for path in shards(tmp_path, record))
        assert planned.view_bytes[record["uri"]] == payload  # the sample is all of the texts
        if record["pool"] == "states":
            assert open_shard(shards(tmp_path, record)[0]).values.dtype.name == states_dtype
    assert planned.estimated == [f"{sentences}?layer=1&pool=states"]
    assert str(planned).count("(estimate)") == 1


@pytest.mark.parametrize("fail_at", [0, 2, 4])
def test_an_interrupted_run_ends_in_the_same_bytes(table, vit, sentences, tmp_path, monkeypatch, fail_at):
    monkeypatch.setattr(work_plan, "UNIT_BYTES", 30_000)  # of ten items
    named = {"encoders": [f"{vit}?layer=1,2&pool=states", f"{sentences}?layer=1&pool=states"], "batch_size": 5}
    embed(table, out=tmp_path / "whole", **named)
    real = embedding_run.encode_all

    def failing(*arguments):
        for number, encoded in enumerate(real(*arguments)):
            if number == fail_at:
                raise KeyboardInterrupt
            yield encoded

    monkeypatch.setattr(embedding_run, "encode_all", failing)
    with pytest.raises(KeyboardInterrupt):
        embed(table, out=tmp_path / "resumed", **named)
    monkeypatch.setattr(embedding_run, "encode_all", real)
    embed(table, out=tmp_path / "resumed", **named)
    assert snapshot(tmp_path / "resumed") == snapshot(tmp_path / "whole")
    record = open_store(tmp_path / "whole").encoders[0]
    assert len(shards(tmp_path / "whole", record)) > 4  # states are long: a unit holds few of them


def test_units_of_states_hold_so_many_bytes_and_those_of_pooled_features_as_many_items_as_ever():
    assert work_plan.unit_items(10_000) == 1024 and work_plan.unit_items(10**8) == -(-(10**8) // 4096)
    assert work_plan.unit_items(10**8, 2**20) == 256 and work_plan.unit_items(100, 2**40) == 1
    assert work_plan.unit_items(10**4, 10) == 1024


def test_one_modality_alone_is_embedded_and_the_other_added_later(table, vit, tmp_path):
    assert embed(table, text=word_encoder(), out=tmp_path).encoded.keys() == {"text"}
    store = open_store(tmp_path)
    assert len(store) == 64 and [one["modality"] for one in store.encoders] == ["text"]
    assert embed(table, encoders=pixel_encoder(), out=tmp_path).encoded == {"image": 64}
    assert open_store(tmp_path).pairs().image_parts == [108]


def test_the_command_takes_encoders_of_any_modality(table, vit, sentences, tmp_path, capsys):
    named = ["--encoder", f"{vit}?layer=1&pool=states", sentences, "--image-encoder", f"{vit}?pool=cls"]
    command = ["embed", str(table), *named, "--states-dtype", "int8", "--out", str(tmp_path / "store")]
    assert main([*command, "--dry-run", "--json", str(tmp_path / "plan.json")]) == 0
    assert len(json.loads((tmp_path / "plan.json").read_text())["view_bytes"]) == 3
    assert not (tmp_path / "store").exists()
    assert main(command) == 0
    assert main(["doctor", str(tmp_path / "store")]) == 0
    assert open_store(tmp_path / "store").states("image").records[0]["stored"] == "int8"
    capsys.readouterr()
    assert main(["embed", str(table), "--out", str(tmp_path / "store")]) == 2
    assert "No encoder was named" in capsys.readouterr().err


def test_what_pairs_do_not_hold_and_what_does_not_exist_is_wrong_usage(table, vit, tmp_path):
    heard = copy.copy(pixel_encoder())
    heard.modality = "audio"
    with pytest.raises(UsageError, match="hold images and captions, nothing of modality audio"):
        embed(table, encoders=[heard], out=tmp_path)
    with pytest.raises(UsageError, match=r"'int4'.*float16 or int8"):
        embed(table, encoders=f"{vit}?pool=states", out=tmp_path, states_dtype="int4")
    with pytest.raises(UsageError, match="no layer 9"):
        embed(table, encoders=f"{vit}?layer=1,9&pool=states", out=tmp_path)
    with pytest.raises(UsageError, match="use `states`"):
        load_encoder(f"{vit}?layer=1&pool=states").encode([])
    with pytest.raises(UsageError, match="gives pooled features only"):
        pixel_encoder().at(None, "states")
    with pytest.raises(UsageError, match="layer=1,2: names several layers"):
        load_encoder(f"{vit}?layer=1,2")
    assert not (tmp_path / "store.json").exists()


def test_a_list_of_layers_is_a_view_of_each_once(vit):
    views = load_encoders([f"{vit}?layer=2,0,-1&pool=mean"])
    depth = views[0].depth
    assert [view.layer for view in views] == list(dict.fromkeys([2, 0, depth]))
    assert str(views[0].uri) == f"{vit}?layer=2&pool=mean"
    assert views[0].network is views[1].network


def test_states_in_a_store_leave_selection_and_training_to_the_pooled_features(table, vit, sentences, tmp_path):
    ist.embed(table, vit, sentences, out=tmp_path / "store", encoders=[f"{vit}?layer=1&pool=states"])
    model = ist.train(tmp_path / "store", recipe="linear", overrides=["optim.epochs=1", "head.width=4"])
    assert [one["uri"] for one in model.records["image"]] == [vit]
    candidates = from_store(tmp_path / "store")
    assert [one.name for one in candidates.encoders["image"]] == [vit] and not candidates.failed
    with pytest.raises((InputError, UsageError), match="holds no image encoder"):
        open_store(tmp_path / "store").pairs(image=f"{vit}?layer=1&pool=states")
