"""What trained a model and what validated it: eight bytes of the content of each item, beside the model's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from isthmus.data.contents import items_of_hashes, items_of_texts
from isthmus.data.feature_pairs import SIDES, FeaturePairs
from isthmus.errors import InputError
from isthmus.models.bloom import BloomFilter
from isthmus.weights import read_tensors

SEEN = "seen.safetensors"
ROLES = ("train", "val")
MOST = 5_000_000  # items of a modality and a role that are remembered one by one; more are a Bloom filter

Kept = dict[tuple[str, str], "list[ItemHashes | BloomFilter]"]  # by modality and role


class ItemHashes:
    """Items, uint64 [n], sorted and distinct."""

    def __init__(self, items: np.ndarray) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def holds(self, items: np.ndarray) -> np.ndarray:
        """bool [m] of items, uint64 [m]."""
        if not len(self.items):
            return np.zeros(len(items), bool)
        place = np.searchsorted(self.items, items).clip(max=len(self.items) - 1)
        return self.items[place] == items


class SeenItems:
    """The items that trained a model ("train") and those that validated it ("val"), by modality.

    read: gives what is kept, when it is first asked for.
    """

    def __init__(self, read: Callable[[], Kept]) -> None:
        self._read = read

    @classmethod
    def of_pairs(cls, train: FeaturePairs, val: FeaturePairs | None) -> SeenItems:
        """Images with captions, and these, by the modality of each side."""
        kept: Kept = {}
        for role, pairs in zip(ROLES, (train, val), strict=True):
            if pairs is None:
                continue
            for side in SIDES:
                items = pairs.items(side)
                items = items[np.unique(pairs.image_of)] if side == SIDES[0] else items
                kept.setdefault((pairs.modality(side), role), []).append(ItemHashes(np.unique(items)))
        return cls(partial(_merged, [kept]))

    @classmethod
    def of_contents(cls, contents: Mapping[str, Mapping[str, Sequence[str]]]) -> SeenItems:
        """Items by role and modality: content hashes ("": none), or the texts themselves."""
        kept: Kept = {}
        for role in (one for one in ROLES if one in contents):
            for modality, listed in contents[role].items():
                items = (
                    items_of_texts(listed) if modality == SIDES[1] else items_of_hashes([one for one in listed if one])
                )
                kept[modality, role] = [ItemHashes(np.unique(items))]
        return cls(partial(_merged, [kept]))

    @classmethod
    def at(cls, path: Path, digest: str) -> SeenItems:
        """What a saved model remembers; InputError, once it is asked for, where the file is not what was written."""
        return cls(partial(_read, path, digest))

    @cached_property
    def kept(self) -> Kept:
        """By modality and role."""
        return self._read()

    def roles(self, modality: str, items: np.ndarray) -> np.ndarray:
        """Of each item, uint64 [n]: 0 where it is new, 1 + its first role in `ROLES` where it is not; int8 [n]."""
        found = np.zeros(len(items), np.int8)
        for number, role in reversed(list(enumerate(ROLES, 1))):
            for some in self.kept.get((modality, role), []):
                found[some.holds(items)] = number
        return found

    @property
    def identity(self) -> str:
        """Hex digits that change with what is remembered."""
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self.tensors().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()

    def counts(self) -> dict[str, dict[str, int]]:
        """How many items there are, by role and modality."""
        found: dict[str, dict[str, int]] = {role: {} for role in ROLES}
        for (modality, role), listed in self.kept.items():
            found[role][modality] = sum(map(len, listed))
        return found

    def joined(self, other: SeenItems | None) -> SeenItems:
        """These and those of another model, that this one was made from."""
        return self if other is None else SeenItems(partial(_merged, [self.kept, other.kept]))

    def tensors(self) -> dict[str, Tensor]:
        """As they are saved, `modality/role/number/kind`: `hashes`, int64 [n], or `bloom`, uint8 [3 n]."""
        found = {}
        for (modality, role), listed in self.kept.items():
            for number, some in enumerate(listed):
                exact = isinstance(some, ItemHashes)
                values = some.items.view(np.int64) if isinstance(some, ItemHashes) else some.bits
                found[f"{modality}/{role}/{number}/{'hashes' if exact else 'bloom'}"] = torch.from_numpy(values)
        return found


def _merged(several: list[Kept]) -> Kept:
    keys = dict.fromkeys(key for kept in several for key in kept)
    return {key: _together([one for kept in several for one in kept.get(key, [])]) for key in keys}


def _together(listed: list[ItemHashes | BloomFilter]) -> list[ItemHashes | BloomFilter]:
    """The same items, those that are known one by one in one; as a Bloom filter where they are too many."""
    exact = [one.items for one in listed if isinstance(one, ItemHashes)]
    items = np.unique(np.concatenate(exact)) if exact else np.empty(0, np.uint64)
    joined: list[ItemHashes | BloomFilter] = [one for one in listed if isinstance(one, BloomFilter)]
    if len(items):
        joined.append(BloomFilter.of(items) if len(items) > MOST else ItemHashes(items))
    return joined


def _read(path: Path, digest: str) -> Kept:
    try:
        return _from_tensors(path, read_tensors(path, digest))
    except InputError as error:
        raise InputError(
            f"{error} Copy or train the model again; to make it forget on purpose, load it in Python, set "
            "model.seen = None and save it."
        ) from None


def _from_tensors(path: Path, tensors: dict[str, Tensor]) -> Kept:
    kept: Kept = {}
    for name, tensor in tensors.items():
        try:
            modality, role, _, kind = name.split("/")
            if kind == "hashes" and tensor.dtype == torch.int64 and tensor.ndim == 1:
                one: ItemHashes | BloomFilter = ItemHashes(tensor.numpy().view(np.uint64))
            elif kind == "bloom" and tensor.dtype == torch.uint8 and tensor.ndim == 1 and len(tensor):
                one = BloomFilter(tensor.numpy())
            else:
                raise ValueError(kind)
        except ValueError:
            raise InputError(f"{path}: {name!r} is nothing that this version of isthmus writes there.") from None
        kept.setdefault((modality, role), []).append(one)
    return kept
