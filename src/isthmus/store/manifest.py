"""The store's tables and `store.json`: read with checks, replaced all at once.

Four files change together, with `isthmus.files.replaced_together`: old or new, never a mixture.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isthmus.data.encoder_record import check_count
from isthmus.errors import InputError
from isthmus.files import file_digest, locate, read_sealed, replaced_together, write_sealed
from isthmus.store.disk import write_parquet
from isthmus.store.journal import ENCODERS
from isthmus.store.journal import FOLDER as JOURNAL
from isthmus.store.keys import HASH_PATTERN
from isthmus.store.shards import MODALITIES

FORMAT = "isthmus-store/1"
STORE_JSON = "store.json"
SCHEMAS = {
    "images": pa.schema({name: pa.string() for name in ("id", "content_hash", "group", "split", "label", "signature")}),
    "captions": pa.schema(
        {
            "caption_id": pa.string(),
            "id": pa.string(),
            "caption": pa.large_string(),  # more than 2 GiB of captions fit in one column
            "lang": pa.string(),
            "content_hash": pa.string(),
        }
    ),
    "skipped": pa.schema({"id": pa.string(), "reason": pa.string()}),
}
_REQUIRED = {
    "images": ("id", "content_hash"),
    "captions": ("caption_id", "id", "content_hash"),
    "skipped": ("id", "reason"),
}
_KEY = {"images": "id", "captions": "caption_id"}
_RECORD = {"modality": str, "uri": str, "fingerprint": str, "width": int, "parts": list}


def empty(table: str) -> pa.Table:
    """An empty images, captions or skipped table."""
    return SCHEMAS[table].empty_table()


@dataclass
class Manifest:
    """What a store says it holds: the records of its encoders, and three tables.

    images: id, content_hash, group, split, label, signature.
    captions: caption_id, id, caption, lang, content_hash.
    skipped: id, reason.
    """

    encoders: list[dict[str, Any]] = field(default_factory=list)
    images: pa.Table = field(default_factory=lambda: empty("images"))
    captions: pa.Table = field(default_factory=lambda: empty("captions"))
    skipped: pa.Table = field(default_factory=lambda: empty("skipped"))


def is_store(root: Path) -> bool:
    """Whether `root` holds a finished store."""
    return locate(root, STORE_JSON).is_file()


def is_unfinished(root: Path) -> bool:
    """Whether the first run that was to make a store of `root` was interrupted: it has noted its encoders, no more."""
    return not is_store(root) and (root / JOURNAL / ENCODERS).is_file()


def read_store_json(root: Path) -> dict[str, Any]:
    """`store.json`, its format and its encoder records checked."""
    path = locate(root, STORE_JSON)
    described = read_sealed(path)
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        found = described.get("format") if isinstance(described, dict) else None
        raise InputError(f"{path}: format {found!r}, this version of isthmus reads {FORMAT!r}.")
    if not isinstance(described.get("encoders"), list) or not isinstance(described.get("tables"), dict):
        raise InputError(f"{path}: no list of encoders or no tables; the file was changed by hand.")
    check_count(path, described["encoders"])
    for record in described["encoders"]:
        check_record(record, path)
    for name in SCHEMAS:
        table = described["tables"].get(name)
        if not isinstance(table, dict) or not {"rows", "digest"} <= set(table):
            raise InputError(f"{path}: no rows or digest of the table {name!r}; the file was changed by hand.")
    return described


def check_record(record: Any, where: Path) -> None:
    """An `InputError` if an encoder record lacks a field, or its fingerprint could name another folder."""
    if not isinstance(record, dict):
        raise InputError(f"{where}: an encoder record is {record!r}, not a table of fields.")
    for name, kind in _RECORD.items():
        if not isinstance(record.get(name), kind):
            raise InputError(f"{where}: an encoder record has {name} = {record.get(name)!r}, not a {kind.__name__}.")
    if record["modality"] not in MODALITIES or not re.fullmatch("[0-9a-f]{64}", record["fingerprint"]):
        raise InputError(f"{where}: {record['uri']}: modality or fingerprint is malformed.")
    if not all(isinstance(part, int) and part > 0 for part in record["parts"]):
        raise InputError(f"{where}: {record['uri']}: parts {record['parts']} are not widths.")
    if sum(record["parts"]) != record["width"]:
        raise InputError(f"{where}: {record['uri']}: parts {record['parts']} do not sum to width {record['width']}.")


def read_manifest(root: Path) -> Manifest:
    """Everything but the features; see `read_store_json` and `read_table` for what is checked."""
    described = read_store_json(root)
    tables = {name: read_table(root, name, described) for name in SCHEMAS}
    return Manifest(described["encoders"], **tables)


def read_table(root: Path, name: str, described: dict[str, Any]) -> pa.Table:
    """One of the tables, its digest, columns, ids, hashes and number of rows checked.

    Raises:
        InputError: unreadable, not what was written, a column missing, a null or malformed hash, a repeated
            id, or another number of rows than `store.json` says.
    """
    path = locate(root, f"{name}.parquet")
    try:
        if file_digest(path) != described["tables"][name]["digest"]:
            raise InputError(
                f"{path}: damaged, or changed since isthmus wrote it. Restore it from a copy, or delete {STORE_JSON} "
                "and run the same `isthmus embed` again: features are kept."
            )
        table = conform(pq.read_table(path), name, path)
    except FileNotFoundError:
        raise InputError(f"{path}: missing. `isthmus doctor {root}` says what can be saved.") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({error}).") from None
    rows = described["tables"][name]["rows"]
    if table.num_rows != rows:
        raise InputError(f"{path}: {table.num_rows:,} rows where store.json says {rows}: it was changed or replaced.")
    return table


def conform(table: pa.Table, name: str, where: Path | str) -> pa.Table:
    """`table` with exactly the columns of its schema (optional ones filled with null), checked."""
    for column in _REQUIRED[name]:
        if column not in table.column_names:
            raise InputError(f"{where}: no column {column!r}.")
        if table[column].null_count:
            raise InputError(f"{where}: column {column!r} holds nulls.")
    missing = pa.nulls(table.num_rows)
    columns = [(table[f.name] if f.name in table.column_names else missing).cast(f.type) for f in SCHEMAS[name]]
    table = pa.table(columns, schema=SCHEMAS[name])
    if name in _KEY:
        _check_keys(table, _KEY[name], where)
    return table


def _check_keys(table: pa.Table, key: str, where: Path | str) -> None:
    if pc.count_distinct(table[key]).as_py() != table.num_rows:
        counts = pc.value_counts(table[key])
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")[0].as_py()
        raise InputError(f"{where}: {key} {twice!r} stands more than once.")
    if not pc.all(pc.match_substring_regex(table["content_hash"], HASH_PATTERN), min_count=0).as_py():
        raise InputError(f"{where}: a content_hash is not 32 hex digits.")


def commit(root: Path, manifest: Manifest) -> None:
    """Replace the tables and `store.json`, all or none."""
    with replaced_together(root) as aside:
        described: dict[str, Any] = {"format": FORMAT, "encoders": manifest.encoders, "tables": {}}
        for name in SCHEMAS:
            table, path = getattr(manifest, name), aside / f"{name}.parquet"
            write_parquet(table, path)
            described["tables"][name] = {"rows": table.num_rows, "digest": file_digest(path)}
        write_sealed(aside / STORE_JSON, described)
