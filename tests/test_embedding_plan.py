"""The plan of work: units and batches depend on the pairs alone, so that bytes do not depend on how a run went."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isthmus.embedding import embed, work_plan
from isthmus.embedding.work_plan import caption_batches, cut, even_batches, image_batches, plan_captions, plan_images
from isthmus.encoders import Encoder
from isthmus.encoders.callables import from_callable
from isthmus.store import open_store
from isthmus.store.keys import text_hash, to_keys
from store_cases import snapshot
from toys import picture, png, write_pairs


def gossip(modality: str, fail_at: int | None = None) -> Encoder:
    """Features that tell who else was in the batch, as a real network's last bits do. Dies at the n-th batch."""
    calls = 0

    def encode(items: list) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise KeyboardInterrupt
        seen = np.array([len(one) if isinstance(one, str) else np.asarray(one).mean() for one in items], np.float32)
        place = np.arange(len(items), dtype=np.float32)
        return np.stack([seen, np.full_like(seen, len(items)), np.full_like(seen, seen.std()), place], axis=1)

    return from_callable(encode, modality, f"gossip of {modality}s", name="gossip", width=4)


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_plan, "LEAST_ITEMS", 24)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """128 pictures; one is not a picture, one stands twice."""
    table = write_pairs(tmp_path / "data", copies=2)
    (table.parent / "0-030.png").write_bytes(b"not a picture")
    (table.parent / "1-010.png").write_bytes((table.parent / "0-002.png").read_bytes())
    return table


def run(table: Path, out: Path, image: Encoder | None = None, text: Encoder | None = None, **options) -> None:
    embed(table, image or gossip("image"), text or gossip("text"), out=out, batch_size=7, max_skip=0.5, **options)


def planned(needed: np.ndarray, ends: np.ndarray) -> list[work_plan.Unit]:
    keys = to_keys(text_hash(str(i)) for i in range(len(needed)))
    return list(cut(list(range(len(needed))), keys, needed[None], ends))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 20))
def test_units_are_whole_batches_and_never_too_many(sizes: list[int], most: int) -> None:
    ends = np.cumsum(sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work_plan, "MOST_UNITS", most)
        found = planned(np.ones(ends[-1], bool), ends)
    assert len(found) <= most and [len(batch) for unit in found for batch in unit.batches()] == sizes
    assert all(len(unit.items) >= work_plan.LEAST_ITEMS for unit in found[:-1])


@given(st.lists(st.booleans(), min_size=1, max_size=200), st.integers(1, 30))
def test_units_hold_every_needed_item_once_and_in_its_place(needed: list[bool], batch_size: int) -> None:
    ends = even_batches(len(needed), batch_size)
    everything = {unit.items[0]: unit for unit in planned(np.ones(len(needed), bool), ends)}
    seen = []
    for unit in planned(np.array(needed), ends):
        whole = everything[unit.items[0]]
        assert unit.items == whole.items and unit.needed.any()
        np.testing.assert_array_equal(unit.ends, whole.ends)
        np.testing.assert_array_equal(unit.keys, whole.keys)
        assert [i for batch in unit.batches() for i in batch] == list(range(len(unit.items)))
        seen += [item for item, need in zip(unit.items, unit.needed[0], strict=True) if need]
    assert seen == [i for i, need in enumerate(needed) if need]


@given(st.integers(0, 500), st.integers(1, 40))
def test_even_batches_are_full_but_for_the_last(items: int, batch_size: int) -> None:
    sizes = np.diff(even_batches(items, batch_size), prepend=0)
    assert sizes.sum() == items and (sizes > 0).all() and (sizes[:-1] == batch_size).all()
    assert not len(sizes) or sizes[-1] <= batch_size


@given(st.lists(st.integers(0, 3000), max_size=400))
def test_batches_of_captions_are_as_large_as_their_cost_allows(lengths: list[int]) -> None:
    captions = ["x" * length for length in sorted(lengths)]
    start = 0
    for stop in caption_batches(captions, None).tolist():
        cost = (stop - start) * len(captions[stop - 1])
        assert stop - start == 1 or (cost <= work_plan.BATCH_CHARACTERS and stop - start <= work_plan.MOST_CAPTIONS)
        if stop < len(captions):
            assert (stop - start + 1) * len(captions[stop]) > work_plan.BATCH_CHARACTERS or stop - start == 256
        start = stop
    assert start == len(captions)
    np.testing.assert_array_equal(caption_batches(captions, 7), even_batches(len(captions), 7))


def test_images_come_in_batches_that_suit_the_device() -> None:
    assert image_batches(40, None, torch.device("cpu")).tolist() == [16, 32, 40]
    assert image_batches(100, None, torch.device("cuda")).tolist() == [64, 100]
    assert image_batches(10, 6, torch.device("cpu")).tolist() == [6, 10]


def test_images_are_planned_by_first_appearance_and_captions_by_length() -> None:
    a, b = text_hash("a"), text_hash("b")
    rows, keys = plan_images([None, b, a, b, None, a])
    assert rows == [1, 2] and keys.tolist() == to_keys([b, a]).tolist()
    texts = ["long caption", "b", "a", "b"]
    captions = pa.table({"caption": texts, "content_hash": [text_hash(text) for text in texts]})
    planned, keys = plan_captions(captions)
    assert planned == [*sorted("ab", key=text_hash), "long caption"]
    assert keys.tolist() == to_keys(map(text_hash, planned)).tolist()


@pytest.mark.parametrize("fail_at", [1, 2, 4, 8, 12, 18])
def test_an_interrupted_run_ends_in_the_same_bytes(table: Path, tmp_path: Path, fail_at: int) -> None:
    run(table, tmp_path / "whole")
    for dying in ({"image": gossip("image", fail_at)}, {"text": gossip("text", fail_at)}):
        out = tmp_path / next(iter(dying))
        with pytest.raises(KeyboardInterrupt):
            run(table, out, **dying)
        run(table, out)
        assert snapshot(out) == snapshot(tmp_path / "whole")


def test_a_lost_shard_is_computed_again_to_the_same_bytes(table: Path, tmp_path: Path) -> None:
    run(table, tmp_path / "store")
    whole = snapshot(tmp_path / "store")
    shards = sorted((tmp_path / "store").glob("features/image/*/shard-*"))
    assert len(shards) == 5  # 127 contents, one of them no picture, in units of 4 batches of 7
    shards[2].unlink()
    run(table, tmp_path / "store")
    assert snapshot(tmp_path / "store") == whole


def test_what_the_store_holds_already_does_not_move_the_rest(table: Path, tmp_path: Path) -> None:
    """Two images of the first unit are known: the others stay in the batches they were planned for."""
    run(table, tmp_path / "store", only=["0-001.png", "0-009.png"])
    run(table, tmp_path / "store")
    run(table, tmp_path / "whole")
    pieces, whole = (open_store(tmp_path / name).pairs() for name in ("store", "whole"))
    batch_sizes = {name: pieces.image.gather([row])[0, 1] for row, name in enumerate(pieces.image_ids)}
    assert batch_sizes["0-000.png"] == 6 and batch_sizes["0-008.png"] == 6 and batch_sizes["0-014.png"] == 7
    later = [f"0-{n:03d}.png" for n in (14, 29, 40)]
    for name in later:
        rows = [pairs.image_ids.index(name) for pairs in (pieces, whole)]
        np.testing.assert_array_equal(pieces.image.gather(rows[:1]), whole.image.gather(rows[1:]))


def test_an_image_that_changes_while_it_is_embedded_is_skipped_and_fine_the_next_time(tmp_path: Path) -> None:
    table = write_pairs(tmp_path / "data", copies=1)
    victim = table.parent / "0-050.png"

    def change(images: list) -> np.ndarray:
        victim.write_bytes(png(picture("blue", "bright", "top", seed=777)))
        return np.ones((len(images), 4), np.float32)

    out = tmp_path / "store"
    run(table, out, image=from_callable(change, "image", "changes files", width=4))
    skipped = open_store(out).skipped.to_pylist()
    assert [one["id"] for one in skipped] == [victim.name] and "changed while" in skipped[0]["reason"]
    run(table, out, image=from_callable(lambda images: np.ones((len(images), 4)), "image", "changes files", width=4))
    assert open_store(out).skipped.num_rows == 0 and len(open_store(out)) == 64


def test_the_plan_of_a_caption_table_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    table = write_pairs(tmp_path / "data", copies=1)
    run(table, tmp_path / "one")
    lines = table.read_text().splitlines()
    assert json.loads(lines[0])["image"] == "0-000.png"
    table.write_text("\n".join(reversed(lines)))
    run(table, tmp_path / "two")
    texts = [
        {name: data for name, data in snapshot(tmp_path / store).items() if "features/text" in name}
        for store in ("one", "two")
    ]
    assert texts[0] == texts[1]
