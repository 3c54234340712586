"""Splits follow the data where it names them, else a hash of (group, seed); groups are never torn apart."""

from __future__ import annotations

import numpy as np
import pytest

from isthmus.data.splits import assign_splits, normalise_split, validation_groups
from isthmus.errors import InputError


def groups(count: int, size: int = 1) -> list[str]:
    return [f"g{k}" for k in range(count) for _ in range(size)]


@pytest.mark.parametrize(
    ("written", "expected"),
    [("validation", "val"), ("Dev ", "val"), ("TRAIN", "train"), ("restval", "train"), ("test", "test")],
)
def test_names_of_splits_are_normalised(written: str, expected: str) -> None:
    assert normalise_split(written) == expected


def test_unknown_split_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown split 'validaton'\. Did you mean 'validation'"):
        assign_splits(["validaton"], ["g"])


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (4, 0),  # 20 % of 4 groups is less than one
        (5, 1),
        (100, 20),  # at most 20 %
        (1_000, 200),  # at least 200
        (6_000, 300),  # 5 %
        (110_000, 5_000),  # at most 5,000
    ],
)
def test_how_many_groups_validate(count: int, expected: int) -> None:
    assert len(validation_groups(groups(count))) == expected


def test_order_of_rows_does_not_matter_but_the_seed_does() -> None:
    names = groups(2_000, size=2)
    shuffled = np.random.default_rng(0).permutation(names).tolist()
    chosen = validation_groups(names, seed=3)
    assert validation_groups(shuffled, seed=3) == chosen
    assert validation_groups(names, seed=4) != chosen


def test_groups_stay_whole() -> None:
    names = groups(1_000, size=3)
    named = assign_splits([None] * 3_000, names)
    assert (named == "val").sum() == 600
    assert all(len(set(named[start : start + 3])) == 1 for start in range(0, 3_000, 3))


def test_a_group_too_large_to_hold_out_stays_in_training() -> None:
    names = ["giant"] * 900 + groups(100)
    for seed in range(20):
        assert "giant" not in validation_groups(names, seed=seed)
    crowd = [f"crowd{k % 5}" for k in range(500)]  # 100 images each: 20 % is one of them
    assert len(validation_groups(crowd)) == 1


def test_validation_in_the_data_is_kept_as_it_is() -> None:
    assert assign_splits(["val", None, "train", "testing"], list("abcd")).tolist() == [
        "val",
        "train",
        "train",
        "test",
    ]


def test_validation_is_taken_from_training_only() -> None:
    count = 1_000
    named = assign_splits(["train", "test"] * (count // 2), groups(count))
    assert (named[1::2] == "test").all()
    assert (named[0::2] == "val").sum() == 100  # 20 % of 500
    assert set(named[0::2]) == {"train", "val"}


def test_lengths_must_match() -> None:
    with pytest.raises(InputError, match="1 splits but 2 groups"):
        assign_splits([None], ["a", "b"])
