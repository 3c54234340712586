"""Finding the demo's pairs, and choosing a part of them."""

from __future__ import annotations

import sys

import pyarrow as pa
import pytest

from isthmus.demo.pack import first_groups, pack_path, share_with_class
from isthmus.errors import InputError


def make_images() -> pa.Table:
    """80 train, 10 val and 10 test groups of two images, and a test image without a group."""
    rows = [
        {"id": f"{split}-{group}-{n}", "group": f"{split}-{group}", "split": split}
        for split, groups in (("train", 80), ("val", 10), ("test", 10))
        for group in range(groups)
        for n in range(2)
    ]
    return pa.Table.from_pylist([*rows, {"id": "alone", "group": None, "split": "test"}])


def groups_of(ids: list[str], split: str) -> set[str]:
    return {id.rsplit("-", 1)[0] for id in ids if id.startswith(split)}


def test_a_limit_takes_from_each_split_in_proportion_and_keeps_groups_whole() -> None:
    ids = first_groups(make_images(), limit=50)
    assert {split: len(groups_of(ids, split)) for split in ("train", "val")} == {"train": 40, "val": 5}
    whole = [id for id in ids if id != "alone"]
    assert all(id[:-1] + other in whole for id in whole for other in "01")


def test_the_choice_does_not_depend_on_the_order_of_the_rows() -> None:
    images = make_images()
    shuffled = images.take(list(reversed(range(len(images)))))
    assert set(first_groups(images, 30)) == set(first_groups(shuffled, 30))


def test_a_larger_limit_holds_the_smaller_choice() -> None:
    assert set(first_groups(make_images(), 20)) < set(first_groups(make_images(), 60))


def test_a_tiny_limit_leaves_two_groups_of_every_split() -> None:
    ids = first_groups(make_images(), limit=1)
    assert len(groups_of(ids, "train")) == len(groups_of(ids, "val")) == 2


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isthmus_demo", None)
    with pytest.raises(InputError, match=r"pip install \./demo.*make demo"):
        pack_path()


def test_a_caption_holds_a_class_as_whole_words_in_any_case() -> None:
    captions = ["A Cat.", "two cats, asleep", "concatenate", "road sign (red)", "road, sign"]
    assert share_with_class(captions, ["cat", "road sign"]) == pytest.approx(3 / 5)
