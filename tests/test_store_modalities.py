"""Any number of modalities in a store, joined by id; any two of them are pairs that train a dual encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import isthmus as ist
from isthmus.errors import InputError, UsageError
from isthmus.files import read_json, read_sealed, write_sealed
from isthmus.store import StoreWriter, doctor, open_store, remove
from isthmus.store.keys import text_hash, to_keys
from store_cases import IMAGE, NO_CAPTIONS, TEXT, features, record, shards_of, snapshot, tables, write

AUDIO = record("audio", "wav2vec", 7)
DEPTH = record("depth", "midas", 3)
NO_IMAGES = pa.table({"id": pa.array([], pa.string()), "content_hash": pa.array([], pa.string())})


def items(ids: list[str], modality: str, each: int = 1, **columns: list) -> pa.Table:
    """Items of a modality, whose content is named by their id."""
    names = [(f"{i}/{k}", i) for i in ids for k in range(each)]
    hashes = [text_hash(f"{modality} {name}") for name, _ in names]
    return pa.table({"item_id": [n for n, _ in names], "id": [i for _, i in names], "content_hash": hashes, **columns})


def add(path: Path, images: pa.Table, captions: pa.Table, others: dict[str, pa.Table], *encoders: dict) -> None:
    """A run of a writer that brings items of other modalities."""
    contents = {"image": images["content_hash"].to_pylist()} | {
        modality: table["content_hash"].to_pylist() for modality, table in others.items()
    }
    contents["text"] = [text_hash(text) for text in captions["caption"].to_pylist()]
    with StoreWriter(path) as writer:
        for one in encoders:
            writer.add_encoder(one)
            known = writer.known(one["modality"], one["fingerprint"])
            todo = [h for h in contents[one["modality"]] if bytes.fromhex(h) not in known]
            writer.write(one["modality"], one["fingerprint"], to_keys(todo), features(todo, one))
        writer.finish(images, captions, others=others)


def bad(path: Path) -> list[str]:
    return [finding["what"] for finding in doctor(path) if not finding["ok"]]


def test_a_store_of_three_modalities_joins_any_two_by_id(tmp_path):
    images, captions = tables(["a", "b", "c"])
    add(tmp_path, images, captions, {"audio": items(["c", "a"], "audio")}, IMAGE, TEXT, AUDIO)
    store = open_store(tmp_path, verify=True)
    assert store.modalities == ["image", "text", "audio"] and not bad(tmp_path)
    assert (tmp_path / "audio.parquet").exists()
    pairs = store.pairs(modalities=("audio", "image"))
    assert pairs.image_ids == ["c", "a"] and pairs.caption_ids == ["a", "c"] and pairs.image_of.tolist() == [1, 0]
    np.testing.assert_array_equal(pairs.text.gather(np.arange(2)), store.features("image").gather([0, 2]))
    spoken = store.pairs(modalities=("audio", "text"))
    assert [spoken.image_ids[k] for k in spoken.image_of] == [text.split()[-1] for text in spoken.captions]
    assert len(spoken.captions) == 4  # those of b, which has no audio, are left out
    assert len(store.pairs()) == 3 and len(store.pairs().captions) == 6
    assert [one["modality"] for one in spoken.image_encoder + spoken.text_encoder] == ["audio", "text"]


def test_a_store_needs_no_images(tmp_path):
    _, captions = tables(["a", "b"], captions_each=1)
    audio = items(["a", "b"], "audio", split=["train", "test"])
    add(tmp_path, NO_IMAGES, captions, {"audio": audio}, AUDIO, TEXT)
    store = open_store(tmp_path)
    assert len(store) == 0 and not bad(tmp_path)
    test = store.pairs("test", modalities=("audio", "text"))
    assert test.image_ids == ["b"] and test.captions == ["caption 0 of b"]


def test_the_first_modality_has_one_item_per_id_and_the_second_any_number(tmp_path):
    images, captions = tables(["a", "b"], split=["train", "test"])
    add(tmp_path, images, captions, {"audio": items(["a", "b"], "audio", each=3)}, IMAGE, TEXT, AUDIO)
    store = open_store(tmp_path)
    with pytest.raises(InputError, match=r"several items of 'audio' share an id. Name 'audio' second"):
        store.pairs(modalities=("audio", "text"))
    pairs = store.pairs("test", modalities=("image", "audio"))
    assert pairs.caption_ids == ["b/0", "b/1", "b/2"] and pairs.captions is None


def test_splits_and_labels_are_those_of_the_sample_whatever_table_says_them(tmp_path):
    images, captions = tables(["a", "b"], 1, split=["train", "test"], label=["cat", "dog"])
    audio = items(["b", "a"], "audio", label=["bark", None])
    add(tmp_path, images, captions, {"audio": audio}, IMAGE, TEXT, AUDIO)
    pairs = open_store(tmp_path).pairs(modalities=("audio", "text"))
    assert pairs.splits == ["test", "train"] and pairs.labels == ["bark", "cat"]


def test_a_caption_of_nothing_is_still_refused(tmp_path):
    images, captions = tables(["a", "b"])
    with pytest.raises(InputError, match="of image 'b', which is not there"):
        add(tmp_path, images.slice(0, 1), captions, {"audio": items(["a"], "audio")}, IMAGE, TEXT, AUDIO)


def test_another_run_adds_items_replaces_those_of_its_ids_and_keeps_the_rest(tmp_path):
    images, captions = tables(["a", "b"])
    add(tmp_path, images, captions, {"audio": items(["a", "b"], "audio")}, IMAGE, TEXT, AUDIO)
    add(tmp_path, NO_IMAGES, NO_CAPTIONS, {"audio": items(["b", "c"], "audio", each=2)}, AUDIO)
    add(tmp_path, NO_IMAGES, NO_CAPTIONS, {"depth": items(["a"], "depth")}, DEPTH)
    store = open_store(tmp_path)
    assert store.table("audio")["item_id"].to_pylist() == ["a/0", "b/0", "b/1", "c/0", "c/1"]
    assert store.table("depth").num_rows == 1 and len(store) == 2 and not bad(tmp_path)
    before = shards_of(tmp_path, AUDIO)
    write(tmp_path, ["a", "b", "d"])  # a run of images and captions alone
    assert open_store(tmp_path).table("audio").num_rows == 5 and shards_of(tmp_path, AUDIO) == before


def test_features_that_are_missing_are_told_before_and_after(tmp_path):
    with StoreWriter(tmp_path) as writer:
        writer.add_encoder(AUDIO)
        with pytest.raises(InputError, match="test:wav2vec are missing for 2 of 2"):
            writer.finish(NO_IMAGES, NO_CAPTIONS, others={"audio": items(["a", "b"], "audio")})
    add(tmp_path, NO_IMAGES, NO_CAPTIONS, {"audio": items(["a", "b"], "audio")}, AUDIO)
    shards_of(tmp_path, AUDIO)[0].unlink()
    assert any("2 of 2" in what for what in bad(tmp_path))


def test_remove_takes_the_items_of_every_modality(tmp_path):
    images, captions = tables(["a", "b"])
    add(tmp_path, images, captions, {"audio": items(["b", "c"], "audio")}, IMAGE, TEXT, AUDIO)
    remove(tmp_path, ["b"])
    store = open_store(tmp_path, verify=True)
    assert store.table("audio")["id"].to_pylist() == ["c"] and store.images["id"].to_pylist() == ["a"]
    assert store.features("audio").shape == (1, 7) and not bad(tmp_path)
    remove(tmp_path, ["c"])
    assert not shards_of(tmp_path, AUDIO)


def test_images_and_captions_alone_are_written_in_the_format_that_older_versions_read(tmp_path):
    write(tmp_path / "plain", ["a", "b"])
    assert read_json(tmp_path / "plain/store.json")["format"] == "isthmus-store/1"
    assert {name for name in snapshot(tmp_path / "plain") if "/" not in name} == {
        "store.json", "images.parquet", "captions.parquet", "skipped.parquet",
    }  # fmt: skip
    add(tmp_path / "plain", NO_IMAGES, NO_CAPTIONS, {"audio": items(["a"], "audio")}, AUDIO)
    assert read_json(tmp_path / "plain/store.json")["format"] == "isthmus-store/2"
    assert len(open_store(tmp_path / "plain").pairs()) == 2


@pytest.mark.parametrize("name", ["../evil", "skipped", "images", "Audio", "", "a" * 40, "a/b"])
def test_a_name_that_is_no_modality_is_refused(tmp_path, name):
    with StoreWriter(tmp_path) as writer, pytest.raises(InputError, match="cannot name a modality"):
        writer.finish(NO_IMAGES, NO_CAPTIONS, others={name: items(["a"], "audio")})


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "Audio", "audio.x"])
def test_a_store_that_names_such_a_table_is_refused(tmp_path, name):
    write(tmp_path, ["a"])
    described = read_sealed(tmp_path / "store.json")
    described["tables"][name] = described["tables"]["images"]
    write_sealed(tmp_path / "store.json", described)
    with pytest.raises(InputError, match=r"store\.json.*cannot name a modality"):
        open_store(tmp_path)


def test_a_modality_that_is_not_there_is_told_with_the_nearest(tmp_path):
    images, captions = tables(["a", "b"])
    add(tmp_path, images, captions, {"audio": items(["a"], "audio")}, IMAGE, TEXT, AUDIO)
    store = open_store(tmp_path)
    with pytest.raises(UsageError, match=r"no modality 'audoi'.*Did you mean 'audio'"):
        store.pairs(modalities=("image", "audoi"))
    with pytest.raises(UsageError, match="no modality 'video'"):
        store.features("video")


def test_two_modalities_that_are_neither_train_a_dual_encoder_that_is_saved_and_evaluated(tmp_path):
    ids = [f"{i}" for i in range(60)]
    split = ["train"] * 40 + ["val"] * 10 + ["test"] * 10
    others = {"audio": items(ids, "audio", split=split), "depth": items(ids, "depth")}
    add(tmp_path / "store", NO_IMAGES, NO_CAPTIONS, others, AUDIO, DEPTH)
    options = {"recipe": "linear", "overrides": ["optim.epochs=2", "head.width=4"], "modalities": ("audio", "depth")}
    model = ist.train(tmp_path / "store", out=tmp_path / "model", **options)
    assert [one[0]["modality"] for one in model.records.values()] == ["audio", "depth"]
    assert model.project("image", open_store(tmp_path / "store").features("audio")).shape == (60, 4)
    saved = ist.DualEncoder.from_pretrained(tmp_path / "model", load=False)
    found = ist.evaluate(saved, "retrieval", tmp_path / "store", split="test", bootstrap=0)
    assert found["n"]["images"] == 10
