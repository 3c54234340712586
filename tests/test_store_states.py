"""Sequences in a store: what comes back is what was written, item by item, whatever the order of work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.data.ragged import Ragged, join_ragged
from isthmus.errors import InputError, UsageError
from isthmus.files import read_json
from isthmus.store import StoreWriter, doctor, open_store, remove
from isthmus.store import stream as streams
from isthmus.store.keys import text_hash, to_keys
from isthmus.store.shards import open_shard, write_shard
from states_cases import EIGHT, FOUR, WIDTH, embed, expected, layer, sequences
from store_cases import IMAGE, TEXT, shards_of, snapshot, tables, write


def bad(path: Path) -> list[str]:
    return [finding["what"] for finding in doctor(path) if not finding["ok"]]


def test_states_come_back_exactly_padded_and_belong_to_their_items(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "SHARD_BYTES", 64)  # a shard for every few items
    ids = [f"{i}" for i in range(23)]
    embed(tmp_path, ids)
    assert len(shards_of(tmp_path, FOUR)) > 5 and not bad(tmp_path)
    states = open_store(tmp_path, verify=True).states("image")
    assert states.layers == [4, 8] and states.shape == (23, 2, WIDTH) and states.rate_hz is None
    order = np.random.default_rng(0).permutation(23)[:15]
    values, mask = states.gather(order)
    wanted, real = expected([ids[row] for row in order], (FOUR, EIGHT))
    np.testing.assert_array_equal(values, wanted)
    np.testing.assert_array_equal(mask, real)
    np.testing.assert_array_equal(states.lengths(order), real.sum(1))


@pytest.mark.filterwarnings("ignore:.*overflow float16")
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_gather_equals_the_naive_twin_whatever_the_lengths_types_and_order(tmp_path_factory, data):
    tmp_path = tmp_path_factory.mktemp("states")
    lengths = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=12))
    cuts = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=12))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    items = [rng.normal(size=(many, WIDTH)).astype(np.float16) for many in lengths]
    keys = to_keys([text_hash(str(i)) for i in range(len(items))])
    one = layer(2)
    with StoreWriter(tmp_path) as writer:
        writer.add_encoder(one)
        start = 0
        for cut in cuts:
            part = items[start : start + cut]
            if part:
                scale = 1e6 if data.draw(st.booleans()) else 1  # in float32, since it overflows float16
                for k, item in enumerate(part):
                    items[start + k] = item.astype(np.float32) * scale
                ragged = join_ragged([Ragged.of(item[None]) for item in items[start : start + cut]])
                writer.write("image", one["fingerprint"], keys[start : start + cut], ragged)
                writer.flush()
            start += cut
        held = min(start, len(items))
        images = tables([str(i) for i in range(held)], 0)[0]
        images = images.set_column(1, "content_hash", [[text_hash(str(i)) for i in range(held)]])
        writer.finish(images, tables([], 0)[1])
    index = data.draw(st.lists(st.integers(0, held - 1), max_size=20))
    values, mask = open_store(tmp_path).states("image").gather(index)
    longest = max([lengths[i] for i in index], default=0)
    assert values.shape == (len(index), 1, longest, WIDTH)
    for row, i in enumerate(index):
        assert mask[row].sum() == lengths[i]
        np.testing.assert_array_equal(values[row, 0, : lengths[i]], items[i].astype(np.float32))
        assert not values[row, 0, lengths[i] :].any()


def test_gather_fills_out_wider_than_the_longest_and_refuses_what_does_not_fit(tmp_path):
    embed(tmp_path, ["a", "b", "c"])
    states = open_store(tmp_path).states("image", layers=[8])
    wanted, mask = expected(["c", "a"], (EIGHT,))
    out = np.full((2, 1, 9, WIDTH), 7, np.float16)
    values, real = states.gather([2, 0], out)
    assert values is out and real.shape == (2, 9) and real.sum() == mask.sum()
    np.testing.assert_array_equal(out[:, :, : wanted.shape[2]], wanted)
    assert not out[:, :, wanted.shape[2] :].any()
    for shape in ((2, 1, 0, WIDTH), (1, 1, 9, WIDTH), (2, 2, 9, WIDTH), (2, 1, 9, 5), (2, 9, WIDTH)):
        with pytest.raises(InputError, match="out is"):
            states.gather([2, 0], np.empty(shape, np.float32))
    with pytest.raises(InputError, match="contiguous"):
        states.gather([2, 0], np.empty((2, 1, 9, WIDTH), np.float32)[:, :, ::-1])
    for row in (-1, 3):
        with pytest.raises(InputError, match=f"item {row} is not there"):
            states.gather([row])
    values, mask = states.gather([])
    assert values.shape == (0, 1, 0, WIDTH) and mask.shape == (0, 0)


def test_int8_is_within_half_a_step_of_each_token_s_largest_value_and_half_the_bytes(tmp_path):
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(60, 64)) * rng.uniform(0.01, 900, (60, 1))).astype(np.float32)
    values[7] = 0  # a token of zeros is a token
    ragged = Ragged(values, np.array([0, 5, 7, 20], np.int64))
    images, captions = tables(["a", "b", "c", "d"], 0)
    keys = to_keys(images["content_hash"].to_pylist())
    sizes = {}
    for stored in ("float16", "int8"):
        one = layer(1, width=64, stored=stored)
        with StoreWriter(tmp_path / stored) as writer:
            writer.add_encoder(one)
            writer.write("image", one["fingerprint"], keys, ragged)
            writer.finish(images, captions)
        states = open_store(tmp_path / stored, verify=True).states("image")
        found = np.concatenate([states.gather([i])[0][0, 0] for i in range(4)])
        step = np.abs(values).max(1, keepdims=True) / (127 if stored == "int8" else 1024)
        assert (np.abs(found - values) <= step * 0.5001).all() and not found[7].any()
        assert states.lengths([0, 1, 2, 3]).tolist() == [5, 2, 13, 40] and not bad(tmp_path / stored)
        half = np.empty((4, 1, 40, 64), np.float16)
        states.gather(range(4), half)
        np.testing.assert_allclose(half, states.gather(range(4))[0], rtol=1e-3)
        sizes[stored] = shards_of(tmp_path / stored, one)[0].stat().st_size
    assert sizes["int8"] < 0.6 * sizes["float16"]


def test_shards_in_float16_and_int8_are_read_side_by_side(tmp_path):
    embed(tmp_path, ["a", "b"], (FOUR,))
    embed(tmp_path, ["c", "d"], ({**FOUR, "stored": "int8"},))
    kinds = {open_shard(path).values.dtype.kind for path in shards_of(tmp_path, FOUR)}
    values, _ = open_store(tmp_path).states("image").gather([3, 0, 2, 1])
    wanted, _ = expected(["d", "a", "c", "b"], (FOUR,))
    assert kinds == {"f", "i"}
    np.testing.assert_array_equal(values[[1, 3]], wanted[[1, 3]])
    np.testing.assert_allclose(values, wanted, atol=12.5 / 127)


def test_same_plan_same_bytes_and_a_resumed_run_ends_in_them(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "SHARD_BYTES", 100)
    ids = [f"{i}" for i in range(14)]
    embed(tmp_path / "one", ids)
    embed(tmp_path / "two", ids)
    embed(tmp_path / "resumed", ids, finish=False)
    embed(tmp_path / "resumed", ids)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two") == snapshot(tmp_path / "resumed")
    lost = shards_of(tmp_path / "two", EIGHT)[2]
    whole = lost.read_bytes()
    lost.write_bytes(whole[:-5])
    assert any(lost.name in what for what in bad(tmp_path / "two"))
    with pytest.warns(UserWarning, match=lost.name):
        embed(tmp_path / "two", ids)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_a_second_run_appends_items_and_layers_and_recomputes_nothing(tmp_path):
    embed(tmp_path, ["a", "b"], (FOUR,))
    before = {path: path.stat().st_mtime_ns for path in shards_of(tmp_path, FOUR)}
    embed(tmp_path, ["a", "b", "c"])
    assert before.items() <= {path: path.stat().st_mtime_ns for path in shards_of(tmp_path, FOUR)}.items()
    np.testing.assert_array_equal(
        open_store(tmp_path).states("image").gather([0, 1, 2])[0], expected(["a", "b", "c"], (FOUR, EIGHT))[0]
    )


def test_pooled_features_are_written_as_before_beside_states(tmp_path):
    write(tmp_path / "plain", ["a", "b"], (IMAGE, TEXT))
    write(tmp_path / "both", ["a", "b"], (IMAGE, TEXT))
    embed(tmp_path / "both", ["a", "b"], (FOUR,))
    for one in (IMAGE, TEXT):
        (mine,), (theirs,) = shards_of(tmp_path / "both", one), shards_of(tmp_path / "plain", one)
        assert mine.read_bytes() == theirs.read_bytes() and b"isthmus-shard/1" in mine.read_bytes()
    (states,) = shards_of(tmp_path / "both", FOUR)
    assert b"isthmus-shard/2" in states.read_bytes()
    assert read_json(tmp_path / "plain/store.json")["format"] == "isthmus-store/1"
    assert read_json(tmp_path / "both/store.json")["format"] == "isthmus-store/2"
    store = open_store(tmp_path / "both")
    assert store.features("image").record["uri"] == "test:dino"  # the only pooled one needs no name
    assert len(store.pairs()) == 2
    with pytest.raises(UsageError, match="holds no states"):
        store.states("text")


def test_remove_keeps_the_other_items_and_frees_the_rest(tmp_path):
    embed(tmp_path, ["a", "b", "c", "d"], batch=4)
    before = sum(path.stat().st_size for path in shards_of(tmp_path, FOUR))
    assert remove(tmp_path, ["b"]).feature_rows == 2
    store = open_store(tmp_path, verify=True)
    np.testing.assert_array_equal(
        store.states("image").gather([0, 1, 2])[0], expected(["a", "c", "d"], (FOUR, EIGHT))[0]
    )
    assert sum(path.stat().st_size for path in shards_of(tmp_path, FOUR)) < before and not bad(tmp_path)


def test_layers_are_chosen_by_encoder_and_number(tmp_path):
    other, last, wide = layer(4, "clip"), layer(None), layer(12, width=6)
    embed(tmp_path, ["a", "b"], (EIGHT, FOUR, last, other))
    store = open_store(tmp_path)
    with pytest.raises(UsageError, match=r"several image encoders; name one: test:dino, test:clip"):
        store.states("image")
    assert store.states("image", "test:dino").layers == [4, 8, None]
    assert store.states("image", "test:dino?layer=4&pool=states", layers=[8, 4]).layers == [8, 4]
    assert store.states("image", other["backbone_key"][:8]).layers == [4]
    np.testing.assert_array_equal(
        store.states("image", "test:dino", layers=[None, 4]).gather([1, 0])[0], expected(["b", "a"], (last, FOUR))[0]
    )
    with pytest.raises(UsageError, match=r"no layers \[5\] of test:dino, only 4, 8, None"):
        store.states("image", "test:dino", layers=[5, 4])
    with pytest.raises(UsageError, match=r"no states of 'test:dimo'.*Did you mean 'test:dino'"):
        store.states("image", "test:dimo")
    embed(tmp_path, ["a", "b"], (wide,))
    assert open_store(tmp_path).states("image", "test:dino", layers=[4, 12]).widths == [4, 6]


def test_layers_that_differ_in_width_or_tokens_come_as_a_list_each_as_it_is_alone(tmp_path):
    ids = [f"{i}" for i in range(9)]
    images, captions = tables(ids, 0)
    hashes = images["content_hash"].to_pylist()
    wide, coarse = layer(12, width=6), layer(16)
    embed(tmp_path, ids, (FOUR, wide))
    with StoreWriter(tmp_path) as writer:
        writer.add_encoder(coarse)
        halved = [sequences([one], coarse).take(np.array([0])).values[::2] for one in hashes]
        parts = join_ragged([Ragged.of(one[None]) for one in halved])
        writer.write("image", coarse["fingerprint"], to_keys(hashes), parts)
        writer.finish(images, captions)
    store, order = open_store(tmp_path, verify=True), [7, 0, 3]
    states = store.states("image")
    assert states.widths == [WIDTH, 6, WIDTH] and not states.uniform and len(states) == 9
    values, masks = states.gather(order)
    assert isinstance(values, list) and isinstance(masks, list)
    out = [np.full((3, 7, width), 9, np.float16) for width in states.widths]
    again, _ = states.gather(order, out)
    for k, number in enumerate(states.layers):
        alone, mask = store.states("image", layers=[number]).gather(order)
        np.testing.assert_array_equal(values[k], alone[:, 0])
        np.testing.assert_array_equal(masks[k], mask)
        np.testing.assert_array_equal(states.lengths(order)[:, k], mask.sum(1))
        assert np.shares_memory(again[k], out[k])
        np.testing.assert_array_equal(out[k][:, : mask.shape[1]], alone[:, 0])
    np.testing.assert_array_equal(values[2][1, : masks[2][1].sum()], halved[0].astype(np.float16))
    assert not store.states("image", layers=[4, 16]).uniform  # of one width, with other numbers of tokens
    assert store.states("image", layers=[4]).uniform and [one.shape for one in states.gather([])[0]] == [
        (0, 0, WIDTH), (0, 0, 6), (0, 0, WIDTH),
    ]  # fmt: skip
    with pytest.raises(InputError, match="a list of 3 arrays"):
        states.gather(order, out[0])
    with pytest.raises(UsageError, match="differ in width"):
        states.shape  # noqa: B018


def test_the_rate_comes_back(tmp_path):
    embed(tmp_path, ["a", "b"], (FOUR,), rate_hz=49.95)
    assert open_store(tmp_path).states("image").rate_hz == 49.95


def test_missing_states_are_told_at_once_or_when_asked_for(tmp_path):
    for name in "abcd":
        embed(tmp_path, [name])
    shards_of(tmp_path, EIGHT)[-1].unlink()
    with pytest.raises(InputError, match=r"layer=8&pool=states are missing for 1 of 4.*isthmus embed"):
        open_store(tmp_path).states("image")
    states = open_store(tmp_path).states("image", partial=True)
    with pytest.raises(InputError, match="missing for 1 of 4 items"):
        states.gather(range(4))
    assert any("1 of 4" in what for what in bad(tmp_path))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_refused_by_id(tmp_path, value):
    ragged = sequences([text_hash("x"), text_hash("y")], FOUR)
    ragged.values[ragged.offsets[1], 2] = value
    with (
        pytest.raises(InputError, match=r"layer=4.*NaN or infinity.*1 of 2 items: 007\."),
        StoreWriter(tmp_path) as writer,
    ):
        writer.add_encoder(FOUR)
        writer.record_images([("006", text_hash("x"), None, None), ("007", text_hash("y"), None, None)])
        writer.write("image", FOUR["fingerprint"], to_keys([text_hash("x"), text_hash("y")]), ragged)
    assert not shards_of(tmp_path, FOUR)


def test_a_kind_that_is_not_the_encoder_s_is_refused_by_writer_reader_and_doctor(tmp_path):
    embed(tmp_path, ["a", "b"], (FOUR,))
    with StoreWriter(tmp_path) as writer:
        writer.add_encoder(FOUR)
        keys = to_keys([text_hash("x")])
        with pytest.raises(InputError, match="gives states, not one row"):
            writer.write("image", FOUR["fingerprint"], keys, np.ones((1, WIDTH)))
        with pytest.raises(InputError, match=r"expected \[tokens, 4\]"):
            writer.write("image", FOUR["fingerprint"], keys, Ragged.of(np.ones((1, 2, 5), np.float32)))
    (mine,) = shards_of(tmp_path, FOUR)
    strange = write_shard(mine.parent, "image", FOUR["fingerprint"], keys, np.ones((1, WIDTH), np.float16))
    with pytest.raises(InputError, match=f"{strange.name}: does not hold states"):
        open_store(tmp_path).states("image")
    assert any(strange.name in what for what in bad(tmp_path))


def test_any_flipped_byte_is_found_or_harmless(tmp_path):
    embed(tmp_path, ["a", "b"], ({**FOUR, "stored": "int8"},))
    (path,) = shards_of(tmp_path, FOUR)
    whole = path.read_bytes()
    wanted = open_store(tmp_path).states("image").gather([0, 1])
    tokens = int(wanted[1].sum())
    payload = 2 * (16 + 8) + tokens * (WIDTH + 4)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            found = open_store(tmp_path, verify=True).states("image").gather([0, 1])
            np.testing.assert_array_equal(found[0], wanted[0])
            assert place < len(whole) - payload
        except InputError as error:
            assert path.name in str(error) or "missing" in str(error)


def test_memory_is_that_of_the_batch_and_not_of_the_store(tmp_path):
    """30 MB of states; a batch of 4 items is read from them."""
    images, captions = tables([f"{i}" for i in range(120)], 0)
    keys = to_keys(images["content_hash"].to_pylist())
    one = layer(1, width=512)
    with StoreWriter(tmp_path) as writer:
        writer.add_encoder(one)
        writer.write("image", one["fingerprint"], keys, Ragged.of(np.ones((120, 256, 512), np.float32)))
        writer.finish(images, captions)
    code = (
        "import sys, pathlib\n"
        "from isthmus.store import open_store\n"
        "def anonymous(): return sum(int(l.split()[1]) for l in open('/proc/self/smaps_rollup') if 'Anonymous' in l)\n"
        "states = open_store(sys.argv[1]).states('image'); states.gather([0]); before = anonymous()\n"
        "states.gather([3, 60, 119, 5]); print(anonymous() - before)\n"
    )
    grown = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 8_000  # KiB; a batch takes 2 MiB


def test_a_ragged_is_taken_and_joined_as_lists_are():
    rng = np.random.default_rng(1)
    items = [rng.normal(size=(many, 3)).astype(np.float32) for many in (2, 0, 5, 1, 0)]
    ragged = join_ragged([Ragged.of(item[None]) for item in items])
    assert ragged.lengths.tolist() == [2, 0, 5, 1, 0] and ragged.item_bytes.tolist() == [24, 0, 60, 12, 0]
    for rows in ([4, 2, 2, 0], [1, 2, 3], [], [3]):
        taken = ragged.take(np.array(rows, np.int64))
        np.testing.assert_array_equal(taken.values, np.concatenate([items[r] for r in rows] or [np.empty((0, 3))]))
        assert taken.lengths.tolist() == [len(items[r]) for r in rows]
    padded = np.zeros((5, 5, 3), np.float32)
    mask = np.arange(5) < ragged.lengths[:, None]
    for row, item in enumerate(items):
        padded[row, : len(item)] = item
    np.testing.assert_array_equal(Ragged.of(padded, mask).values, ragged.values)
    assert Ragged.of(padded, mask).offsets.tolist() == ragged.offsets.tolist()
