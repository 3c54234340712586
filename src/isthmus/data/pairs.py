"""Pairs: images with one or more captions each, each with an id, read on demand from where they are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isthmus.data import tables, webdataset
from isthmus.data.captions_json import read_json_file, read_json_lines
from isthmus.data.captions_text import read_text_table
from isthmus.data.cells import is_inline
from isthmus.data.columns import Columns, parse_columns
from isthmus.data.delimited import read_delimited
from isthmus.data.feature_pairs import SIDES
from isthmus.data.folders import read_folder
from isthmus.data.frames import by_caption
from isthmus.data.gathering import Gathered, Reading
from isthmus.data.images import MAX_PIXELS, OUT_OF_MEMORY, BadImage, content_hash, decode, parse_range
from isthmus.data.pages import with_pages
from isthmus.data.records import CaptionRule, Intake
from isthmus.data.sources import ImageSource, Items
from isthmus.data.splits import normalise_split
from isthmus.data.text import PACKED, bare_name, packing
from isthmus.errors import BadFile, InputError, UsageError
from isthmus.modality import Modality, spec_of, table_of
from isthmus.owned import what_it_is
from isthmus.report.notebook import grid
from isthmus.report.page import Picture

READERS: dict[str, Callable[[Path, Gathered], None]] = {
    ".parquet": tables.read_file_of_columns,
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".tab": read_delimited,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".jsonlines": read_json_lines,
    ".json": read_json_file,
    ".arrow": tables.read_file_of_columns,
    ".feather": tables.read_file_of_columns,
    ".txt": read_text_table,
    ".token": read_text_table,
}
READING = ("columns", "images", "pages", "range")  # options that apply only while reading
GRID = 12  # pictures that a notebook shows
REMARKS = 1_000  # most images that are counted for one remark


class Pairs:
    """Images and captions joined by id. Image bytes stay where they are until `read_bytes`.

    Pairs without images have items of another modality in their place, which are called images here all the same.

    modality: what `images` are of. others: by modality, the items of further ones, as `Pairs` without captions whose
              table has the id of the sample in `sample`; see `side`.
    images:   table of id, group, split, label (strings, all but id may be null) and source (int64, the
              image's number in `reader`); of another modality also part (JSON, which part of the file it is).
    captions: table of caption_id (`id#k`, k-th caption of the image as written), id, caption, lang, and answers where
        any is a question that has some (`isthmus.data.answers`).
    skipped:  (id, reason) of images and captions left out while reading; an id with `#k` is a caption's.
    notes:    remarks for the user, such as columns that are not used; remarks on pictures are added as they are
              decoded.
    class_folders: the folders that labels come from, sorted; empty if labels do not come from folders.
    """

    def __init__(
        self,
        images: pa.Table,
        captions: pa.Table,
        reader: ImageSource,
        *,
        path: Path | None = None,
        skipped: Sequence[tuple[str, str]] = (),
        notes: Sequence[str] = (),
        max_pixels: int = MAX_PIXELS,
        range: tuple[float, float] | None = None,
        class_folders: Sequence[str] = (),
        modality: Modality = SIDES[0],
        others: Mapping[Modality, Pairs] | None = None,
    ) -> None:
        self.images, self.captions, self.reader = images, captions, reader
        self.modality, self.others = modality, dict(others or {})
        self.path, self.skipped, self.max_pixels, self.range = path, list(skipped), max_pixels, range
        self.class_folders = list(class_folders)
        self._notes = list(notes)
        self._remarks: dict[str, set[str]] = {}
        self._source, self._part = images["source"].to_numpy(), _parts(images)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        named = [name for name in ("split", "label", "group") if self.images[name].null_count < len(self)]
        more = f", with {', '.join(named)}" if named else ""
        lacking = f"; {len(self.skipped):,} skipped" if self.skipped else ""
        of = "" if self.path is None else f"{str(self.path)!r}: "
        return f"Pairs({of}{len(self):,} images, {len(self.captions):,} captions{more}{lacking})"

    def _repr_html_(self) -> str:
        """The first pictures with their captions, for notebooks."""
        return grid(repr(self), [self._shown(row) for row in range(min(len(self), GRID))])

    def _shown(self, row: int) -> Picture | str:
        id, captions = self.images["id"][row].as_py(), self._captions(row)
        if self.modality != SIDES[0]:
            return id
        try:
            return Picture(self.decode(row), captions[0] if captions else id)
        except BadImage as error:
            return f"{id}: {error.reason}"

    def _captions(self, row: int) -> list[str]:
        own = pc.equal(self.captions["id"], self.images["id"][row])
        return self.captions["caption"].filter(own).to_pylist()

    @overload
    def __getitem__(self, row: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, row: slice) -> Pairs: ...

    def __getitem__(self, row: int | slice) -> dict[str, Any] | Pairs:
        """One image, decoded, with what is known of it: id, image (PIL), captions, split, label, group; a slice of
        pairs is pairs. Raises `BadImage` for one that cannot be read.
        """
        if isinstance(row, slice):
            return self._where(pa.chunked_array([pa.array(np.isin(np.arange(len(self)), np.arange(len(self))[row]))]))
        row = range(len(self))[row]  # IndexError, and numbers from the end
        known = {name: self.images[name][row].as_py() for name in ("id", "split", "label", "group")}
        return {"id": known.pop("id"), "image": self.decode(row), "captions": self._captions(row), **known}

    def to_pandas(self) -> Any:
        """A pandas data frame with a row per caption: id, caption, lang, split, label, group."""
        return by_caption(self.images, self.captions)

    @property
    def modalities(self) -> list[Modality]:
        """Those whose items are files, that of `images` first."""
        return [self.modality, *self.others]

    def side(self, modality: Modality) -> Pairs:
        """The items of one modality as `images`. Raises `UsageError` where there are none."""
        if modality == self.modality:
            return self
        if modality not in self.others:
            held = " and ".join(map(table_of, [*self.modalities, SIDES[1]]))
            raise UsageError(f"{self.path or 'These pairs'}: hold {held}, nothing of modality {modality}.")
        return self.others[modality]

    @property
    def samples(self) -> list[str]:
        """The id of the sample that each image is of: its own, but for items of a further modality."""
        name = "sample" if "sample" in self.images.column_names else "id"
        return self.images[name].to_pylist()

    @property
    def notes(self) -> list[str]:
        """Remarks on the data as it was read, then on the pictures that have been decoded so far."""
        decoded = [
            f"{len(known):,}{' or more' if len(known) == REMARKS else ''} {table_of(self.modality)} are {remark}; the "
            f"first: {min(known)}."
            for remark, known in sorted(self._remarks.items())
        ]
        return self._notes + decoded

    def read_bytes(self, row: int) -> bytes:
        """The encoded image (JPEG, PNG, …) of a row. Thread-safe. Raises `BadImage`."""
        return self.reader.read(int(self._source[row]))

    def signatures(self) -> list[str | None]:
        """A string per image that changes when its file changes, so that a later run need not read the file again."""
        found = [self.reader.signature(index) for index in self._source.tolist()]
        how = [self._how(row) for row in range(len(self))]
        return [one if told is None else one and f"{one}:{told}" for one, told in zip(found, how, strict=True)]

    def content_hash(self, data: bytes, row: int) -> str:
        """What tells the picture in `data`, the bytes of a row, from others, given how it is decoded here."""
        how = self._how(row)
        return content_hash(data if how is None else data + how.encode())

    def _how(self, row: int) -> str | None:
        """What, besides its bytes, decides what a row is: the range of its grey, or which part of the file."""
        return self._part[row] if self._part is not None else None if self.range is None else repr(self.range)

    def decode(self, row: int) -> Any:
        """The image of a row as 8-bit RGB (`isthmus.data.images.decode`). Raises `BadImage`."""
        return self.picture(row, self.read_bytes(row))

    def picture(self, row: int, data: bytes) -> Any:
        """The picture in the bytes of a row, as `decode` gives it. Raises `BadImage`."""

        if self.modality != SIDES[0]:
            return self._item(row, data)

        def remark(text: str) -> None:
            known = self._remarks.setdefault(text, set())
            if len(known) < REMARKS:
                known.add(self.images["id"][row].as_py())

        return decode(data, max_pixels=self.max_pixels, range=self.range, remark=remark)

    def _item(self, row: int, data: bytes) -> Any:
        """An item of another modality, which that one's own code decodes: it may raise anything."""
        decode_item = spec_of(self.modality).decode
        assert decode_item is not None
        part = self._part[row] if self._part is not None else None
        try:
            return decode_item(data, **(json.loads(part) if part else {}))
        except (BadImage, UsageError):  # one item is bad, or all would be: what decodes them is not installed
            raise
        except MemoryError:
            raise BadImage(OUT_OF_MEMORY) from None
        except Exception as error:
            raise BadImage(f"damaged {self.modality}: {error or type(error).__name__}") from error

    def subset(self, ids: Iterable[str]) -> Pairs:
        """The images with these ids and their captions, in the order they have here."""
        wanted = pa.array(dict.fromkeys(ids), pa.string())
        missing = pc.filter(wanted, pc.invert(pc.is_in(wanted, self.images["id"])))
        if len(missing):
            first = missing[0].as_py()
            raise InputError(f"{self.path} lacks {len(missing)} of these ids, the first is {first!r}.")
        return self._where(pc.is_in(self.images["id"], wanted))

    def filter(self, *, split: str) -> Pairs:
        """The images of one split (train, val or test), as their `split` column says."""
        rows = pc.equal(self.images["split"], normalise_split(split)).fill_null(False)
        if not pc.any(rows).as_py():
            there = ", ".join(sorted(set(self.images["split"].drop_null().to_pylist())))
            remedy = "" if there else " `isthmus embed --test 0.2` makes a store that has one: evaluate on that."
            raise InputError(f"{self.path}: no image of split {split!r}; splits are: {there or 'none'}.{remedy}")
        return self._where(rows)

    def _where(self, rows: pa.ChunkedArray) -> Pairs:
        images = self.images.filter(rows)
        found = self.having(images, self.captions.filter(pc.is_in(self.captions["id"], images["id"])))
        kept = images["id"].combine_chunks()
        chosen = {name: one.images.filter(pc.is_in(one.images["sample"], kept)) for name, one in self.others.items()}
        found.others = {name: one.having(chosen[name]) for name, one in self.others.items()}
        return found

    def having(self, images: pa.Table, captions: pa.Table | None = None) -> Pairs:
        """These pairs with other tables of images and captions; the images are read and decoded as they are here."""
        pairs = copy(self)
        pairs.images, pairs._source = images, images["source"].to_numpy()
        pairs._part = _parts(images)
        pairs.captions = self.captions if captions is None else captions
        return pairs


def read_pairs(
    path: Any,
    *,
    split: str | None = None,
    captions: CaptionRule = "required",
    columns: str | Columns | None = None,
    images: str | os.PathLike[str] | None = None,
    pages: str | int | None = None,
    range: Any = None,
    max_pixels: int = MAX_PIXELS,
) -> Pairs:
    """Read pairs from a table, a folder or tars, in any of the forms of docs/formats.md.

    Table (Parquet, CSV, TSV, JSON Lines, JSON, Arrow, a data frame): `image` (a path relative to the table, or bytes),
    `caption` or `captions`; optional `id`, `lang`, `split`, `label`, `group`; other usual spellings are recognised,
    with a remark. Rows of one image are joined. Folder: images at any depth, captions in a `.txt` of the same stem, one
    per line; `metadata.jsonl` or `.csv`; Parquet files; class folders. Tars: one file, a folder, or a pattern
    (`{000..012}.tar`, `*.tar`). COCO's captions and Karpathy's splits as JSON. List: rows as in a table (mappings),
    (image, caption) pairs, or images alone; an image is a path, bytes, a PIL image or an array uint8 [H, W, 3]. The
    default id is the path as written, `shard/key` in tars, the row number for bytes and what is in memory.

    Args:
        split: keep only this one.
        captions: `"optional"` also takes images without any, as search does.
        columns: which column of a table is which field: `"image=filepath,caption=title"`, or such a mapping.
        images: the folder that a table's images are in, where that is not the table's own.
        pages: of TIFF files with several: "all", each an image with the id `id[page]`, or a number from 1; the first
            is the default.
        range: (black, white) of grey with more than 8 bits, as (0, 4095) for 12 bits in 16.
        max_pixels: larger images are bad images.

    Raises `InputError`, naming file and row, if the data cannot be used; single bad rows go to `.skipped`.
    An image that is missing or damaged shows when it is read. `UsageError` for an option that makes no sense.
    """
    into = Gathered.empty(Reading(captions, parse_columns(columns), images))
    values = parse_range(range)
    if isinstance(path, str | os.PathLike):
        path = os.fspath(path)
        _read(path, into)
    elif tables.is_frame(path):
        tables.read_frame(path, into)
    elif isinstance(path, list | tuple):
        tables.read_list(path, into)
    else:
        raise UsageError(f"Pairs are read from a path, a data frame or a list, not from a {type(path).__name__}.")
    found = gathered_pairs(path if isinstance(path, str) else "table", into)
    found.max_pixels, found.range = max_pixels, values
    if pages is not None:
        paged, texts, reader = with_pages(found.images, found.captions, found.reader, pages, max_pixels)
        found = found.having(paged, texts)
        found.reader = reader
    return found.filter(split=split) if split else found


def gathered_pairs(path: str, into: Gathered) -> Pairs:
    """The gathered rows as pairs. Raises `InputError` if nothing is left."""
    images, texts = into.intake.tables()
    skipped = into.intake.skipped
    if not len(images):
        why = f"nothing in it can be used; first problem: {': '.join(skipped[0])}" if skipped else "it is empty."
        raise InputError(f"{path}: {why}")
    if into.intake.joined:
        into.notes.append(f"{path}: {into.intake.joined:,} rows gave further captions to images of other rows.")
    where = Path(path)
    beside = {
        name: Pairs(table, texts.slice(0, 0), into.source_beside(name), path=where, modality=name)
        for name, table in into.intake.beside().items()
    }
    return Pairs(
        images,
        texts,
        into.source,
        path=where,
        skipped=skipped,
        notes=into.notes,
        class_folders=into.folders,
        modality=into.intake.modality or SIDES[0],
        others=beside,
    )


def _parts(images: pa.Table) -> list[str | None] | None:
    return images["part"].to_pylist() if "part" in images.column_names else None


def as_pairs(data: Any, **reading: Any) -> Pairs:
    """Pairs as they are, or read with the options of `read_pairs`. Raises `UsageError` for options of what is read."""
    if not isinstance(data, Pairs):
        return read_pairs(data, **reading)
    given = [name for name, value in reading.items() if value is not None and name in READING]
    if given:
        raise UsageError(f"{', '.join(given)}: options of reading pairs, but these are read already.")
    split = reading.get("split")
    return data if split is None else data.filter(split=split)


def pairs_from_lists(
    images: Sequence[Any],
    captions: Sequence[str | list[str]] | None = None,
    *,
    ids: Sequence[str] | None = None,
    langs: Sequence[str | list[str]] | None = None,
    modality: Modality = SIDES[0],
) -> Pairs:
    """Pairs from Python objects. Raises `InputError` if the lists differ in length.

    images: paths, bytes of image files, PIL images or uint8 arrays [H, W, 3]; of another `modality`, paths or bytes of
    its files; captions: one string or a list
    of strings for each image; ids: default the path, or the position for what has no path; langs: of each image's
    captions, one for all or a list.
    """
    images = list(images)
    captions = None if captions is None else list(captions)
    ids, langs = None if ids is None else list(ids), None if langs is None else list(langs)
    for name, values in (("captions", captions), ("ids", ids), ("langs", langs)):
        if values is not None and len(values) != len(images):
            raise InputError(f"{len(images)} images but {len(values)} {name}; every image needs its own.")
    intake = Intake("optional" if captions is None else "required")
    for row, image in enumerate(images):
        known = os.fspath(image) if isinstance(image, str | os.PathLike) else None
        texts = captions[row] if captions is not None else []
        fields: dict[str, Any] = {"captions": list(texts) if isinstance(texts, list | tuple) else [texts]}
        if ids is not None:
            fields["id"] = ids[row]
        if langs is not None:
            fields["lang"] = langs[row]
        default_id = known if known is not None and not is_inline(known) else str(row)
        intake.add(f"row {row}", fields, default_id=default_id, source=row, image=known)
    return Pairs(*intake.tables(), Items(images), skipped=intake.skipped, modality=modality)


def _read(path: str, into: Gathered) -> None:
    """A name with brackets or braces that exists as written is that file or folder, not a pattern."""
    here = Path(path)
    if here.is_dir():
        return read_folder(here, into)
    if here.exists():
        return _read_file(here, into)
    if not any(mark in path for mark in "{*?["):
        raise InputError(f"{path}: no such file or folder.")
    files, root = webdataset.find_files(path)
    if all(file.suffix.lower() == ".tar" for file in files):
        shards = {file.relative_to(root).with_suffix("").as_posix(): file for file in files}
        webdataset.read_tars(shards, into, webdataset.class_list(root, into))
    elif all(file.suffix.lower() == ".parquet" for file in files):
        tables.read_parts(files, root, into)
    else:
        for file in files:
            inside = file.parent.relative_to(root).as_posix()
            part = into.of(within="" if inside == "." else f"{inside}/", split=tables.split_of(file, root))
            try:
                _read_file(file, part)
            except BadFile as error:  # this one and, where it broke in its midst, the rest of it
                into.intake.skip(file.relative_to(root).as_posix(), str(error))
    return None


def _read_file(path: Path, into: Gathered) -> None:
    if not path.is_file():
        raise BadFile(f"{path}: {what_it_is(path)}, not a file.")
    name, packed = bare_name(path), packing(path)
    reader = READERS.get(Path(name).suffix)
    if name.endswith(".tar") and not packed:
        webdataset.read_tars({path.stem: path}, into, webdataset.class_list(path.parent, into))
    elif name.endswith((".tar", ".tgz")):
        raise InputError(f"{path}: a compressed tar cannot be read in place. Unpack it (gunzip).")
    elif packed and reader is tables.read_file_of_columns:
        raise InputError(f"{path}: only text is read packed. Unpack it; {Path(name).suffix} packs its columns itself.")
    elif reader is None:
        known = ", ".join([*READERS, ".tar"])
        raise InputError(
            f"{path}: not a table of pairs. Those are {known} files, texts also as {', '.join(PACKED)}, or a folder."
        )
    else:
        reader(path, into)
