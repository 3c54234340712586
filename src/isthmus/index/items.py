"""The table of items: every picture of every source by its id, and the row of its content among the embeddings.

Equal pictures share a row. The table is sorted by row, written whole and memory-mapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isthmus.files import file_digest
from isthmus.index.layout import KeptFile
from isthmus.index.segments import open_arrow, write_arrow

ITEM_SCHEMA = pa.schema(
    {
        "row": pa.int64(),
        "source": pa.large_string(),
        "id": pa.large_string(),
        "path": pa.large_string(),  # absolute; null for what is no file of its own
        "captions": pa.large_list(pa.large_string()),
        "label": pa.large_string(),
        "folder": pa.large_string(),  # of the id: all but its last part
        "content_hash": pa.large_string(),
        "signature": pa.large_string(),
        "missing": pa.bool_(),  # not there when its source was last read
    }
)


@dataclass
class Merged:
    """Items after a scan, without rows. moved: found elsewhere by their content. gone: (source, id) no longer there."""

    items: pa.Table
    moved: int
    gone: int


def identities(items: pa.Table) -> pa.Array:
    """What tells items apart, of all sources: source and id."""
    return _flat(pc.binary_join_element_wise(items["source"], items["id"], pa.scalar("\0", pa.large_string())))


def merge_items(before: pa.Table, scanned: pa.Table, sources: Sequence[str]) -> Merged:
    """What was there, with what a scan of `sources` found in its place.

    An item that is no longer there is kept as missing; but if its content was found under a name that is new, it has
    moved, and the new name takes its place, with its captions and label where the new one has none.
    """
    read = pc.is_in(before["source"], pa.array(sources, pa.large_string()))
    kept, old = before.filter(pc.invert(read)), before.filter(read)
    gone = pc.invert(pc.is_in(identities(old), identities(scanned)))
    new = pc.invert(pc.is_in(identities(scanned), identities(before)))
    lost = old.filter(gone)
    arrived = _flat(scanned.filter(new)["content_hash"])
    moved = pc.is_in(lost["content_hash"], arrived)
    missing = lost.filter(pc.invert(moved))
    gone_now = pa.array([True] * len(missing), pa.bool_())
    missing = missing.set_column(missing.schema.get_field_index("missing"), ITEM_SCHEMA.field("missing"), gone_now)
    scanned = _inherited(scanned, new, lost.filter(moved))
    return Merged(pa.concat_tables([kept, scanned, missing]), len(lost) - len(missing), len(missing))


def _inherited(scanned: pa.Table, new: pa.ChunkedArray, lost: pa.Table) -> pa.Table:
    """The scan, in which items that moved have the captions and labels that they had, if they have none now."""
    if not len(lost):
        return scanned
    found = pc.index_in(_flat(scanned["content_hash"]), value_set=_flat(lost["content_hash"]))
    found = pc.if_else(_flat(new), found, pa.scalar(None, pa.int32()))
    for name in ("captions", "label"):
        place = scanned.schema.get_field_index(name)
        filled = pc.coalesce(_flat(scanned[name]), _flat(lost[name]).take(found))
        scanned = scanned.set_column(place, ITEM_SCHEMA.field(name), filled)
    return scanned


def place_items(items: pa.Table, keys: np.ndarray) -> pa.Table:
    """The items with the row of each among `keys` (uint8 [n, 16]), sorted by it; missing ones after the others."""
    from isthmus.store.keys import KeyIndex, to_keys  # loads torch, which reading does without

    hashes = items["content_hash"].to_pylist()
    rows = KeyIndex(keys).find(to_keys(hashes)) if hashes else np.empty(0, np.int64)
    items = items.set_column(0, ITEM_SCHEMA.field("row"), pa.array(rows, pa.int64()))
    items = items.filter(pc.greater_equal(items["row"], 0))
    ascending = [(name, "ascending") for name in ("row", "missing", "source", "id")]
    return items.take(pc.sort_indices(items, sort_keys=ascending))


def write_items(root: Path, items: pa.Table) -> KeptFile:
    """The table under a name of its own, that of its content."""
    path = root / "items-new.arrow"
    write_arrow(path, [items.combine_chunks()], ITEM_SCHEMA)
    named = root / f"items-{file_digest(path, 8)}.arrow"
    path.replace(named)
    return KeptFile.of(root, named)


def read_items(path: Path) -> pa.Table:
    return open_arrow(path)


def _flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
