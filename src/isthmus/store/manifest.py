"""The store's tables and `store.json`: read with checks, replaced all at once.

All files change together, with `isthmus.files.replaced_together`: all old or all new, never a mixture. A store of
images and captions and their pooled features is written in the first format, which older versions read; with tables of
further modalities or states of layers, it is in the second format.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from isthmus.data.encoder_record import check_count
from isthmus.data.parquet import DAMAGE, read_columns
from isthmus.data.records import ANSWERS
from isthmus.errors import InputError
from isthmus.files import file_digest, locate, read_sealed, replaced_together, write_sealed
from isthmus.modality import FIRST, table_of
from isthmus.store.disk import write_parquet
from isthmus.store.journal import ENCODERS
from isthmus.store.journal import FOLDER as JOURNAL
from isthmus.store.keys import HASH_PATTERN
from isthmus.store.shards import holds_states

FORMAT, EXTENDED = FORMATS = ("isthmus-store/1", "isthmus-store/2")
STORE_JSON = "store.json"
MODALITY = re.compile("[a-z][a-z0-9_]{0,31}")
SCHEMAS = {
    "images": pa.schema({name: pa.string() for name in ("id", "content_hash", "group", "split", "label", "signature")}),
    "captions": pa.schema(
        {
            "caption_id": pa.string(),
            "id": pa.string(),
            "caption": pa.large_string(),  # more than 2 GiB of captions fit in one column
            "lang": pa.string(),
            "content_hash": pa.string(),
            ANSWERS: pa.string(),  # written only where there are any: see isthmus.data.answers
        }
    ),
    "skipped": pa.schema({"id": pa.string(), "reason": pa.string()}),
}
ITEMS = pa.schema(  # of a modality that is neither image nor text
    {name: pa.string() for name in ("item_id", "id", "content_hash", "group", "split", "label", "signature")}
)
_REQUIRED = {
    "images": ("id", "content_hash"),
    "captions": ("caption_id", "id", "content_hash"),
    "skipped": ("id", "reason"),
}
_KEY = {"images": "id", "captions": "caption_id", "skipped": None}
_RECORD = {"modality": str, "uri": str, "fingerprint": str, "width": int, "parts": list}


def empty(table: str) -> pa.Table:
    """An empty images, captions or skipped table."""
    return SCHEMAS[table].empty_table()


@dataclass
class Manifest:
    """The contents of a store: the records of its encoders, and three tables.

    images: id, content_hash, group, split, label, signature.
    captions: caption_id, id, caption, lang, content_hash, answers.
    skipped: id, reason.
    others: by modality, the tables of the rest: item_id, id, content_hash, group, split, label, signature. Rows with
        the same id, in any table, belong to one sample.
    """

    encoders: list[dict[str, Any]] = field(default_factory=list)
    images: pa.Table = field(default_factory=lambda: empty("images"))
    captions: pa.Table = field(default_factory=lambda: empty("captions"))
    skipped: pa.Table = field(default_factory=lambda: empty("skipped"))
    others: dict[str, pa.Table] = field(default_factory=dict)

    def table(self, modality: str) -> pa.Table:
        """The items of a modality; an empty table if the store has none."""
        name = table_of(modality)
        return getattr(self, name) if name in SCHEMAS else self.others.get(modality, ITEMS.empty_table())

    def modalities(self) -> list[str]:
        """Those that have tables."""
        return [*FIRST, *sorted(self.others)]

    def tables(self) -> dict[str, pa.Table]:
        """Every table by the name of its file."""
        return {name: getattr(self, name) for name in SCHEMAS} | dict(sorted(self.others.items()))


def schema_of(table: str) -> pa.Schema:
    """Of a table by its name."""
    return SCHEMAS.get(table, ITEMS)


def check_modality(name: Any, where: Path | str) -> None:
    """An `InputError` unless this is a valid name of a modality; files and folders are named after it."""
    if not isinstance(name, str) or not MODALITY.fullmatch(name) or name in SCHEMAS:
        raise InputError(f"{where}: {name!r} cannot name a modality: small letters, digits and _, at most 32.")


def is_store(root: Path) -> bool:
    """Whether `root` holds a finished store."""
    return locate(root, STORE_JSON).is_file()


def is_unfinished(root: Path) -> bool:
    """Whether `root` was to become a store but its first run was interrupted after recording its encoders."""
    return not is_store(root) and (root / JOURNAL / ENCODERS).is_file()


def read_store_json(root: Path) -> dict[str, Any]:
    """`store.json`, its format and its encoder records checked."""
    path = locate(root, STORE_JSON)
    described = read_sealed(path)
    if not isinstance(described, dict) or described.get("format") not in FORMATS:
        found = described.get("format") if isinstance(described, dict) else None
        raise InputError(f"{path}: format {found!r}, this version of isthmus reads {' and '.join(map(repr, FORMATS))}.")
    if not isinstance(described.get("encoders"), list) or not isinstance(described.get("tables"), dict):
        raise InputError(f"{path}: no list of encoders or no tables; the file was changed by hand.")
    check_count(path, described["encoders"])
    for record in described["encoders"]:
        check_record(record, path)
    for name in other_tables(described):
        check_modality(name, path)
    for name in [*SCHEMAS, *other_tables(described)]:
        table = described["tables"].get(name)
        if not isinstance(table, dict) or not {"rows", "digest"} <= set(table):
            raise InputError(f"{path}: no rows or digest of the table {name!r}; the file was changed by hand.")
    return described


def other_tables(described: dict[str, Any]) -> list[str]:
    """The tables that `store.json` names besides those which every store has."""
    return [name for name in described["tables"] if name not in SCHEMAS]


def check_record(record: Any, where: Path) -> None:
    """An `InputError` if an encoder record lacks a field, or if its fingerprint could name another folder."""
    if not isinstance(record, dict):
        raise InputError(f"{where}: an encoder record is {record!r}, not a table of fields.")
    for name, kind in _RECORD.items():
        if not isinstance(record.get(name), kind):
            raise InputError(f"{where}: an encoder record has {name} = {record.get(name)!r}, not a {kind.__name__}.")
    if not MODALITY.fullmatch(record["modality"]) or not re.fullmatch("[0-9a-f]{64}", record["fingerprint"]):
        raise InputError(f"{where}: {record['uri']}: modality or fingerprint is malformed.")
    if not all(isinstance(part, int) and part > 0 for part in record["parts"]):
        raise InputError(f"{where}: {record['uri']}: parts {record['parts']} are not widths.")
    if sum(record["parts"]) != record["width"]:
        raise InputError(f"{where}: {record['uri']}: parts {record['parts']} do not sum to width {record['width']}.")


def read_manifest(root: Path) -> Manifest:
    """Everything but the features; see `read_store_json` and `read_table` for what is checked."""
    described = read_store_json(root)
    tables = {name: read_table(root, name, described) for name in SCHEMAS}
    others = {name: read_table(root, name, described) for name in other_tables(described)}
    return Manifest(described["encoders"], **tables, others=others)


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
        table = conform(read_columns(path, schema_of(name).names), name, path)
    except FileNotFoundError:
        raise InputError(f"{path}: missing. `isthmus doctor {root}` says what can be saved.") from None
    except (KeyError, *DAMAGE) as error:  # KeyError: a column that stands there twice
        raise InputError(f"{path}: cannot be read as Parquet ({error}).") from None
    rows = described["tables"][name]["rows"]
    if table.num_rows != rows:
        raise InputError(f"{path}: {table.num_rows:,} rows where store.json says {rows}: it was changed or replaced.")
    return table


def conform(table: pa.Table, name: str, where: Path | str) -> pa.Table:
    """`table` with exactly the columns of its schema (optional ones filled with null), checked."""
    schema = schema_of(name)
    for column in _REQUIRED.get(name, ("item_id", "id", "content_hash")):
        if column not in table.column_names:
            raise InputError(f"{where}: no column {column!r}.")
        if table[column].null_count:
            raise InputError(f"{where}: column {column!r} holds nulls.")
    missing = pa.nulls(table.num_rows)
    columns = [(table[f.name] if f.name in table.column_names else missing).cast(f.type) for f in schema]
    table = pa.table(columns, schema=schema)
    key = _KEY.get(name, "item_id")
    if key:
        _check_keys(table, key, where)
    return table


def _check_keys(table: pa.Table, key: str, where: Path | str) -> None:
    if pc.count_distinct(table[key]).as_py() != table.num_rows:
        counts = pc.value_counts(table[key])
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")[0].as_py()
        raise InputError(f"{where}: {key} {twice!r} is there more than once.")
    if not pc.all(pc.match_substring_regex(table["content_hash"], HASH_PATTERN), min_count=0).as_py():
        raise InputError(f"{where}: a content_hash is not 32 hex digits.")


def commit(root: Path, manifest: Manifest) -> None:
    """Replace the tables and `store.json`, all or none."""
    with replaced_together(root) as aside:
        extended = manifest.others or any(map(holds_states, manifest.encoders))
        form = EXTENDED if extended else FORMAT
        described: dict[str, Any] = {"format": form, "encoders": manifest.encoders, "tables": {}}
        for name, table in manifest.tables().items():
            if ANSWERS in table.column_names and table[ANSWERS].null_count == table.num_rows:
                table = table.drop_columns(ANSWERS)
            path = aside / f"{name}.parquet"
            write_parquet(table, path)
            described["tables"][name] = {"rows": table.num_rows, "digest": file_digest(path)}
        write_sealed(aside / STORE_JSON, described)
