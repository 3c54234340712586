"""From a store to pairs: images, captions and features joined by id and content."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isthmus.data.feature_pairs import SIDES, FeaturePairs
from isthmus.data.groups import whole_groups
from isthmus.data.matrix import take
from isthmus.data.parquet import DAMAGE, read_columns
from isthmus.data.records import text
from isthmus.data.splits import SPLITS
from isthmus.errors import InputError, UsageError, did_you_mean
from isthmus.files import locate
from isthmus.store.keys import to_keys

if TYPE_CHECKING:
    from isthmus.store.matrix import FeatureMatrix
    from isthmus.store.states import NumberedRows

    Side = FeatureMatrix | NumberedRows

HOLD_OUT = (
    " Run the same `isthmus embed` again with --test 0.2, which encodes nothing twice, and train on what is left; with "
    "few pairs `isthmus train --folds 5` tests on all of them."
)


def join(path: Path, tables: dict[str, pa.Table], image: Side, text: Side) -> FeaturePairs:
    """Everything in the store at `path` as pairs: a row per item of the first of `tables`, one per item of the second.

    tables: of every modality of the store. image, text: the features of the first two, whose rows are joined by id.
    Items without a counterpart are left out, except images without captions; captions without an image are an
    `InputError`.
    """
    (first, images), (second, captions) = list(tables.items())[:2]
    ids = images["id"].combine_chunks()
    if pc.count_distinct(ids).as_py() != len(ids):
        raise InputError(
            f"{path}: several items of {first!r} share an id. Name {first!r} second: pairs are one of the first "
            "modality with one or more of the second."
        )
    kept = _counterparts(path, tables, first, second)
    captions = captions if kept is None else captions.take(kept)
    columns = {name: _column(captions, name) for name in ("caption", "lang")}
    pairs = FeaturePairs.from_arrays(
        image,
        text if kept is None else take(text, kept),
        pc.index_in(captions["id"], value_set=ids).to_numpy(),
        ids=ids.to_pylist(),
        groups=_of_samples("group", images, tables),
        image_keys=to_keys(images["content_hash"].to_pylist()),
        text_keys=to_keys(captions["content_hash"].to_pylist()),
        check=False,  # a store has no NaN or infinity
        caption_ids=captions[captions.column_names[0]].to_pylist(),
        captions=None if None in columns["caption"] else columns["caption"],
        lang=columns["lang"],
        labels=_of_samples("label", images, tables),
        splits=_of_samples("split", images, tables),
        image_parts=image.parts,
        text_parts=text.parts,
        image_encoder=image.records,
        text_encoder=text.records,
    )
    return pairs if (first, second) == SIDES else pairs.subset(np.unique(pairs.image_of))


def _counterparts(path: Path, tables: dict[str, pa.Table], first: str, second: str) -> np.ndarray | None:
    """The rows of the second table whose ids the first has, int64; None if it has all of them."""
    ids = tables[second]["id"]
    known = pc.is_in(ids, value_set=tables[first]["id"].combine_chunks())
    if second == "text":
        others = [table["id"] for name, table in tables.items() if name != "text"]
        owners = pa.chunked_array([chunk for column in others for chunk in column.chunks], pa.string())
        lost = len(ids) - pc.sum(pc.is_in(ids, value_set=owners), min_count=0).as_py()
        if lost:
            raise InputError(f"{path}: {lost:,} captions belong to no image of the store.")
    return None if pc.all(known, min_count=0).as_py() else np.flatnonzero(known.to_numpy(zero_copy_only=False))


def _column(table: pa.Table, name: str) -> list[Any]:
    return table[name].to_pylist() if name in table.column_names else [None] * table.num_rows


def _of_samples(name: str, items: pa.Table, tables: dict[str, pa.Table]) -> list[str | None]:
    """Fields of the items' samples, from their own table or the first other one that has them."""
    found = pa.nulls(items.num_rows, pa.string())
    for table in (items, *tables.values()):
        if name in table.column_names:
            found = pc.coalesce(
                found, table[name].take(pc.index_in(items["id"], value_set=table["id"].combine_chunks()))
            )
    return found.to_pylist()


def image_groups(images: pa.Table) -> np.ndarray:
    """The units of a bootstrap over some rows of a store's image table, int64 [n]: `whole_groups` by their bytes."""
    return whole_groups(_column(images, "group"), to_keys(images["content_hash"].to_pylist()))


def regrouped(pairs: FeaturePairs, images: pa.Table) -> FeaturePairs:
    """Some pairs of a store with the image table `images`, grouped among themselves.

    Images that were not chosen link no others, so these groups equal those of the same pictures without a store.
    """
    chosen = pc.index_in(pa.array(pairs.image_ids, pa.string()), value_set=images["id"].combine_chunks())
    return dataclasses.replace(pairs, bootstrap_group=image_groups(images.take(chosen)))


def choose_split(pairs: FeaturePairs, split: str, seed: int) -> FeaturePairs:
    """The pairs of one split; raises `UsageError` for an unknown name, `InputError` if it is empty."""
    if split not in SPLITS:
        raise UsageError(f"Unknown split {split!r}." + did_you_mean(split, SPLITS))
    found = pairs.split(seed=seed)
    if split not in found:
        there = " and ".join(f"{name} ({len(part):,} images)" for name, part in found.items())
        raise InputError(f"No image is in the {split} split; there is {there}.{HOLD_OUT if split == 'test' else ''}")
    return found[split]


def choose_ids(pairs: FeaturePairs, only: str | Path | Sequence[str]) -> FeaturePairs:
    """The pairs whose image id is listed in `only`; raises `InputError` if none is."""
    wanted = set(read_ids(only))
    keep = np.array([one in wanted for one in pairs.image_ids])
    if not keep.any():
        raise InputError(f"None of the {len(wanted):,} chosen ids is among these {len(keep):,} images.")
    return pairs.subset(keep)


def read_ids(only: str | Path | Sequence[str]) -> list[str]:
    """Ids as given, or from the `id` (or `uid`) column of a Parquet file, such as `isthmus curate` writes."""
    if not isinstance(only, str | Path):
        return [str(one) for one in only]
    path = locate(Path(only).parent, Path(only).name)
    try:
        table = read_columns(path, ["id", "uid"])
        column = table["id" if "id" in table.column_names or "uid" not in table.column_names else "uid"]
        return [text(one, f"{only}: row {row}", "id") or "" for row, one in enumerate(column.to_pylist())]
    except (KeyError, *DAMAGE) as error:
        raise InputError(f"{only}: no column `id` can be read from it ({error}).") from None
