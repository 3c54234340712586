"""From a store to pairs: images, captions and features joined by id and content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.records import text
from isthmus.data.splits import SPLITS
from isthmus.errors import InputError, UsageError, did_you_mean
from isthmus.files import locate
from isthmus.store.keys import to_keys

if TYPE_CHECKING:
    from isthmus.store.matrix import FeatureMatrix
    from isthmus.store.reader import Store


def join(store: Store, image: FeatureMatrix, text: FeatureMatrix) -> FeaturePairs:
    """Everything in the store as pairs: one row per image id, one per caption, in the order of its tables."""
    images, captions = store.images, store.captions
    owner = pc.index_in(captions["id"], value_set=images["id"].combine_chunks())
    if owner.null_count:
        raise InputError(f"{store.path}: {owner.null_count:,} captions belong to no image of the store.")
    columns = {name: captions[name].to_pylist() for name in ("caption_id", "caption", "lang")}
    return FeaturePairs.from_arrays(
        image,
        text,
        owner.to_numpy(),
        ids=images["id"].to_pylist(),
        groups=images["group"].to_pylist(),
        image_keys=to_keys(images["content_hash"].to_pylist()),
        text_keys=to_keys(captions["content_hash"].to_pylist()),
        check=False,  # no NaN or infinity was let in
        caption_ids=columns["caption_id"],
        captions=None if None in columns["caption"] else columns["caption"],
        lang=columns["lang"],
        labels=images["label"].to_pylist(),
        splits=images["split"].to_pylist(),
        image_parts=image.parts,
        text_parts=text.parts,
        image_encoder=image.records,
        text_encoder=text.records,
    )


def choose_split(pairs: FeaturePairs, split: str, seed: int) -> FeaturePairs:
    """The pairs of one split; raises `UsageError` for an unknown name, `InputError` if it is empty."""
    if split not in SPLITS:
        raise UsageError(f"Unknown split {split!r}." + did_you_mean(split, SPLITS))
    found = pairs.split(seed=seed)
    if split not in found:
        raise InputError(f"No image is in the {split} split; there is {' and '.join(found)}.")
    return found[split]


def choose_ids(pairs: FeaturePairs, only: str | Path | Sequence[str]) -> FeaturePairs:
    """The pairs whose image id is listed in `only`; raises `InputError` if none is."""
    wanted = set(read_ids(only))
    keep = np.array([one in wanted for one in pairs.image_ids])
    if not keep.any():
        raise InputError(f"None of the {len(wanted):,} ids chosen is among these {len(keep):,} images.")
    return pairs.subset(keep)


def read_ids(only: str | Path | Sequence[str]) -> list[str]:
    """Ids as given, or from the `id` (else `uid`) column of a Parquet file (what `isthmus curate` writes)."""
    if not isinstance(only, str | Path):
        return [str(one) for one in only]
    path = locate(Path(only).parent, Path(only).name)
    try:
        column = "id" if "id" in (names := pq.read_schema(path).names) or "uid" not in names else "uid"
        table = pq.read_table(path, columns=[column], page_checksum_verification=True)
        return [text(one, f"{only}: row {row}", "id") or "" for row, one in enumerate(table[column].to_pylist())]
    except (OSError, KeyError, UnicodeDecodeError, pa.ArrowException) as error:
        raise InputError(f"{only}: no column `id` can be read from it ({error}).") from None
