"""A test split where the data bring none: whole groups, so that no picture and no caption is on both sides."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isthmus.data.feature_pairs import SIDES
from isthmus.data.groups import components, whole_groups
from isthmus.data.pairs import Pairs
from isthmus.data.splits import normalise_split, test_groups
from isthmus.errors import InputError, UsageError
from isthmus.store.keys import text_hash

Stored = tuple[pa.Table, pa.Table]  # the image and the caption table that a store has already


def check_share(share: float | None, pairs: Pairs) -> None:
    """`UsageError` for what is no share, `InputError` for pairs that name a test split already."""
    if share is None:
        return
    if not 0 < share < 1:
        raise UsageError(f"test={share} (--test): the share of images to hold out lies between 0 and 1, as in 0.2.")
    if pairs.modality != SIDES[0]:
        raise UsageError(
            f"test (--test) holds out images, and these are pairs of {pairs.modality}: name a column split."
        )
    named = _named(pairs).count("test")
    if named:
        raise InputError(
            f"{pairs.path}: names a test split itself, of {named:,} images. Leave --test out, or empty its column."
        )


def with_kept_splits(pairs: Pairs, before: Stored) -> tuple[Pairs, list[str]]:
    """`pairs` whose images without a split have that which the store knows of, and a note where there are any."""
    images = pairs.images
    known = before[0]["split"].take(pc.index_in(images["id"], value_set=before[0]["id"].combine_chunks()))
    splits = pc.coalesce(images["split"], known)
    kept = splits.length() - splits.null_count - (images["split"].length() - images["split"].null_count)
    note = [f"{kept:,} images, of which these pairs name no split, keep the one that the store has."]
    return _with_splits(pairs, splits), note if kept else []


def with_test_split(
    pairs: Pairs, hashes: list[str | None], before: Stored, share: float, seed: int
) -> tuple[Pairs, list[str]]:
    """`pairs` with about `share` of their images in the split test, and what to say of it.

    Images belong together that are equal (hashes: of contents, None: unreadable), have an equal caption, are in one
    group of the user's, or are linked through others. What is linked to a test image that the store has from other
    pairs tests too; what is linked to another image there, or to one that the data name for validation, does not.
    """
    ids, splits, group = _joined(pairs, hashes, before)
    mine, others = group[: len(ids)].tolist(), group[len(ids) :].tolist()
    tested = {one for one, split in zip(others, splits[len(ids) :], strict=True) if split == "test"}
    fixed = {*others, *(one for one, split in zip(mine, splits, strict=False) if split == "val")}
    names: dict[int, str] = {}
    sizes: dict[int, int] = {}
    for one, name in zip(mine, ids, strict=True):
        names[one], sizes[one] = min(name, names.get(one, name)), sizes.get(one, 0) + 1
    free = {names[one]: size for one, size in sizes.items() if one not in fixed}
    chosen = test_groups(free, round(share * len(ids)), seed=seed)
    held = [one in tested or names[one] in chosen for one in mine]
    column = ["test" if one else split for one, split in zip(held, splits, strict=False)]
    groups = len({one for one, test in zip(mine, held, strict=True) if test})
    return _with_splits(pairs, pa.chunked_array([pa.array(column, pa.string())])), [_said(held, groups, share)]


def _with_splits(pairs: Pairs, splits: pa.ChunkedArray) -> Pairs:
    return pairs.having(pairs.images.set_column(pairs.images.column_names.index("split"), "split", splits))


def _joined(pairs: Pairs, hashes: list[str | None], before: Stored) -> tuple[list[str], list[str | None], np.ndarray]:
    """Ids of the images of `pairs`; splits and groups, int64, of these and then of what the store has besides."""
    ids, known = pairs.images["id"].to_pylist(), pairs.images["id"].combine_chunks()
    images, captions = (table.filter(pc.invert(pc.is_in(table["id"], value_set=known))) for table in before)
    contents = [*(one or f"unreadable {row}" for row, one in enumerate(hashes)), *images["content_hash"].to_pylist()]
    users = [*pairs.images["group"].to_pylist(), *images["group"].to_pylist()]
    place = {name: row for row, name in enumerate([*ids, *images["id"].to_pylist()])}
    texts = [*map(text_hash, pairs.captions["caption"].to_pylist()), *captions["content_hash"].to_pylist()]
    owners = [place[name] for name in [*pairs.captions["id"].to_pylist(), *captions["id"].to_pylist()]]
    linked = components(whole_groups(users, np.array(contents)), np.array(texts), np.array(owners, np.int64))[0]
    return ids, [*_named(pairs), *images["split"].to_pylist()], linked


def _named(pairs: Pairs) -> list[str | None]:
    """The split of each image as the data say it, by its usual name."""
    return [name and normalise_split(name) for name in pairs.images["split"].to_pylist()]


def _said(held: list[bool], groups: int, share: float) -> str:
    count = sum(held)
    if not count:
        raise InputError(
            f"test={share} (--test): equal pictures, captions or groups link the images into parts too large to hold "
            "out. Give a larger share, or name splits in a column `split`."
        )
    text = f"test: {count:,} of {len(held):,} images ({count / len(held):.1%}) are held out, {groups:,} whole groups; "
    return text + "none shares a picture, a caption or a group with the rest."
