"""Features of pairs in memory or memory-mapped: what training, evaluation and selection consume."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isthmus.data.groups import components
from isthmus.data.splits import assign_splits
from isthmus.errors import InputError

TILE_BYTES = 64 * 1024**2
LARGEST = 1e15  # whose square, summed over a row, float32 still holds

Matrix = Any  # [n, width] with `shape`: np.ndarray, np.memmap, or anything with `gather(rows) -> float32`


def rows(matrix: Matrix, index: np.ndarray | slice) -> np.ndarray:
    """Rows of a feature matrix as float32 [len(index), width], whatever kind of matrix it is."""
    if hasattr(matrix, "detach"):  # a tensor of torch, whose `gather` is another thing
        return matrix[index].detach().cpu().float().numpy()
    if hasattr(matrix, "gather"):
        if isinstance(index, slice):
            index = np.arange(*index.indices(matrix.shape[0]))
        return matrix.gather(index)
    return np.asarray(matrix[index], dtype=np.float32)


def rows_at_once(width: int) -> int:
    """How many rows of so many float32 make 64 MiB: a few hundred of tokens, tens of thousands of pooled features."""
    return max(1, TILE_BYTES // (4 * max(1, width)))


class MatrixRows:
    """Some rows of a matrix that stays where it is: [len(index), width]."""

    def __init__(self, matrix: Matrix, index: np.ndarray) -> None:
        self.matrix, self.index = matrix, index
        self.shape = (len(index), matrix.shape[1])

    def __len__(self) -> int:
        return len(self.index)

    def gather(self, index: np.ndarray) -> np.ndarray:
        """Rows `index` of these rows, float32."""
        return rows(self.matrix, self.index[index])


@dataclass(frozen=True, kw_only=True, eq=False)
class FeaturePairs:
    """Image features [N, Dx], caption features [M, Dy], and what belongs to what.

    image_of:        int64 [M], the image (row of `image`) that each caption describes.
    image_group:     int64 [N] and text_group int64 [M], loss groups: equal images and equal captions share
                     one, and so does what is linked through them (`isthmus.data.groups.components`).
    bootstrap_group: int64 [N], the user's groups (near-duplicates) with equal images joined, else each image
                     on its own: the units that splits and bootstraps keep together.
    image_parts:     widths of the encoders' parts, side by side: sum = Dx; text_parts likewise.
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
    image_encoder: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    text_encoder: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        """The number of images."""
        return self.image.shape[0]

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
        image, text = as_matrix(image), as_matrix(text)
        n, m = (_length(name, matrix) for name, matrix in (("image", image), ("text", text)))
        owner = _owners(image_of, n, m)
        names = [str(row) for row in range(n)] if ids is None else _distinct("ids", ids)
        text_keys = _keys(text_keys if text_keys is not None else captions, m)
        labels, splits, lang = (fields.get(name) for name in ("labels", "splits", "lang"))
        _check_lengths(n, "images", ids=names, groups=groups, image_keys=image_keys, labels=labels, splits=splits)
        _check_lengths(m, "captions", captions=captions, text_keys=text_keys, lang=lang)
        if check:
            check_finite("image", image)
            check_finite("text", text)
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
            image=_take_rows(self.image, index),
            text=_take_rows(self.text, kept),
            image_of=place[self.image_of[kept]],
            image_group=self.image_group[index],
            text_group=self.text_group[kept],
            bootstrap_group=self.bootstrap_group[index],
            **{name: _take(getattr(self, name), index) for name in ("image_ids", "labels", "splits")},
            **{name: _take(getattr(self, name), kept) for name in ("caption_ids", "captions", "lang")},
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
        both = (("image", self.image_parts, self.image), ("text", self.text_parts, self.text))
        for name, parts, matrix in both:
            width = matrix.shape[1]
            if sum(parts) != width:
                raise InputError(f"{name} features are {width} wide, but parts {parts} add up to {sum(parts)}.")


def as_matrix(matrix: Any) -> Matrix:
    """A tensor of torch, on any device, as an array; whatever else as it is."""
    if not hasattr(matrix, "detach"):
        return matrix
    matrix = matrix.detach().cpu()
    return (matrix.float() if matrix.is_floating_point() and matrix.itemsize < 4 else matrix).numpy()


def check_finite(name: str, matrix: Matrix) -> None:
    """Raise `InputError` with the first row that holds NaN, infinity or a value beyond `LARGEST`; 64 MiB at a time."""
    for start, tile in _tiles(matrix):
        largest = np.abs(tile).max(axis=1)
        bad = ~(largest <= LARGEST)
        if bad.any():
            row = int(np.argmax(bad))
            if np.isfinite(largest[row]):
                what = f"a value of {largest[row]:.0e}, too large to compute with. Scale the features"
            else:
                what = "NaN or infinity. Embed it again or leave it out"
            raise InputError(f"{name} features: row {start + row} holds {what}.")


def check_varies(name: str, matrix: Matrix) -> None:
    """Raise `InputError` where all rows are the same, from which nothing can be learned; stops at a difference."""
    first, start, some = rows(matrix, slice(0, 1)), 0, 2
    while start < matrix.shape[0]:
        tile = rows(matrix, slice(start, min(start + some, matrix.shape[0])))
        if np.abs(tile - first).max() > 1e-6 * np.abs(first).max() + 1e-12:
            return
        start, some = start + some, min(2 * some, rows_at_once(matrix.shape[1]))
    if matrix.shape[0] > 1:
        raise InputError(
            f"all {matrix.shape[0]:,} {name} features are the same: nothing can be learned from them. Are all "
            f"{'images' if name == 'image' else 'captions'} the same?"
        )


def _tiles(matrix: Matrix) -> Iterator[tuple[int, np.ndarray]]:
    height = rows_at_once(matrix.shape[1])
    for start in range(0, matrix.shape[0], height):
        yield start, rows(matrix, slice(start, start + height))


def _length(name: str, matrix: Matrix) -> int:
    shape = getattr(matrix, "shape", None)
    if shape is None or len(shape) != 2:
        raise InputError(f"{name} features must be a matrix [n, width], not {shape or type(matrix).__name__}.")
    kind = getattr(getattr(matrix, "dtype", None), "kind", "f")
    if kind not in "fiu":
        raise InputError(f"{name} features are of type {matrix.dtype}; they must be real numbers.")
    if 0 in shape:
        raise InputError(f"{name} features are empty: {list(shape)}.")
    return shape[0]


def _owners(image_of: Sequence[int] | np.ndarray | None, n: int, m: int) -> np.ndarray:
    """`image_of`, checked: int64 [m] in 0 … n - 1."""
    if image_of is None:
        if n != m:
            raise InputError(f"{n} images but {m} captions: say which image each caption describes (image_of).")
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
            raise InputError(f"{name}: {value!r} stands in rows {seen[value]} and {row}; ids must differ.")
        seen[value] = row
    return list(seen)


def _keys(keys: Any, count: int) -> np.ndarray:
    return np.arange(count) if keys is None else np.asarray(keys)


def whole_groups(groups: Any, image_keys: np.ndarray) -> np.ndarray:
    """Group numbers [n] in which the user's groups and equal images stay whole."""
    n = len(image_keys)
    own = np.arange(n)
    if groups is None:
        return components(image_keys, own, own)[0]
    named = [(True, str(group)) if group is not None else (False, row) for row, group in enumerate(groups)]
    number: dict[Any, int] = {}
    user = np.array([number.setdefault(name, len(number)) for name in named])
    return components(image_keys, user, own)[0]


def _caption_ids(image_ids: list[str], image_of: np.ndarray) -> list[str]:
    """`id#k`, k counting the captions of each image in order."""
    order = np.argsort(image_of, kind="stable")
    counts = np.bincount(image_of, minlength=len(image_ids))
    k = np.empty(len(image_of), dtype=np.int64)
    k[order] = np.arange(len(image_of)) - np.repeat(np.cumsum(counts) - counts, counts)
    return [f"{image_ids[image]}#{number}" for image, number in zip(image_of.tolist(), k.tolist(), strict=True)]


def _take_rows(matrix: Matrix, index: np.ndarray) -> Matrix:
    if isinstance(matrix, MatrixRows):
        return MatrixRows(matrix.matrix, matrix.index[index])
    if isinstance(matrix, np.ndarray) and not isinstance(matrix, np.memmap):
        return matrix[index]
    return MatrixRows(matrix, index)


def _take(values: list[Any] | None, index: np.ndarray) -> Any:
    return None if values is None else [values[row] for row in index.tolist()]
