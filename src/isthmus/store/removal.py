"""Deleting from a store: first the rows of its tables, then features that are no longer used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isthmus.errors import InputError
from isthmus.files import tidy, writing
from isthmus.locking import alone
from isthmus.owned import check_owned
from isthmus.store.journal import FOLDER as JOURNAL
from isthmus.store.keys import KeyIndex, to_keys
from isthmus.store.manifest import Manifest, commit, is_store, read_manifest
from isthmus.store.merging import sample_ids
from isthmus.store.shards import AnyShard, open_shards


@dataclass
class Removed:
    """Counts of what `remove` deleted."""

    images: int
    captions: int
    feature_rows: int


def remove(path: str | Path, ids: Sequence[str]) -> Removed:
    """Remove samples, by id: images, their captions, items of other modalities, and the features no other id needs.

    Safe to interrupt: the tables change all at once, and features without a table row are dropped by the next call,
    also one with empty `ids`.

    Raises:
        InputError: an id the store does not know, an unfinished run, a damaged store, or another writer.
    """
    root = Path(path)
    with _writing(root):
        manifest = read_manifest(root)
        gone = pa.array(ids, pa.string())
        known = sample_ids(manifest.images, {"skipped": manifest.skipped, **manifest.others})
        unknown = gone.filter(pc.invert(pc.is_in(gone, value_set=known)))
        if len(unknown):
            raise InputError(f"{root}: {len(unknown):,} of {len(gone):,} ids are not in the store, first {unknown[0]}.")
        left = replace(
            manifest,
            images=_without(manifest.images, gone),
            captions=_without(manifest.captions, gone),
            skipped=_without(manifest.skipped, gone),
            others={name: _without(table, gone) for name, table in manifest.others.items()},
        )
        if len(gone):
            commit(root, left)
        dropped = _vacuum(root, left)
    return Removed(len(manifest.images) - len(left.images), len(manifest.captions) - len(left.captions), dropped)


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    """Hold the store's lock, and refuse an unfinished run."""
    if not is_store(root):  # before anything in the folder is touched
        raise InputError(f"{root}: not a store.")
    check_owned(root)
    with alone(root, "writing this store"):
        tidy(root, "**/")
        if (root / JOURNAL).is_dir():
            raise InputError(f"{root}: a run is unfinished; finish it with the same `isthmus embed` first.")
        yield


def _without(table: pa.Table, ids: pa.Array) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table["id"], value_set=ids)))


def _vacuum(root: Path, manifest: Manifest) -> int:
    """Rewrite the shards with unused rows; returns how many rows were dropped."""
    wanted = {
        modality: KeyIndex(to_keys(manifest.table(modality)["content_hash"].to_pylist()))
        for modality in manifest.modalities()
    }
    wanted |= {r["modality"]: KeyIndex(to_keys([])) for r in manifest.encoders if r["modality"] not in wanted}
    shards = [shard for record in manifest.encoders for shard in open_shards(root, record)]
    return sum(_shrink(shard, wanted[shard.modality]) for shard in shards)


def _shrink(shard: AnyShard, wanted: KeyIndex) -> int:
    """Write the rows to keep as a new shard, then delete the old one, so that a kill loses nothing."""
    keys = shard.keys()
    keep = np.flatnonzero(wanted.find(keys) >= 0)
    if len(keep) == len(keys):
        return 0
    if len(keep):
        shard.keep(keep)
    with writing(shard.path):
        shard.path.unlink()
    return len(keys) - len(keep)
