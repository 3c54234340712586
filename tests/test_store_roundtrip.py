"""What is written into a store is what is read from it, joined by id whatever the order."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from isthmus.errors import InputError, UsageError
from isthmus.store import StoreWriter, doctor, open_store
from isthmus.store import stream as stream_module
from isthmus.store.blocks import MappedArray
from isthmus.store.keys import KeyIndex, text_hash, to_keys
from isthmus.store.matrix import Rows
from store_cases import IMAGE, NO_CAPTIONS, OTHER, TEXT, features, shards_of, snapshot, tables, write


def test_features_come_back_exactly_and_belong_to_their_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(stream_module, "SHARD_BYTES", 5 * 6 * 2)  # 5 images a shard
    ids = [f"{i:03d}" for i in range(17)]
    write(tmp_path, ids)
    store = open_store(tmp_path, verify=True)
    assert len(shards_of(tmp_path, IMAGE)) == 4
    assert store.images["id"].to_pylist() == ids  # "007" is still a string with its zeros
    image, text = store.features("image"), store.features("text")
    assert image.shape == (17, 6) and image.parts == [4, 2] and image.record == IMAGE
    np.testing.assert_array_equal(
        image.gather(np.arange(17)), features(store.images["content_hash"].to_pylist(), IMAGE)
    )
    np.testing.assert_array_equal(text.gather(range(34)), features(store.captions["content_hash"].to_pylist(), TEXT))
    assert store.captions["content_hash"].to_pylist()[3] == text_hash("caption 1 of 001")
    assert all(finding["ok"] for finding in doctor(tmp_path))


def test_same_plan_same_bytes(tmp_path):
    write(tmp_path / "a", ["x", "y", "z"])
    env = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.path.dirname(__file__)}
    code = "import pathlib, sys, store_cases; store_cases.write(pathlib.Path(sys.argv[1]), ['x', 'y', 'z'])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], check=True, env=env)
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_a_shard_describes_itself(tmp_path):
    """Any safetensors reader can use it; the digest is BLAKE2b over keys, then features."""
    write(tmp_path, ["x", "y"])
    (path,) = shards_of(tmp_path, IMAGE)
    data = load_file(path)
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    described = json.loads(header["__metadata__"]["isthmus"])
    assert data["features"].dtype == np.float16 and data["keys"].shape == (2, 16)
    assert described["fingerprint"] == IMAGE["fingerprint"] and described["modality"] == "image"
    payload = data["keys"].tobytes() + data["features"].tobytes()
    assert described["digest"] == hashlib.blake2b(payload, digest_size=16).hexdigest()
    assert data["keys"].tobytes().hex() == text_hash("picture x") + text_hash("picture y")


def test_equal_contents_are_stored_once(tmp_path):
    same = text_hash("one picture")
    images = pa.table({"id": ["a", "b", "c"], "content_hash": [same, same, text_hash("another")]})
    with StoreWriter(tmp_path) as writer:
        writer.add_encoder(IMAGE)
        keys = to_keys(images["content_hash"].to_pylist())
        writer.write("image", IMAGE["fingerprint"], keys, np.arange(18, dtype=np.float32).reshape(3, 6))
        writer.finish(images, NO_CAPTIONS)
    store = open_store(tmp_path)
    assert load_file(shards_of(tmp_path, IMAGE)[0])["keys"].shape == (2, 16)
    np.testing.assert_array_equal(store.features("image").gather([0, 1, 2])[:, 0], [0, 0, 12])


def test_a_second_run_appends_and_recomputes_nothing(tmp_path):
    write(tmp_path, ["a", "b", "c"])
    before = snapshot(tmp_path)
    write(tmp_path, ["c", "d"])
    store = open_store(tmp_path)
    assert store.images["id"].to_pylist() == ["a", "b", "c", "d"]
    assert store.captions.num_rows == 8
    after = snapshot(tmp_path)
    assert all(after[name] == data for name, data in before.items() if "shard" in name)
    assert sum(len(load_file(path)["keys"]) for path in shards_of(tmp_path, IMAGE)) == 4


def test_an_edited_image_or_caption_updates_its_row(tmp_path):
    write(tmp_path, ["a", "b"])
    images, captions = tables(["b"])
    images = images.set_column(1, "content_hash", [[text_hash("b, edited")]])
    with StoreWriter(tmp_path) as writer:
        writer.add_encoder(IMAGE)
        writer.write("image", IMAGE["fingerprint"], to_keys([text_hash("b, edited")]), np.full((1, 6), 9.0))
        writer.finish(images, captions)
    store = open_store(tmp_path)
    assert store.images["id"].to_pylist() == ["a", "b"] and store.captions.num_rows == 4
    np.testing.assert_array_equal(store.features("image").gather([1]), np.full((1, 6), 9.0))


def test_an_id_that_stands_for_another_sample_is_refused(tmp_path):
    write(tmp_path, ["1", "2"])
    before = snapshot(tmp_path)
    other = text_hash("a picture of another data set")
    captions = pa.table({"caption_id": ["2#0"], "id": ["2"], "caption": ["a caption of another data set"]})
    with pytest.raises(InputError, match=r"'2'.*other ids"), StoreWriter(tmp_path) as writer:
        writer.finish(pa.table({"id": ["2"], "content_hash": [other]}), captions)
    assert snapshot(tmp_path) == before


def test_a_run_keeps_what_it_does_not_speak_of(tmp_path):
    """A second encoder for the same ids, without captions, splits or labels, and an image it cannot read."""
    write(tmp_path, ["a", "b"], split=["train", "test"], label=["cat", None])
    images, _ = tables(["a"])
    with StoreWriter(tmp_path) as writer:
        writer.finish(images, NO_CAPTIONS, [("b", "unreadable today"), ("z", "not an image")])
    store = open_store(tmp_path)
    kept = {row["id"]: (row["split"], row["label"]) for row in store.images.to_pylist()}
    assert kept == {"a": ("train", "cat"), "b": ("test", None)}
    assert store.captions.num_rows == 4
    assert store.skipped.to_pylist() == [{"id": "z", "reason": "not an image"}]


def test_overflow_is_stored_in_float32_with_a_warning_and_both_are_read(tmp_path):
    write(tmp_path, ["a", "b"])
    large = text_hash("large")
    with pytest.warns(UserWarning, match=r"test:dino.*overflow float16"), StoreWriter(tmp_path) as writer:
        writer.add_encoder(IMAGE)
        writer.write("image", IMAGE["fingerprint"], to_keys([large]), np.full((1, 6), 70_000.25, np.float32))
        writer.finish(pa.table({"id": ["c"], "content_hash": [large]}), NO_CAPTIONS)
    image = open_store(tmp_path).features("image")
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image.gather([2]), np.full((1, 6), 70_000.25))
    np.testing.assert_array_equal(image.gather([0]), features([text_hash("picture a")], IMAGE))
    write(tmp_path, ["d"])  # its own shard, float16 whatever the others are: bytes do not depend on what came before
    dtypes = [str(load_file(path)["features"].dtype) for path in shards_of(tmp_path, IMAGE)]
    assert sorted(dtypes) == ["float16", "float16", "float32"]


def test_encoders_are_found_by_uri_prefix_and_stand_side_by_side(tmp_path):
    write(tmp_path, ["a", "b", "c"], (IMAGE, OTHER, TEXT))
    store = open_store(tmp_path)
    hashes = store.images["content_hash"].to_pylist()
    for which in ("test:clip", OTHER["fingerprint"], OTHER["fingerprint"][:8]):
        np.testing.assert_array_equal(store.features("image", which).gather([2]), features(hashes[2:], OTHER))
    both = store.features("image", ["test:clip", "test:dino"])
    assert both.parts == [3, 4, 2] and both.width == 9 and both.records == [OTHER, IMAGE]
    np.testing.assert_array_equal(
        both.gather([1, 0]), np.hstack([features(hashes, OTHER), features(hashes, IMAGE)])[[1, 0]]
    )
    with pytest.raises(UsageError, match=r"several image encoders.*test:dino.*test:clip"):
        store.features("image")
    with pytest.raises(UsageError, match=r"'test:dimo'.*Did you mean 'test:dino'"):
        store.features("image", "test:dimo")
    with pytest.raises(UsageError, match="modality 'images'"):
        store.features("images")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_gather_equals_indexing_the_concatenated_blocks(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("blocks")
    sizes = data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(any))
    blocks, arrays = [], []
    for number, size in enumerate(sizes):
        dtype = data.draw(st.sampled_from([np.float16, np.float32]))
        array = np.random.default_rng(number).normal(size=(size, 3)).astype(dtype)
        path = folder / f"{number}.raw"
        path.write_bytes(b"\0" * 4 + array.tobytes())
        blocks.append(MappedArray(path, 4, array.shape, array.dtype))
        arrays.append(array.astype(np.float32))
    whole = np.concatenate(arrays)
    rows = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=20)), np.int64)
    out = np.full((len(rows), 3), np.nan, np.float32)
    Rows(blocks).gather(rows, out)
    np.testing.assert_array_equal(out, whole[rows])
    half = np.full((len(rows), 3), np.nan, np.float16)
    Rows(blocks).gather(rows, half)
    np.testing.assert_array_equal(half, whole[rows].astype(np.float16))


def test_gather_fills_out_and_refuses_rows_that_are_not_there(tmp_path):
    write(tmp_path, ["a", "b"])
    image = open_store(tmp_path).features("image")
    out = np.zeros((2, 8), np.float32)[:, 1:7]
    assert image.gather([1, 1], out=out) is out and np.array_equal(out[0], out[1])
    assert image.gather([]).shape == (0, 6)
    for row in (-1, 2):
        with pytest.raises(InputError, match=f"row {row} is not there"):
            image.gather([row])


def test_more_shards_than_file_handles(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(stream_module, "SHARD_BYTES", 1)  # every row its own shard
    write(tmp_path, [str(i) for i in range(100)], (IMAGE,), captions_each=0)
    image = open_store(tmp_path).features("image")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 50, hard))
    try:
        image.gather(np.arange(100)[::-1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=16, max_size=16), max_size=20), st.lists(st.binary(min_size=16, max_size=16)))
def test_key_index_finds_the_first_row_of_each_key(held, asked):
    held = [*held, b"\0" * 16, b"a" + b"\0" * 15]
    asked = [*asked, *held]
    array = np.frombuffer(b"".join(held), np.uint8).reshape(-1, 16)
    found = KeyIndex(array).find(np.frombuffer(b"".join(asked), np.uint8).reshape(-1, 16))
    assert found.tolist() == [held.index(key) if key in held else -1 for key in asked]


def test_recall_names_only_images_whose_signature_is_the_same(tmp_path):
    with StoreWriter(tmp_path) as writer:
        writer.record_images([("a", text_hash("old"), None, "s0"), ("b", None, "not an image", "s1")])
        writer.flush()
        writer.record_images([("a", text_hash("new"), None, "s2"), ("c", text_hash("c"), None, None)])
    with StoreWriter(tmp_path) as writer:
        found = writer.recall(["b", "a", "c", "unheard of", "a"], ["s1", "s2", None, "s", "s0"])
    assert found["content_hash"].to_pylist() == [None, text_hash("new"), None, None, None]
    assert found["reason"].to_pylist() == ["not an image", None, None, None, None]


def test_a_finished_store_still_recalls_its_images(tmp_path):
    write(tmp_path, ["a", "b"])
    with StoreWriter(tmp_path) as writer:
        found = writer.recall(["b", "a"], ["signature of b", "another signature"])
        assert found["content_hash"].to_pylist() == [text_hash("picture b"), None]
        images, captions = tables(["a"])
        changed = images.set_column(1, "content_hash", [[text_hash("edited, and nobody recorded it")]])
        writer.finish(changed, captions)
    with StoreWriter(tmp_path) as writer:
        assert writer.recall(["a"], ["signature of a"])["content_hash"].to_pylist() == [None]


def test_a_shard_is_cut_where_the_caller_says_so(tmp_path):
    with StoreWriter(tmp_path) as writer:
        writer.add_encoder(IMAGE)
        for name in "abcd":
            hashes = [text_hash(name)]
            writer.write("image", IMAGE["fingerprint"], to_keys(hashes), features(hashes, IMAGE))
            if name == "b":
                writer.flush()
    assert len(shards_of(tmp_path, IMAGE)) == 2


def test_the_image_keeps_its_split_and_only_selects(tmp_path):
    ids = [f"{i}" for i in range(6)]
    write(
        tmp_path,
        ids,
        split=["train", "train", "val", "val", "test", None],
        group=["g", "g", None, None, None, None],
    )
    store = open_store(tmp_path)
    pairs = store.pairs(split="train")
    assert pairs.image_ids == ["0", "1", "5"]
    assert pairs.caption_ids == ["0#0", "0#1", "1#0", "1#1", "5#0", "5#1"]
    assert pairs.image_of.tolist() == [0, 0, 1, 1, 2, 2]
    assert pairs.bootstrap_group[0] == pairs.bootstrap_group[1] != pairs.bootstrap_group[2]
    assert pairs.image_parts == [4, 2] and pairs.image_encoder == [IMAGE] and pairs.text_encoder == [TEXT]
    np.testing.assert_array_equal(
        pairs.text.gather(np.arange(6)), features([text_hash(text) for text in pairs.captions], TEXT)
    )
    pq.write_table(pa.table({"id": ["3", "1"]}), tmp_path / "selected.parquet")
    assert store.pairs(only=tmp_path / "selected.parquet").image_ids == ["1", "3"]
    assert store.pairs(split="val", only=["3", "1"]).image_ids == ["3"]
    with pytest.raises(UsageError, match="'valid'"):
        store.pairs(split="valid")
    with pytest.raises(InputError, match="None of the 1 chosen ids"):
        store.pairs(only=["unheard of"])
    with pytest.raises(InputError, match="no column `id`"):
        store.pairs(only=tmp_path / "missing.parquet")


def test_equal_images_and_equal_captions_share_a_loss_group(tmp_path):
    same = text_hash("same picture")
    pictures, texts = [same, same, text_hash("c"), text_hash("d")], ["one", "two", "two", "four"]
    ids = list("abcd")
    with StoreWriter(tmp_path) as writer:
        for one, hashes in ((IMAGE, pictures), (TEXT, [text_hash(text) for text in texts])):
            writer.add_encoder(one)
            writer.write(one["modality"], one["fingerprint"], to_keys(hashes), features(hashes, one))
        writer.finish(
            pa.table({"id": ids, "content_hash": pictures}),
            pa.table({"caption_id": [f"{one}#0" for one in ids], "id": ids, "caption": texts}),
        )
    pairs = open_store(tmp_path).pairs()
    assert pairs.image_group.tolist() == [0, 0, 0, 1] and pairs.text_group.tolist() == [0, 0, 0, 1]
