"""Pairs: images with one or more captions each, every one with an id, read from wherever they are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from isthmus.data import tables, webdataset
from isthmus.data.images import EXTENSIONS, MAX_PIXELS, decode
from isthmus.data.records import Captions, Intake, encodable
from isthmus.data.sources import Column, Items, Source
from isthmus.data.splits import normalise_split
from isthmus.errors import InputError

READERS = {
    ".parquet": tables.read_parquet,
    ".csv": tables.read_csv,
    ".tsv": tables.read_csv,
    ".jsonl": tables.read_jsonl,
    ".ndjson": tables.read_jsonl,
}


class Pairs:
    """Images and captions joined by id. Image bytes stay where they are until `read_bytes`.

    images:   table of id, group, split, label (strings, all but id may be null) and source (int64, the
              image's number in `reader`).
    captions: table of caption_id (`id#k`, k-th caption of the image as written), id, caption, lang.
    skipped:  (id, reason) of images and captions left out while reading; an id with `#k` is a caption's.
    notes:    remarks for the user, such as columns that are not used.
    """

    def __init__(
        self,
        images: pa.Table,
        captions: pa.Table,
        reader: Source,
        *,
        path: Path | None = None,
        skipped: Sequence[tuple[str, str]] = (),
        notes: Sequence[str] = (),
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.images, self.captions, self.reader = images, captions, reader
        self.path, self.skipped, self.notes, self.max_pixels = path, list(skipped), list(notes), max_pixels
        self._source = images["source"].to_numpy()

    def __len__(self) -> int:
        return len(self.images)

    def read_bytes(self, row: int) -> bytes:
        """The encoded image (JPEG, PNG, …) of a row. Thread-safe. Raises `BadImage`."""
        return self.reader.read(int(self._source[row]))

    def signatures(self) -> list[str | None]:
        """A word per image that changes when its file does, so that a later run need not read it again."""
        return [self.reader.signature(index) for index in self._source.tolist()]

    def decode(self, row: int) -> Image.Image:
        """The image of a row as 8-bit RGB (`isthmus.data.images.decode`). Raises `BadImage`."""
        return decode(self.read_bytes(row), max_pixels=self.max_pixels)

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
            raise InputError(f"{self.path}: no image of split {split!r}; splits are: {there or 'none'}.")
        return self._where(rows)

    def _where(self, rows: pa.ChunkedArray) -> Pairs:
        images = self.images.filter(rows)
        captions = self.captions.filter(pc.is_in(self.captions["id"], images["id"]))
        return Pairs(
            images,
            captions,
            self.reader,
            path=self.path,
            skipped=self.skipped,
            notes=self.notes,
            max_pixels=self.max_pixels,
        )


def read_pairs(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    captions: Captions = "required",
    max_pixels: int = MAX_PIXELS,
) -> Pairs:
    """Read pairs from a table, a folder of images, WebDataset tars or a saved Hugging Face dataset.

    Table (`.parquet`, `.csv`, `.tsv`, `.jsonl`): `image` (a path relative to the table, or bytes), `caption`
    or `captions`; optional `id`, `lang`, `split`, `label`, `group`. Folder: images at any depth, captions in
    a `.txt` of the same stem, one per line. Tars: one file, a folder, or a pattern (`{000..012}.tar`,
    `*.tar`). The default id is the path as written, `shard/key` in tars, the row number for bytes.

    split: keep only this one. captions: `"optional"` also takes images without any, as search does.
    Raises `InputError`, naming file and row, if the data cannot be used; single bad rows go to `.skipped`.
    An image that is missing or damaged shows when it is read.
    """
    path = os.fspath(path)
    intake, reader, notes = _read(path, captions)
    images, texts = intake.tables()
    if not len(images):
        why = f"nothing of it can be used, beginning with {': '.join(intake.skipped[0])}" if intake.skipped else ""
        raise InputError(f"{path}: {why or 'it is empty.'}")
    pairs = Pairs(images, texts, reader, path=Path(path), skipped=intake.skipped, notes=notes, max_pixels=max_pixels)
    return pairs.filter(split=split) if split else pairs


def pairs_from_lists(
    images: Sequence[Any],
    captions: Sequence[str | list[str]] | None = None,
    *,
    ids: Sequence[str] | None = None,
    langs: Sequence[str | list[str]] | None = None,
) -> Pairs:
    """Pairs from Python objects. Raises `InputError` if the lists differ in length.

    images: paths, bytes of image files, PIL images or uint8 arrays [H, W, 3]; captions: one string or a list
    of strings for each image; ids: default the path, or the position for what has no path; langs: of each image's
    captions, one for all or a list.
    """
    for name, values in (("captions", captions), ("ids", ids), ("langs", langs)):
        if values is not None and len(values) != len(images):
            raise InputError(f"{len(images)} images but {len(values)} {name}; every image needs its own.")
    intake = Intake("optional" if captions is None else "required")
    for row, image in enumerate(images):
        default_id = os.fspath(image) if isinstance(image, str | os.PathLike) else str(row)
        texts = captions[row] if captions is not None else []
        fields: dict[str, Any] = {"captions": list(texts) if isinstance(texts, list | tuple) else [texts]}
        if ids is not None:
            fields["id"] = ids[row]
        if langs is not None:
            fields["lang"] = langs[row]
        intake.add(f"row {row}", fields, default_id=default_id, source=row)
    return Pairs(*intake.tables(), Items(images), skipped=intake.skipped)


def _read(path: str, captions: Captions) -> tables.Read:
    here = Path(path)
    if here.is_dir():
        return _read_folder(here, captions)
    if here.suffix.lower() == ".tar" or (any(mark in path for mark in "{*?[") and not here.exists()):
        return _read_tars(path, captions)
    if not here.exists():
        raise InputError(f"{path}: no such file or folder.")
    if here.suffix.lower() not in READERS:
        known = ", ".join([*READERS, ".tar"])
        raise InputError(f"{path}: not a table of pairs. Those are {known} files, or a folder.")
    return READERS[here.suffix.lower()](here, captions)


def _read_folder(folder: Path, captions: Captions) -> tables.Read:
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return tables.read_saved_dataset(folder, captions)
    if any(folder.glob("*.tar")) or any(folder.glob("*/*.tar")):
        return _read_tars(str(folder), captions)
    return _read_images(folder, captions)


def _read_tars(path: str, captions: Captions) -> tables.Read:
    shards = webdataset.find_shards(path)
    classes, remarks = webdataset.class_list(Path(path) if Path(path).is_dir() else Path(path).parent)
    intake, reader, notes = webdataset.read_tars(shards, captions, classes)
    return intake, reader, remarks + notes


def _read_images(folder: Path, captions: Captions) -> tables.Read:
    """A folder of images, captions in a `.txt` of the same stem; names with a leading dot are left alone."""
    intake = Intake(captions)
    paths: list[str] = []
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if not encodable(name):
            intake.skip(ascii(name), "its name is not valid UTF-8.")
            continue
        try:
            fields = {"captions": _text_beside(path)}
        except (OSError, UnicodeDecodeError) as error:
            intake.skip(name, f"its .txt cannot be read ({error}).")
            continue
        intake.add(str(path), fields, default_id=name, source=len(paths))
        paths.append(name)
    if not paths and not intake.skipped:
        raise InputError(f"{folder}: no images ({', '.join(EXTENSIONS)}) nor tars in this folder.")
    return intake, Column(pa.array(paths, pa.string()), folder), []


def _walk(folder: Path) -> Iterable[Path]:
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith(EXTENSIONS):
                yield Path(base, name)


def _text_beside(path: Path) -> str | None:
    text = path.with_suffix(".txt")
    return text.read_text(encoding="utf-8") if text.is_file() else None
