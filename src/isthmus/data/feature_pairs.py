"""Features of pairs in memory or memory-mapped: what training, evaluation and selection consume."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from isthmus.data.contents import KEY_BYTES, items_of_keys, items_of_rows, items_of_texts
from isthmus.data.encoder_record import EncoderRecord
from isthmus.data.frames import as_pandas
from isthmus.data.groups import components, whole_groups
from isthmus.data.matrix import Matrix, as_matrix, check_finite, stacked, take
from isthmus.data.splits import assign_splits
from isthmus.errors import InputError

SIDES = ("image", "text")  # the two sides of pairs; each is named after its modality unless its encoders have another


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FeaturePairs:
    """Image features [N, Dx], caption features [M, Dy], and which belong together.

    image_of:        int64 [M], the image (row of `image`) that each caption describes.
    image_group:     int64 [N] and text_group int64 [M], loss groups: equal images and equal captions share
                     one, and so does what is linked through them (`isthmus.data.groups.components`).
    bootstrap_group: int64 [N], the user's groups (near-duplicates) with equal images joined, else each image
                     on its own: the units that splits and bootstraps keep together.
    image_parts:     widths of the encoders' parts, side by side: sum = Dx; text_parts likewise.
    image_items:     uint64 [N], what each image is remembered by (`isthmus.data.contents`), where its content is known;
                     text_items [M] likewise. `items` gives them in any case.
    """

    image: Matrix
    text: Matrix
    image_of: np.ndarray
    image_group: np.ndarray
    text_group: np.ndarray
    bootstrap_group: np.ndarray
    image_ids: list[str]
    caption_ids: list[str]
    image_parts: list[int]
    text_parts: list[int]
    captions: list[str] | None = None
    lang: list[str | None] | None = None
    labels: list[str | None] | None = None
    splits: list[str | None] | None = None
    image_items: np.ndarray | None = None
    text_items: np.ndarray | None = None
    image_encoder: list[EncoderRecord] = dataclasses.field(default_factory=list)
    text_encoder: list[EncoderRecord] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        """The number of images."""
        return self.image.shape[0]

    def __repr__(self) -> str:
        sides = (f"{side} {' + '.join(map(str, getattr(self, f'{side}_parts')))} wide" for side in SIDES)
        return f"FeaturePairs({len(self):,} images, {len(self.image_of):,} captions; {', '.join(sides)})"

    def to_pandas(self) -> Any:
        """A row per caption: id, caption_id, and caption, lang, label and split where they are known."""
        texts = {"caption_id": self.caption_ids, "caption": self.captions, "lang": self.lang}
        images = {"id": self.image_ids, "label": self.labels, "split": self.splits}
        columns = {name: [values[row] for row in self.image_of.tolist()] for name, values in images.items() if values}
        return as_pandas(pa.table(columns | {name: values for name, values in texts.items() if values}))

    @property
    def records(self) -> dict[str, list[EncoderRecord]]:
        """Records of the encoders of each side."""
        return {side: getattr(self, f"{side}_encoder") for side in SIDES}

    def modality(self, side: str) -> str:
        """The modality of a side: from its encoders' records, otherwise the name of the side."""
        return next((record["modality"] for record in self.records[side] if "modality" in record), side)

    def items(self, side: str) -> np.ndarray:
        """What the items of a side are remembered by, uint64 [n]: content, else their texts, else their features."""
        held = getattr(self, f"{side}_items")
        if held is not None:
            return held
        texts = self.captions if side == SIDES[1] else None
        return items_of_rows(getattr(self, side)) if texts is None else items_of_texts(texts)

    def identified(self) -> FeaturePairs:
        """The same pairs, whose items are known whatever becomes of their features."""
        image_items, text_items = (self.items(side) for side in SIDES)
        return dataclasses.replace(self, image_items=image_items, text_items=text_items)

    @classmethod
    def from_arrays(
        cls,
        image: Matrix,
        text: Matrix,
        image_of: Sequence[int] | np.ndarray | None = None,
        *,
        ids: Sequence[str] | None = None,
        groups: Sequence[Any] | np.ndarray | None = None,
        captions: Sequence[str] | None = None,
        image_keys: np.ndarray | None = None,
        text_keys: np.ndarray | None = None,
        check: bool = True,
        **fields: Any,
    ) -> FeaturePairs:
        """Pairs from features that exist already.

        image [N, Dx], text [M, Dy]: float matrices, torch's tensors too. image_of [M]: default one caption per image,
        in order. ids [N]: default the row numbers. groups [N]: what must stay together when data are split; None is a
        group of its own. captions [M]: the texts; equal ones share a loss group. image_keys [N], text_keys
        [M]: what makes two images or captions equal, such as content hashes; default every image on its own,
        and the captions. check: look at every value for NaN, infinity and what is too large to compute with. fields:
        others of this class.
        Raises `InputError` naming the row where features or lengths are wrong.
        """
        image_items, text_items = _items(image_keys), _items(text_keys)
        image, text = as_matrix(image), as_matrix(text)
        n, m = (_length(name, matrix) for name, matrix in zip(SIDES, (image, text), strict=True))
        owner = _owners(image_of, n, m)
        names = [str(row) for row in range(n)] if ids is None else _distinct("ids", ids)
        text_keys = _keys(text_keys if text_keys is not None else captions, m)
        labels, splits, lang = (fields.get(name) for name in ("labels", "splits", "lang"))
        _check_lengths(n, "images", ids=names, groups=groups, image_keys=image_keys, labels=labels, splits=splits)
        _check_lengths(m, "captions", captions=captions, text_keys=text_keys, lang=lang)
        if check:
            for name, matrix in zip(SIDES, (image, text), strict=True):
                check_finite(name, matrix)
        image_group, text_group = components(_keys(image_keys, n), text_keys, owner)
        pairs = cls(
            image=image,
            text=text,
            image_of=owner,
            image_group=image_group,
            text_group=text_group,
            bootstrap_group=whole_groups(groups, _keys(image_keys, n)),
            image_ids=names,
            caption_ids=fields.pop("caption_ids", None) or _caption_ids(names, owner),
            image_parts=fields.pop("image_parts", None) or [image.shape[1]],
            text_parts=fields.pop("text_parts", None) or [text.shape[1]],
            captions=None if captions is None else list(captions),
            image_items=image_items,
            text_items=text_items,
            **fields,
        )
        pairs._check_parts()
        return pairs

    def subset(self, images: np.ndarray | Sequence[int]) -> FeaturePairs:
        """These images (bool mask [N], or row numbers in the order wanted) and all their captions.

        Arrays are copied, memory-mapped matrices stay where they are; group numbers do not change.
        """
        index = np.asarray(images)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        place = np.full(len(self), -1, dtype=np.int64)
        place[index] = np.arange(len(index))
        kept = np.flatnonzero(place[self.image_of] >= 0)
        return dataclasses.replace(
            self,
            image=take(self.image, index),
            text=take(self.text, kept),
            image_of=place[self.image_of[kept]],
            image_group=self.image_group[index],
            text_group=self.text_group[kept],
            bootstrap_group=self.bootstrap_group[index],
            image_items=None if self.image_items is None else self.image_items[index],
            text_items=None if self.text_items is None else self.text_items[kept],
            **{name: _take(getattr(self, name), index) for name in ("image_ids", "labels", "splits")},
            **{name: _take(getattr(self, name), kept) for name in ("caption_ids", "captions", "lang")},
        )

    def joined(self, other: FeaturePairs) -> FeaturePairs:
        """These images and then those of `other`, with features of the same encoders; what is equal in both, by
        content, is of one group. Ids may repeat.
        """
        items = {side: np.concatenate([self.items(side), other.items(side)]) for side in SIDES}
        owner = np.concatenate([self.image_of, other.image_of + len(self)])
        linked, whole = (
            whole_groups(_numbered(getattr(self, name), getattr(other, name)).tolist(), items["image"])
            for name in ("image_group", "bootstrap_group")
        )
        image_group, text_group = components(linked, items["text"], owner)
        listed = ("image_ids", "caption_ids", "captions", "lang", "labels", "splits")
        return dataclasses.replace(
            self,
            image=stacked(self.image, other.image),
            text=stacked(self.text, other.text),
            image_of=owner,
            image_group=image_group,
            text_group=text_group,
            bootstrap_group=whole,
            image_items=items["image"],
            text_items=items["text"],
            **{name: _both(getattr(self, name), getattr(other, name)) for name in listed},
        )

    def split(self, *, seed: int = 0) -> dict[str, FeaturePairs]:
        """`{"train": …, "val": …, "test": …}`, without those that are empty.

        Follows `splits`, as `isthmus.data.splits.assign_splits` says; where these name no validation images,
        some training groups are held out by a hash of the smallest image id of each group, which no order of
        rows can change.
        """
        first: dict[int, str] = {}
        for group, id in zip(self.bootstrap_group.tolist(), self.image_ids, strict=True):
            first[group] = min(id, first.get(group, id))
        groups = [first[group] for group in self.bootstrap_group.tolist()]
        named = assign_splits(self.splits or [None] * len(self), groups, seed=seed)
        return {name: self.subset(named == name) for name in ("train", "val", "test") if (named == name).any()}

    def _check_parts(self) -> None:
        for name in SIDES:
            parts, width = getattr(self, f"{name}_parts"), getattr(self, name).shape[1]
            if sum(parts) != width:
                raise InputError(f"{name} features are {width} wide, but parts {parts} add up to {sum(parts)}.")


def _length(name: str, matrix: Matrix) -> int:
    shape = getattr(matrix, "shape", None)
    if shape is None or len(shape) != 2:
        raise InputError(f"{name} features must be a matrix [n, width], not {shape or type(matrix).__name__}.")
    dtype = getattr(matrix, "dtype", None)
    if getattr(dtype, "kind", "f") not in "fiu":
        raise InputError(f"{name} features are of type {dtype}; they must be real numbers.")
    if 0 in shape:
        raise InputError(f"{name} features are empty: {list(shape)}.")
    return shape[0]


def _owners(image_of: Sequence[int] | np.ndarray | None, n: int, m: int) -> np.ndarray:
    """`image_of`, checked: int64 [m] in 0 … n - 1."""
    if image_of is None:
        if n != m:
            raise InputError(f"{n} images but {m} captions: give the image of each caption (image_of).")
        return np.arange(n)
    owner = np.asarray(as_matrix(image_of))
    _check_lengths(m, "captions", image_of=owner)
    if owner.dtype.kind not in "iu":
        raise InputError(f"image_of must hold row numbers of images (integers), not {owner.dtype}.")
    wrong = np.flatnonzero((owner < 0) | (owner >= n))
    if len(wrong):
        raise InputError(f"image_of: caption {wrong[0]} is of image {owner[wrong[0]]}, but there are {n} images.")
    return owner.astype(np.int64)


def _check_lengths(count: int, what: str, **lists: Any) -> None:
    for name, values in lists.items():
        if values is not None and len(values) != count:
            raise InputError(f"{name} has {len(values)} entries, but there are {count} {what}.")


def _distinct(name: str, values: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    for row, value in enumerate(map(str, values)):
        if value in seen:
            raise InputError(f"{name}: {value!r} is in rows {seen[value]} and {row}; ids must differ.")
        seen[value] = row
    return list(seen)


def _items(keys: Any) -> np.ndarray | None:
    """Of content keys, uint8 [n, 16]; nothing else that makes items equal says what they are to other data."""
    contents = isinstance(keys, np.ndarray) and keys.dtype == np.uint8 and keys.shape[1:] == (KEY_BYTES,)
    return items_of_keys(keys) if contents else None


def _numbered(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The groups of two sets of images, none of them shared."""
    return np.concatenate([first, second + first.max(initial=-1) + 1])


def _both(first: list[Any] | None, second: list[Any] | None) -> Any:
    return None if first is None or second is None else [*first, *second]


def _keys(keys: Any, count: int) -> np.ndarray:
    return np.arange(count) if keys is None else np.asarray(keys)


def _caption_ids(image_ids: list[str], image_of: np.ndarray) -> list[str]:
    """`id#k`, k counting the captions of each image in order."""
    order = np.argsort(image_of, kind="stable")
    counts = np.bincount(image_of, minlength=len(image_ids))
    k = np.empty(len(image_of), dtype=np.int64)
    k[order] = np.arange(len(image_of)) - np.repeat(np.cumsum(counts) - counts, counts)
    return [f"{image_ids[image]}#{number}" for image, number in zip(image_of.tolist(), k.tolist(), strict=True)]


def _take(values: list[Any] | None, index: np.ndarray) -> Any:
    return None if values is None else [values[row] for row in index.tolist()]
