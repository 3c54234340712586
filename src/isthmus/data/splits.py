"""Splits: which images are for training, validation and test, as a pure function of group names and a seed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from isthmus.errors import InputError, did_you_mean

SPLITS = ("train", "val", "test")
SYNONYMS = {
    "train": "train", "training": "train",
    "restval": "train",  # Karpathy's split of COCO: validation images that everyone trains on
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
SHARE, LEAST, MOST, CAP = 0.05, 200, 5_000, 0.20


def normalise_split(name: str) -> str:
    """`"validation"` → `"val"`, `"Train"` → `"train"`, …; raises `InputError` for an unknown name."""
    try:
        return SYNONYMS[name.strip().lower()]
    except KeyError:
        raise InputError(f"unknown split {name!r}.{did_you_mean(name, SYNONYMS)}") from None


def assign_splits(splits: Sequence[str | None], groups: Sequence[str], *, seed: int = 0) -> np.ndarray:
    """The split of every image, `"train"`, `"val"` or `"test"`: array of str [N].

    `splits` [N] is given by the data (None means train); `groups` [N] are names of groups that must stay together, such
    as near-duplicates. If the data names no validation image, some of the training groups become the validation split
    (`validation_groups`).
    """
    if len(splits) != len(groups):
        raise InputError(f"{len(splits)} splits but {len(groups)} groups.")
    named = np.array([normalise_split(name) if name else "train" for name in splits], dtype="<U5")
    if (named == "val").any():
        return named
    train = np.flatnonzero(named == "train").tolist()
    chosen = validation_groups([groups[row] for row in train], seed=seed)
    named[[row for row in train if groups[row] in chosen]] = "val"
    return named


def validation_groups(groups: Sequence[str], *, seed: int = 0) -> set[str]:
    """The groups that validate, given the group of each training image [N].

    5 % of the groups, at least 200 and at most 5,000, but never more than 20 % of the groups nor of the
    images: the first ones in the order of hash(seed, group), which no order of rows can change.
    """
    sizes = Counter(groups)
    wanted = min(max(round(SHARE * len(sizes)), LEAST), MOST, int(CAP * len(sizes)))
    room = int(CAP * len(groups))
    chosen: set[str] = set()
    for group in sorted(sizes, key=lambda group: (_hash(seed, group), group)):
        if len(chosen) == wanted:
            break
        if sizes[group] <= room:  # a group too large to hold out stays in training
            chosen.add(group)
            room -= sizes[group]
    return chosen


def test_groups(sizes: dict[str, int], wanted: int, *, seed: int = 0) -> set[str]:
    """The groups that test, of those of these sizes (images by name): at most `wanted` images in all.

    The first ones in the order of hash(seed, group) that still have room, so that a group too large stays in training.
    """
    chosen: set[str] = set()
    for group in sorted(sizes, key=lambda group: (_hash(seed, f"test:{group}"), group)):
        if sizes[group] <= wanted:
            chosen.add(group)
            wanted -= sizes[group]
    return chosen


def _hash(seed: int, group: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{group}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
