"""What an unfinished run has found out about its images, so that a resumed run reads no image twice.

Rows are (id, content_hash or null if it cannot be read, reason it was skipped or null, signature). The signature, for
instance size and time of change, shows whether a file has changed; with another signature, or none, the file is read
again. The journal is only a cache. A part that cannot be read is dropped, and `finish` removes the folder.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from isthmus.data.feature_pairs import SIDES
from isthmus.data.parquet import DAMAGE, read_columns
from isthmus.errors import InputError
from isthmus.files import atomic_path, read_json, sync_folder, write_json, writing
from isthmus.modality import Modality
from isthmus.store.disk import write_parquet

FOLDER = "journal"
PART_ROWS = 65_536
ENCODERS = "encoders.json"
_PART = re.compile(r"part-(\d{6,})\.parquet")
_SCHEMA = pa.schema({name: pa.string() for name in ("id", "content_hash", "reason", "signature")})
Row = tuple[str, str | None, str | None, str | None]


def noted_as(modality: Modality, id: str) -> str:
    """The id under which the journal knows an item: an image by its own, others also by what they are."""
    return id if modality == SIDES[0] else f"{modality}\0{id}"


class Journal:
    """The journal of one store; made by the first `flush`."""

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER
        self._buffer: list[Row] = []

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows; they are written by `flush`, at the latest when `PART_ROWS` are buffered."""
        self._buffer.extend(rows)
        if len(self._buffer) >= PART_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the added rows as another part."""
        if not self._buffer:
            return
        numbers = [int(match[1]) for match in map(_PART.fullmatch, self._names()) if match]
        path = self.folder / f"part-{max(numbers, default=-1) + 1:06d}.parquet"
        table = pa.table([list(column) for column in zip(*self._buffer, strict=True)], schema=_SCHEMA)
        with atomic_path(path) as aside:
            write_parquet(table, aside)
        self._buffer = []

    def rows(self) -> pa.Table:
        """Every row on disk, later parts last."""
        parts = []
        for name in self._names():
            if _PART.fullmatch(name):
                try:
                    parts.append(read_columns(self.folder / name, _SCHEMA.names).cast(_SCHEMA))
                except (KeyError, ValueError, *DAMAGE):
                    with writing(self.folder / name):
                        (self.folder / name).unlink()
        return pa.concat_tables([_SCHEMA.empty_table(), *parts])

    def names(self, hashes: Sequence[str]) -> list[str]:
        """The ids recorded for these contents, the hash itself where there is none."""
        rows = [*self.rows().select(["content_hash", "id"]).to_pylist()]
        ids = {row["content_hash"]: row["id"] for row in rows} | {row[1]: row[0] for row in self._buffer}
        return [ids.get(one, one).rpartition("\0")[2] for one in hashes]

    def save_encoders(self, records: list[dict[str, Any]]) -> None:
        """Record the encoders whose features this run writes; `store.json` gets them when the run is finished."""
        write_json(self.folder / ENCODERS, records)

    def encoders(self) -> list[dict[str, Any]]:
        """The records an unfinished run has noted."""
        try:
            records = read_json(self.folder / ENCODERS)
        except InputError:
            return []
        return records if isinstance(records, list) else []

    def remove(self) -> None:
        self._buffer = []
        if self.folder.is_dir():
            with writing(self.folder):
                shutil.rmtree(self.folder)
            sync_folder(self.folder.parent)

    def _names(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("part-*")) if self.folder.is_dir() else []


def recall(known: pa.Table, ids: Sequence[str], signatures: Sequence[str | None]) -> pa.Table:
    """Look up `ids` with unchanged signature in `known` (id, content_hash, reason, signature).

    Returns content_hash and reason, one row per id, null where the image must be read.
    """
    rows = _latest(known, pa.array(ids, pa.string()))
    same = pc.fill_null(pc.equal(rows["signature"], pa.array(signatures, pa.string())), False)
    nothing = pa.scalar(None, pa.string())
    kept = [pc.if_else(same, rows[name], nothing) for name in ("content_hash", "reason")]
    return pa.table(kept, names=["content_hash", "reason"])


def signed(images: pa.Table, known: pa.Table, modality: Modality) -> pa.Table:
    """Images (id, content_hash, …) or items with the signature that `known` has for this content, otherwise null."""
    if "signature" in images.column_names:
        return images
    ids = images["item_id" if "item_id" in images.column_names else "id"].to_pylist()
    rows = _latest(known, pa.array([noted_as(modality, id) for id in ids], pa.string()))
    same = pc.fill_null(pc.equal(rows["content_hash"], images["content_hash"]), False)
    signatures = pc.if_else(same, rows["signature"], pa.scalar(None, pa.string()))
    return images.append_column("signature", signatures)


def _latest(known: pa.Table, ids: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The last row of each id, nulls where there is none."""
    backwards = known["id"].combine_chunks()[::-1]
    found = pc.index_in(ids, value_set=backwards)
    return known.take(pc.subtract(known.num_rows - 1, found))
