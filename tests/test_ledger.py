"""The ledger: what a store and a model cost, in records that add up."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import isthmus as ist
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.models.ledger import LEDGER, encoder_cost, entries, features_cost, head_flops, timed
from isthmus.projectors import build_projector
from toys import pixel_encoder, word_encoder, write_pairs


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ledger")
    pairs = write_pairs(folder / "pairs", copies=2)
    for _ in range(2):  # the second run finds everything done, and leaves no line
        ist.embed(pairs, pixel_encoder(), word_encoder(), out=folder / "store")
    return folder / "store"


def test_every_pass_of_embed_is_in_the_store(store: Path) -> None:
    found = entries(store)
    assert [(one["modality"], one["items"]) for one in found] == [("image", 128), ("text", 128)]
    assert all(one["seconds"] >= 0 and one["threads"] >= 1 and one["device"] == "cpu" for one in found)


def test_a_pass_that_was_stopped_leaves_its_line(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), timed(tmp_path, {"modality": "image", "encoders": []}, "cpu") as entry:
        entry["items"] = 7
        raise KeyboardInterrupt
    assert [one["items"] for one in entries(tmp_path)] == [7]


def test_passes_add_up_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", copies=2)
    ist.embed(pairs, pixel_encoder(), word_encoder(), out=tmp_path / "store")
    lines = (tmp_path / "store" / LEDGER).read_text().splitlines()
    (tmp_path / "store" / LEDGER).write_text("\n".join([lines[0], "{ torn", *lines]) + "\n")
    record = ist.open_store(tmp_path / "store").encoders[0]
    assert features_cost(tmp_path / "store", record)["items"] == 256  # both readable lines of the images


def test_a_model_and_its_card_state_compute_and_bytes(store: Path, tmp_path: Path) -> None:
    overrides = ["optim.epochs=3", "optim.batch=32", "head.width=16"]
    model = ist.train(store, recipe="linear", overrides=overrides, out=tmp_path / "model")
    ledger = json.loads((tmp_path / "model" / "config.json").read_text())["summary"]["ledger"]
    image, text = ledger["features"]["image"][0], ledger["features"]["text"][0]
    shards = list((store / "features" / "image").rglob("shard-*"))
    assert (image["items"], text["items"]) == (128, 128)
    assert image["bytes"] == sum(path.stat().st_size for path in shards) >= 128 * 108 * 2
    assert image["flops"] is None  # a callable: nobody knows
    pairs, batch = model.summary["pairs"], model.summary["batch"]
    seen = ledger["training"]["pairs_seen"]
    assert seen == 3 * pairs
    heads = 6 * 16 * (108 + 64)  # per weight: 2 forward, 2 for its gradient, 2 for that of the LayerNorm before it
    assert ledger["training"]["flops"] == seen * (heads + 6 * batch * 16)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "## Compute and bytes" in card
    assert f"| image features, `{image['uri']}` | 128 |" in card
    assert f"{seen:,} pairs seen" in card
    assert "ledger." not in card


def test_arrays_have_no_known_cost_and_closed_forms_see_no_pair_twice() -> None:
    rng = np.random.default_rng(0)
    pairs = FeaturePairs.from_arrays(rng.normal(size=(40, 6)), rng.normal(size=(40, 5)))
    model = ist.train(pairs, recipe="cca")
    assert model.summary["ledger"]["training"] == {"pairs_seen": 0, "seconds": 0.0, "flops": 0}
    assert model.summary["ledger"]["features"] == {"image": [], "text": []}


def test_operations_of_a_head_are_those_of_its_matrices() -> None:
    heads = [build_projector("mlp", [8], 4, expand=2) for _ in range(2)]
    each = 6 * (8 * 16 + 16 * 4)  # per weight: 2 forward, 4 backward
    assert head_flops(*heads) == 2 * each
    assert head_flops(heads[0], heads[1].requires_grad_(False)) == each
    bare = build_projector("mlp", [8], 4, expand=2, norm="none")  # no gradient flows into the features
    assert head_flops(bare, heads[1]) == 4 * 8 * 16 + 6 * 16 * 4


@pytest.mark.slow
def test_a_network_is_counted_per_item() -> None:
    encoder = ist.load_encoder("wheel:minilm-l6")
    one, two = (encoder_cost([encoder], texts) for texts in (["a cat"], ["a cat", "a dog"]))
    assert one["parameters"] == sum(p.numel() for p in encoder.network.parameters())
    assert one["flops_per_item"] == two["flops_per_item"]
    layers = 6 * (4 * 384 * 384 + 2 * 384 * 1536)  # weights that every token meets
    assert one["flops_per_item"] >= 2 * 4 * layers  # [CLS] a cat [SEP]
    assert torch.is_grad_enabled()
