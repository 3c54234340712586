"""Tables of pairs: Parquet, CSV, TSV, JSON Lines, and the folders that Hugging Face `datasets` saves."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isthmus.data.budget import open_parquet, slices
from isthmus.data.records import FIELDS, MAX_CAPTION, Captions, Intake, encodable, text
from isthmus.data.sources import Column, ParquetColumn, Source
from isthmus.errors import InputError, did_you_mean
from isthmus.files import read_json

BATCH = 1024  # rows of a Parquet table in memory as Python objects
MAX_CELL = 4 * MAX_CAPTION  # bytes

Record = dict[str, Any]
Read = tuple[Intake, Source, list[str]]  # what was read, where its images are, remarks for the user


def read_parquet(path: Path, captions: Captions) -> Read:
    """A Parquet table. Images given as bytes stay in the file until they are read."""
    try:
        file = pq.ParquetFile(path)
        notes = check_columns(path, file.schema_arrow.names, captions)
        if holds_bytes(path, file.schema_arrow):
            intake = Intake(captions)
            add_records(intake, f"{path}: row", _records(path, file.schema_arrow, without="image"))
            return intake, ParquetColumn(path, "image"), notes
        intake, paths = with_paths(f"{path}: row", enumerate(_records(path, file.schema_arrow)), captions)
        return intake, Column(pa.array(paths, pa.string()), path.parent), notes
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # a text that is no UTF-8 shows when it is taken
        raise InputError(f"{path}: cannot be read as Parquet ({error}).") from None


def _records(path: Path, schema: pa.Schema, without: str | None = None) -> Iterator[Record]:
    """The rows. Texts are read as dictionaries: a text that the file holds once must not fill the memory."""
    columns = [name for name in schema.names if name in ("image", *FIELDS) and name != without]
    classes = class_names(schema)
    for batch in slices(path, columns, BATCH) if columns else ():
        for name in columns:
            _check_lengths(path, name, batch[name])
        yield from (named_label(record, classes) for record in batch.to_pylist())
    if not columns:  # nothing but images
        yield from ({} for _ in range(open_parquet(path).metadata.num_rows))


def _check_lengths(path: Path, name: str, column: pa.Array) -> None:
    values = column.dictionary if pa.types.is_dictionary(column.type) else column
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        longest = pc.max(pc.binary_length(values)).as_py() or 0
        if longest > MAX_CELL:
            raise InputError(f"{path}: column {name!r} has a cell of {longest:,} bytes, more than {MAX_CELL:,}.")


def read_saved_dataset(folder: Path, captions: Captions) -> Read:
    """What `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote: Arrow files, memory-mapped.

    The splits of a `DatasetDict` become the split of their rows, unless there is a `split` column.
    """
    intake, notes = Intake(captions), []
    cells: list[pa.Array] = []
    for split, file in saved_files(folder):
        table = read_arrow(file)
        notes = check_columns(file, table.column_names, captions)
        holds_bytes(file, table.schema)
        classes = class_names(table.schema)
        fields = table.select([name for name in table.column_names if name in FIELDS])
        records = (
            {"split": split} | named_label(record, classes)
            for batch in fields.to_batches()
            for record in batch.to_pylist()
        )
        add_records(intake, f"{folder}: row", records, first=sum(len(chunk) for chunk in cells))
        cells += table["image"].chunks
    return intake, Column(pa.chunked_array(cells or [pa.array([], pa.string())]), folder), notes


def saved_files(folder: Path) -> list[tuple[str | None, Path]]:
    """(split, Arrow file) of a saved `Dataset` (split None) or `DatasetDict`."""
    index = folder / "dataset_dict.json"
    try:
        splits = read_json(index)["splits"] if index.exists() else [None]
        found = []
        for split in splits:
            index = (folder / split if split else folder) / "state.json"
            found += [(split, index.parent / entry["filename"]) for entry in read_json(index)["_data_files"]]
        return found
    except (KeyError, TypeError):
        raise InputError(f"{index}: does not say which files belong to the saved dataset.") from None


def read_arrow(path: Path) -> pa.Table:
    """An Arrow stream file, memory-mapped."""
    try:
        return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read as an Arrow stream ({error}).") from None


def read_csv(path: Path, captions: Captions) -> Read:
    """A CSV file with a header line (TSV: tabs). Every cell is text: an id `007` stays `007`."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        return read_lines(path, _csv_records(path, file), captions)


def _csv_records(path: Path, file: Iterable[str]) -> Iterator[tuple[int, Record]]:
    reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    try:
        header = next(reader, [])
        for cells in reader:
            if cells and len(cells) != len(header):
                raise InputError(
                    f"{path}: line {reader.line_num} has {len(cells)} fields, the header {len(header)}. "
                    'A caption that holds a comma must be quoted: "a red, ripe apple".'
                )
            if cells:
                yield reader.line_num, dict(zip(header, cells, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        line = reader.line_num + 1
        raise InputError(f"{path}: line {line} or the next cannot be read as CSV ({error}).") from None


def read_jsonl(path: Path, captions: Captions) -> Read:
    """JSON Lines: one object per line."""
    with open(path, encoding="utf-8-sig") as file:
        return read_lines(path, _json_records(path, file), captions)


def _json_records(path: Path, file: Iterable[str]) -> Iterator[tuple[int, Record]]:
    line = 0
    try:
        for line, written in enumerate(file, 1):
            record = json.loads(written) if written.strip() else None
            if isinstance(record, dict):
                yield line, record
            elif written.strip():
                raise InputError(f"{path}: line {line} is not a JSON object, {{…}}.")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at line {line + 1} or soon after ({error}).") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: line {line} cannot be read as JSON ({error}).") from None


def read_lines(path: Path, records: Iterable[tuple[int, Record]], captions: Captions) -> Read:
    """Records of a text file, whose columns are known only once all of them have been read."""
    known: dict[str, None] = {}

    def noted() -> Iterator[tuple[int, Record]]:
        for line, record in records:
            known.update(dict.fromkeys(record))
            yield line, record

    intake, paths = with_paths(f"{path}: line", noted(), captions)
    if not known:
        raise InputError(f"{path}: the table is empty.")
    return (
        intake,
        Column(pa.array(paths, pa.string()), path.parent),
        check_columns(path, list(known), captions),
    )


def add_records(intake: Intake, place: str, records: Iterable[Record], first: int = 0) -> None:
    """Intake whose images are in the table itself: the id is the row number unless there is one."""
    for row, record in enumerate(records, first):
        intake.add(f"{place} {row}", record, default_id=str(row), source=row)


def with_paths(place: str, records: Iterable[tuple[int, Record]], captions: Captions) -> tuple[Intake, list[str]]:
    """Intake whose images are files: the id is the path as written unless there is one."""
    intake = Intake(captions)
    paths: list[str] = []
    for number, record in records:
        image, here = record.get("image"), f"{place} {number}"
        if image is not None and not isinstance(image, str):
            raise InputError(f"{here}: image is {type(image).__name__}, not a path.")
        if not image or not encodable(image):
            id = text(record.get("id"), here, "id")
            intake.skip(id or here, "no image in this row." if not image else "its path is not valid Unicode.")
            continue
        intake.add(here, record, default_id=image, source=len(paths))
        paths.append(image)
    return intake, paths


def check_columns(path: Path, names: list[str], captions: Captions) -> list[str]:
    """Refuse a table without the columns that are needed; return a remark on those that are not used."""
    if "image" not in names:
        raise InputError(f"{path}: no column `image`.{did_you_mean('image', names)}")
    if captions == "required" and not {"caption", "captions"} & set(names):
        raise InputError(f"{path}: no column `caption` or `captions`.{did_you_mean('caption', names)}")
    ignored = [name for name in names if name not in ("image", *FIELDS)]
    return [f"{path}: columns not used: {', '.join(ignored)}."] if ignored else []


def holds_bytes(path: Path, schema: pa.Schema) -> bool:
    """Whether column `image` holds the pictures themselves (bytes, or Hugging Face's bytes and path)."""
    kind = schema.field("image").type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return False
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    if pa.types.is_struct(kind) and {"bytes", "path"} & {field.name for field in kind}:
        return True
    raise InputError(f"{path}: column `image` holds {kind}; it must hold paths or the bytes of image files.")


def class_names(schema: pa.Schema) -> list[str] | None:
    """The names behind integer labels, as Hugging Face `datasets` leaves them in the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return list(features["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def named_label(record: Record, classes: list[str] | None) -> Record:
    """`record` with the name of its class in place of the class's number."""
    label = record.get("label")
    if classes and isinstance(label, int) and 0 <= label < len(classes):
        return record | {"label": classes[label]}
    return record
