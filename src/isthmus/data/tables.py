"""Tables of columns: Parquet (one file or many), Arrow, data frames, and what Hugging Face `datasets` saves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from isthmus.data.arrow import ArrowTable
from isthmus.data.cells import is_inline
from isthmus.data.columns import Columns
from isthmus.data.gathering import Gathered, GatheredRow, is_path
from isthmus.data.parquet import DAMAGE, is_text, value_type
from isthmus.data.records import MAX_CAPTION, Intake
from isthmus.data.sources import ARROW, FileColumn, ImageColumn, TableFile, open_table
from isthmus.data.splits import SYNONYMS
from isthmus.errors import BadFile, InputError
from isthmus.files import read_json
from isthmus.modality import others

BATCH = 1024  # rows of a Parquet table in memory as Python objects
MAX_CELL = 4 * MAX_CAPTION  # bytes


def read_file_of_columns(path: Path, into: Gathered) -> None:
    """A Parquet, Arrow or Feather file. Images given as bytes stay in the file until they are read."""
    try:
        _file(path, into)
    except DAMAGE as error:
        raise BadFile(f"{path}: cannot be read as {_kind(path)} ({error}).") from None


def _kind(path: Path) -> str:
    return "an Arrow stream" if path.suffix.lower() in ARROW else "Parquet"


def read_parts(paths: Sequence[Path], folder: Path, into: Gathered) -> None:
    """Parquet files that are parts of one table. The columns of each are checked; one that is damaged is listed.

    Pictures without an id have `file/row`. The split is that of a file's name (`train-00000-of-00002.parquet`) or
    folder, unless a column says it.
    """
    notes, into.notes = into.notes, []
    for path in paths:
        part = into.of(split=split_of(path, folder))
        try:
            _file(path, part, path.relative_to(folder).with_suffix("").as_posix())
        except (BadFile, *DAMAGE) as error:
            into.intake.skip(path.relative_to(folder).as_posix(), f"cannot be read as Parquet ({error}).")
        into.notes += [note.replace(str(path), str(folder)) for note in part.notes[len(into.notes) :]]
    into.notes = notes + list(dict.fromkeys(into.notes))


def split_of(path: Path, folder: Path) -> str | None:
    """The split in a file's name or in the folders below `folder`, by Hugging Face's conventions."""
    relative = path.relative_to(folder)
    words = [re.split(r"[-_.]", path.name.lower())[0], *(part.lower() for part in relative.parts[:-1])]
    return next((word for word in words if word in SYNONYMS), None)


def _file(path: Path, into: Gathered, part: str = "") -> None:
    """One file. part: its name, where it is one of several: then damage that shows only in its midst is listed."""
    table, reading = open_table(path), into.reading
    columns, notes = into.find_columns(path, table.schema.names)
    into.notes += notes
    image = columns["image"]
    in_file = {name: columns[name] for name in ("image", *others()) if name in columns}
    in_file = {name: column for name, column in in_file.items() if _holds_pictures(table, column)}
    fields = {name: column for name, column in columns.items() if name not in in_file}
    rows: Iterator[Any] = enumerate(into.fields(record, columns) for record in _records(table, fields))
    if part:
        rows = _until_damaged(rows, into.intake, part)
    if in_file:
        within = f"{part}/" if part else reading.within
        stored = {name: FileColumn(path, column, into.places(path)) for name, column in in_file.items()}
        first = stored.pop("image", None) or FileColumn(path, image, into.places(path))
        into.of(within=within).numbered(f"{path}: row", rows, first, stored)
    else:
        folder = part.rpartition("/")[0]
        into.of(within=f"{folder}/" if folder else reading.within).rows(f"{path}: row", rows, into.places(path))


def _until_damaged(records: Iterator[Any], intake: Intake, name: str) -> Iterator[Any]:
    """The rows before any damage; the damage is listed."""
    try:
        yield from records
    except (BadFile, *DAMAGE) as error:
        intake.skip(name, f"the rest of it cannot be read ({error}).")


def _records(table: TableFile, fields: Columns) -> Iterator[GatheredRow]:
    """The rows. Texts are read as dictionaries: a text that the file holds once must not fill the memory."""
    columns = list(dict.fromkeys(fields.values()))
    classes = class_names(table.schema, fields)
    for batch in table.slices(columns, BATCH) if columns else ():
        for name in columns:
            _check_lengths(table.path, name, batch[name])
        yield from (named_label(record, classes, fields) for record in batch.to_pylist())
    if not columns:  # nothing but images
        yield from ({} for _ in range(len(table)))


def _check_lengths(path: Path, name: str, column: pa.Array) -> None:
    values = column.dictionary if pa.types.is_dictionary(column.type) else column
    if pa.types.is_string_view(values.type):
        values = values.cast(pa.large_string())
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        longest = pc.max(pc.binary_length(values)).as_py() or 0
        first = values[int(pc.index(pc.binary_length(values), longest).as_py())].as_py() if longest > MAX_CELL else ""
        if longest > MAX_CELL and not first.startswith(("data:", "/9j/", "iVBOR")):  # a picture in base64
            raise InputError(f"{path}: column {name!r} has a cell of {longest:,} bytes, more than {MAX_CELL:,}.")


def read_saved_dataset(folder: Path, into: Gathered) -> None:
    """What `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote: Arrow files, memory-mapped; a damaged one is
    listed, and rows are numbered on without it.

    The splits of a `DatasetDict` become the split of their rows, unless there is a `split` column.
    """
    notes: dict[str, None] = {}
    for split, file in saved_files(folder):
        name = file.relative_to(folder).as_posix()
        try:
            table = ArrowTable(file)
            columns, remarks = into.find_columns(file, table.schema.names)
            _saved_part(folder, name, table, columns, into.of(split=split))
            notes |= dict.fromkeys(remark.replace(str(file), str(folder)) for remark in remarks)
        except (BadFile, *DAMAGE) as error:
            into.intake.skip(name, f"cannot be read as an Arrow stream ({error}).")
    into.notes += notes


def _saved_part(folder: Path, name: str, table: ArrowTable, columns: Columns, into: Gathered) -> None:
    kept = {field: columns[field] for field in ("image", *others()) if field in columns}
    sources = {field: _saved_column(table, column, into) for field, column in kept.items()}
    fields = {field: column for field, column in columns.items() if field not in kept}
    records = enumerate(into.fields(record, fields) for record in _records(table, fields))
    rows = _until_damaged(records, into.intake, name)
    into.numbered(f"{folder}: row", rows, sources.pop("image"), sources, begin=into.first)


def _saved_column(table: ArrowTable, column: str, into: Gathered) -> FileColumn | ImageColumn:
    """A column of pictures, which stay in the file, or of paths."""
    if _holds_bytes(table.path, table.schema.field(column).type, column):
        return FileColumn(table.path, column, into.places(table.path))
    paths = [path for part in table.slices([column]) for path in part.column(0).to_pylist()]
    return ImageColumn(pa.array(paths, pa.large_string()), into.places(table.path))


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


class Frame(Protocol):
    """A table in memory: pandas', polars', Arrow's, or a `datasets.Dataset`."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def is_frame(data: Any) -> bool:
    """Whether this is a table in memory, a `Frame`."""
    return isinstance(data, pa.Table) or (
        (hasattr(data, "columns") or hasattr(data, "column_names"))
        and (hasattr(data, "to_dict") or hasattr(data, "to_dicts"))
    )


def read_frame(data: Any, into: Gathered) -> None:
    """A table in memory. Paths are relative to the working folder."""
    if hasattr(data, "features") and hasattr(data, "with_format"):  # a datasets.Dataset
        data = data.with_format("arrow")[:].replace_schema_metadata(data.features.arrow_schema.metadata)
    _read_rows(Path("table"), *_frame_rows(data), data.schema if isinstance(data, pa.Table) else None, into)


def read_list(items: Sequence[Any], into: Gathered) -> None:
    """A list: rows as mappings, (image, caption or captions) pairs, or images alone. Paths are relative to the working
    folder.
    """
    if not items:
        raise InputError("The list is empty: there are no pairs.")
    rows = [_listed_row(item) for item in items]
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    _read_rows(Path("table"), names, iter(rows), None, into)


def _listed_row(item: Any) -> GatheredRow:
    if isinstance(item, Mapping):
        return dict(item)
    if isinstance(item, tuple | list) and len(item) == 2 and not isinstance(item[0], int):
        image, captions = item
        return {"image": image, "caption" if isinstance(captions, str | None) else "captions": captions}
    return {"image": item}


def _read_rows(
    path: Path, names: list[str], rows: Iterator[GatheredRow], schema: pa.Schema | None, into: Gathered
) -> None:
    columns, notes = into.find_columns(path, names)
    into.notes += notes
    classes = None if schema is None else class_names(schema, columns)
    records = enumerate(into.fields(named_label(record, classes, columns), columns) for record in rows)
    into.rows(f"{path}: row", records, into.places(path))


def _frame_rows(data: Any) -> tuple[list[str], Iterator[GatheredRow]]:
    if isinstance(data, pa.Table):
        return list(data.column_names), (row for batch in data.to_batches(BATCH) for row in batch.to_pylist())
    names = list(map(str, data.columns))
    if hasattr(data, "iter_rows"):  # polars
        return names, iter(data.iter_rows(named=True))
    return names, (dict(zip(names, row, strict=True)) for row in data.itertuples(index=False, name=None))


def _holds_bytes(path: Path, kind: pa.DataType, column: str) -> bool:
    """Whether a column holds the pictures themselves (bytes, Hugging Face's bytes and path, one in a list)."""
    value = value_type(kind)
    if is_text(value):
        return False
    if pa.types.is_binary(value) or pa.types.is_large_binary(value) or pa.types.is_binary_view(value):
        return True
    if pa.types.is_fixed_size_binary(value):
        return True
    if pa.types.is_list(value) or pa.types.is_large_list(value) or pa.types.is_fixed_size_list(value):
        if pa.types.is_uint8(value.value_type):
            return True
        _holds_bytes(path, value.value_type, column)
        return True  # of one picture, or it is a bad image when it is read
    if pa.types.is_struct(value) and {"bytes", "path"} & {field.name for field in value}:
        return True
    raise InputError(f"{path}: column `{column}` holds {kind}; it must hold paths or the bytes of files.")


def _holds_pictures(table: TableFile, column: str) -> bool:
    """Whether a column holds pictures, which stay in the file, and not paths; the first that is not null tells.

    Some writers leave paths as bytes, others pictures as text (base64).
    """
    kind = table.schema.field(column).type
    binary = _holds_bytes(table.path, kind, column)
    if pa.types.is_nested(value_type(kind)):
        return binary
    cell = table.first_value(column)
    if cell is None or not binary:
        return binary if cell is None else is_inline(cell)
    return not (0 < len(cell) < 4096 and is_path(cell))


def class_names(schema: pa.Schema, fields: Columns) -> list[str] | None:
    """The names behind integer labels, as Hugging Face `datasets` leaves them in the schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return list(features[fields["label"]]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def named_label(record: GatheredRow, classes: list[str] | None, fields: Columns) -> GatheredRow:
    """`record` with the name of its class in place of the class's number; -1, as Hugging Face has it, is none."""
    label = record.get(fields["label"]) if classes else None
    if not classes or not isinstance(label, int):
        return record
    if 0 <= label < len(classes):
        return record | {fields["label"]: classes[label]}
    return record | {fields["label"]: None} if label == -1 else record
