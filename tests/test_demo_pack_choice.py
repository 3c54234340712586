"""Choosing a part of the demo's pairs."""

from __future__ import annotations

import pyarrow as pa
import pytest

from isthmus_demo.pack import share_with_class, some_groups


def make_images() -> pa.Table:
    """80 train, 10 val and 10 test groups of two images, and a test image without a group."""
    rows = [
        {"id": f"{split}-{group}-{n}", "group": f"{split}-{group}", "split": split}
        for split, groups in (("train", 80), ("val", 10), ("test", 10))
        for group in range(groups)
        for n in range(2)
    ]
    return pa.Table.from_pylist([*rows, {"id": "alone", "group": None, "split": "test"}])


def count(ids: list[str], split: str) -> int:
    return sum(id.startswith(split) for id in ids)


def test_a_limit_takes_from_each_split_in_proportion_and_keeps_groups_whole() -> None:
    ids = some_groups(make_images(), limit=101)
    assert (count(ids, "train"), count(ids, "val")) == (80, 10)
    whole = [id for id in ids if id != "alone"]
    assert all(id[:-1] + other in whole for id in whole for other in "01")


def test_the_choice_does_not_depend_on_the_order_of_the_rows() -> None:
    images = make_images()
    shuffled = images.take(list(reversed(range(len(images)))))
    assert set(some_groups(images, 60)) == set(some_groups(shuffled, 60))


def test_a_series_of_hundreds_does_not_fill_a_small_choice() -> None:
    series = pa.Table.from_pylist([{"id": f"train-s-{n}", "group": "series", "split": "train"} for n in range(500)])
    ids = some_groups(pa.concat_tables([make_images(), series]), limit=100)
    assert not any(id.startswith("train-s-") for id in ids)
    assert count(ids, "train") > 80


def test_a_tiny_limit_leaves_something_of_every_split() -> None:
    ids = some_groups(make_images(), limit=1)
    assert [count(ids, split) for split in ("train", "val")] == [2, 2]
    assert len(ids) in (5, 6)


def test_a_caption_holds_a_class_as_whole_words_in_any_case() -> None:
    captions = ["A Cat.", "two cats, asleep", "concatenate", "road sign (red)", "road, sign"]
    assert share_with_class(captions, ["cat", "road sign"]) == pytest.approx(3 / 5)
