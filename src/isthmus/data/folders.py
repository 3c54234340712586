"""Folders of images, class folders, tars, tables or a saved data set: recognising and reading them."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from isthmus.data import tables, webdataset
from isthmus.data.captions_json import read_json_lines
from isthmus.data.delimited import Delimited, read_delimited
from isthmus.data.feature_pairs import SIDES
from isthmus.data.gathering import Gathered
from isthmus.data.images import EXTENSIONS, FOREIGN
from isthmus.data.parquet import DAMAGE
from isthmus.data.records import Placed, encodable
from isthmus.data.sources import Folders, ImageColumn, open_table
from isthmus.data.speech_sets import read_speech_set
from isthmus.data.splits import SYNONYMS
from isthmus.data.text import json_lines, parse_json, read_text
from isthmus.errors import InputError
from isthmus.modality import Modality, others
from isthmus.owned import what_it_is

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # of Hugging Face's imagefolder
SIDECARS = (".txt", ".caption", ".json")  # captions of an image of the same stem, the first that is there
LISTS = (".csv", ".tsv", ".jsonl", ".json", ".txt", ".token", ".parquet")
SHOWN = 6  # kinds of files that a remark names


@dataclass
class Survey:
    """The files below a folder, by their path in it; names that begin with a dot are ignored.

    skipped: (name, reason) of links that lead nowhere, and of folders that cannot be read. again: links to folders that
    are read already, such as links to a parent.
    """

    folder: Path
    files: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    hidden: int = 0

    def ending(self, *endings: str) -> list[str]:
        """The files with one of these endings, in any case."""
        return [name for name in self.files if name.lower().endswith(endings)]


def survey(folder: Path) -> Survey:
    """All files below `folder`. Links are followed, each folder once: real folders first, so that no link hides one."""
    found = Survey(folder)
    waiting: list[str] = [""]
    links: list[str] = []
    seen: set[str] = set()
    while waiting or links:
        linked = not waiting
        inside = links.pop(0) if linked else waiting.pop(0)
        real = os.path.realpath(folder / inside)
        if real in seen:
            found.again.append(inside.rstrip("/"))
            continue
        seen.add(real)
        below, further = _entries(found, inside)
        waiting, links = below + waiting, sorted(links + further)
    return found


def _entries(found: Survey, inside: str) -> tuple[list[str], list[str]]:
    """Note the files of one folder; its real and its linked subfolders, each ending in a slash."""
    real: list[str] = []
    linked: list[str] = []
    try:
        entries = sorted(os.scandir(found.folder / inside), key=lambda entry: entry.name)
    except OSError as error:
        found.skipped.append((inside or ".", f"this folder cannot be read ({error.strerror})."))
        return [], []
    for entry in entries:
        name = f"{inside}{entry.name}"
        if entry.name.startswith("."):
            found.hidden += 1
        elif entry.is_dir():
            (linked if entry.is_symlink() else real).append(f"{name}/")
        elif entry.is_symlink() and not os.path.exists(entry.path):
            found.skipped.append((name, "a link that leads nowhere."))
        elif not entry.is_file():
            found.skipped.append((name, f"{what_it_is(Path(os.path.realpath(entry.path)))}, not a file."))
        else:
            found.files.append(name)
    return real, linked


def read_folder(folder: Path, into: Gathered) -> None:
    """Read a folder of any of these kinds. Raises `InputError` if it holds nothing that can be read as pairs."""
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        tables.read_saved_dataset(folder, into)
        return
    if (folder / "store.json").exists():
        raise InputError(f"{folder}: a store, which holds features and no pictures. Name the pairs it was made from.")
    found = survey(folder)
    into.intake.skipped += [(_shown(name), reason) for name, reason in found.skipped]
    into.notes += [f"{folder}: {_shown(name)} is a link to a folder that is read already." for name in found.again]
    images, tars, parts = found.ending(*EXTENSIONS), found.ending(".tar"), found.ending(".parquet")
    if not (images or tars or parts) and read_speech_set(folder, found.files, into):
        return
    listed = _metadata(found)
    if listed and len(tars) <= len(images):
        _read_metadata(found, listed, into)
    elif tars and (len(tars) > len(images) or (len(tars) == len(images) and all(_is_shard(name) for name in tars))):
        webdataset.read_tars(webdataset.shards_of(folder, tars), into, webdataset.class_list(folder, into))
        _say_left_out(found, into, {*tars})
    elif parts and len(parts) > len(images):
        tables.read_parts([folder / name for name in parts], folder, into)
        _say_left_out(found, into, {*parts})
    else:
        _read_images(found, into)


def is_table(folder: Path, found: Survey) -> bool:
    """Whether a folder is a table: a saved data set, an imagefolder with metadata, Parquet files."""
    saved = (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()
    images, parts = found.ending(*EXTENSIONS), found.ending(".parquet")
    return saved or bool(_metadata(found)) or len(parts) > len(images) + len(found.ending(".tar"))


def _metadata(found: Survey) -> list[str]:
    names = [name for name in found.files if PurePosixPath(name).name in METADATA]
    return [name for name in names if _names_images(found.folder / name)]


def _is_shard(name: str) -> bool:
    return PurePosixPath(name).stem[-1:].isdigit()


def _names_images(path: Path) -> bool:
    """Whether a `metadata` file is a table of images, and not something else of that name."""
    try:
        if path.suffix == ".csv":
            names: Any = Delimited(path).names
        elif path.suffix == ".parquet":
            names = open_table(path).schema.names
        else:
            names = next(json_lines(path), (0, {}))[1]
    except (InputError, *DAMAGE):
        return True  # and reading it reports what is wrong with it
    return bool({"image", "file_name", *others()} & {*names})


def _read_metadata(found: Survey, listed: list[str], into: Gathered) -> None:
    """Hugging Face's imagefolder: tables named `metadata` beside the images, here or in the folder of each split."""
    readers = {".jsonl": read_json_lines, ".csv": read_delimited, ".parquet": tables.read_file_of_columns}
    for name in listed:
        path, inside = found.folder / name, name.rpartition("/")[0]
        split = next((part for part in inside.lower().split("/") if part in SYNONYMS), None)
        readers[path.suffix](path, into.of(split=split, within=f"{inside}/" if inside else ""))
    named = into.intake.images_named()
    images = found.ending(*EXTENSIONS)
    if unlisted := [name for name in images if name not in named]:
        into.notes.append(f"{found.folder}: {len(unlisted):,} images that no metadata file names, as {unlisted[0]}.")
    _say_left_out(found, into, {*listed, *images})


def _read_images(found: Survey, into: Gathered) -> None:
    """Images with captions in files of the same stem; if there are none, the images' folders are their labels.

    Files of other modalities belong to the image of the same stem; without images, they stand in their place.
    """
    modality, names = _items(found)
    into.intake.holds(modality, found.folder)
    further, beside = _further(found, modality), _sidecars(found)
    labels, splits = _class_folders(names) if not any(_stem(name) in beside for name in names) else ([], [])
    splits = splits or _split_folders(names)[1]
    _refuse_captionless(found, into, names, beside)
    paths: list[str] = []
    for number, name in enumerate(names):
        if not encodable(name):
            into.intake.skip(ascii(name), "its name is not valid UTF-8.")
            continue
        try:
            fields = _beside(found.folder, beside.get(_stem(name)))
        except (InputError, ValueError, OSError, RecursionError) as error:
            into.intake.skip(name, f"the captions beside it cannot be read ({error}).")
            continue
        fields |= {"label": labels[number]} if labels else {}
        fields |= {"split": splits[number]} if splits else {}
        placed = {kind: Placed(number[_stem(name)]) for kind, (_, number) in further.items() if _stem(name) in number}
        told: Any = {"source": into.first + len(paths), "beside": placed}
        into.intake.add(f"{found.folder / name}", fields, default_id=name, **told)
        paths.append(name)
    read = {*names, *(name for listed, _ in further.values() for name in listed)}
    for name in found.ending(*FOREIGN):
        if name in read:
            continue
        into.intake.skip(_shown(name), FOREIGN[PurePosixPath(name).suffix.lower()])
    if labels:
        into.folders += sorted({PurePosixPath(name).parts[bool(splits)] for name in names})
        into.notes.append(f"{found.folder}: the {len(into.folders)} folders of its images are their labels.")
    used = {beside[_stem(name)] for name in names if _stem(name) in beside}
    _say_left_out(found, into, {*used, *read})
    if not paths and not into.intake.skipped:
        raise InputError(f"{found.folder}: no images ({', '.join(EXTENSIONS)}) nor tars nor Parquet in this folder.")
    into.sources.append(_files(found, paths))
    for kind, (listed, _) in further.items():
        into.beside.setdefault(kind, []).append(_files(found, listed))


def _items(found: Survey) -> tuple[Modality, list[str]]:
    """What the files are of: images, or where there are none the first other modality that has any; and these."""
    images = found.ending(*EXTENSIONS)
    for name, spec in {} if images else others().items():
        if spec.endings and (listed := found.ending(*spec.endings)):
            return name, listed
    return SIDES[0], images


def _further(found: Survey, first: Modality) -> dict[Modality, tuple[list[str], dict[str, int]]]:
    """The files of further modalities, and the number of each by its stem."""
    listed = {name: found.ending(*spec.endings) for name, spec in others().items() if spec.endings and name != first}
    return {name: (files, {_stem(file): k for k, file in enumerate(files)}) for name, files in listed.items() if files}


def _files(found: Survey, names: list[str]) -> ImageColumn:
    return ImageColumn(tables.pa.array(names, tables.pa.large_string()), Folders((found.folder,)))


def _refuse_captionless(found: Survey, into: Gathered, names: list[str], beside: dict[str, str]) -> None:
    """If captions are needed, no image has any, and there is a table: suggest to name the table."""
    lists = [name for name in found.ending(*LISTS) if "/" not in name]
    if into.reading.captions == "required" and names and lists and not any(_stem(name) in beside for name in names):
        raise InputError(
            f"{found.folder}: its images have no captions beside them, in a .txt of the same name. If "
            f"{lists[0]} holds them, name that file: {found.folder / lists[0]}."
        )


def _stem(name: str) -> str:
    return name[: -len(PurePosixPath(name).suffix)] if PurePosixPath(name).suffix else name


def _sidecars(found: Survey) -> dict[str, str]:
    """The caption file of every stem that has one."""
    beside: dict[str, str] = {}
    for ending in reversed(SIDECARS):
        beside |= {_stem(name): name for name in found.ending(ending)}
    return beside


def _beside(folder: Path, name: str | None) -> dict[str, Any]:
    """The fields in an image's sidecar: a caption a line, or img2dataset's JSON."""
    if name is None:
        return {"captions": None}
    written = read_text(folder / name, webdataset.MAX_TEXT)
    return webdataset.json_fields(parse_json(written)) if name.lower().endswith(".json") else {"captions": written}


def _split_folders(names: list[str]) -> tuple[list[str], list[str]]:
    """(names below the folders of splits, split of each) if every image is in one; otherwise the names unchanged."""
    tops = [name.partition("/")[0].lower() if "/" in name else "" for name in names]
    if names and all(top in SYNONYMS for top in tops):
        return [name.partition("/")[2] for name in names], tops
    return names, []


def _class_folders(names: list[str]) -> tuple[list[str], list[str]]:
    """(label, split) of each image where all are in folders, of two classes or more; split folders may be above."""
    bare, splits = _split_folders(names)
    owners = [name.partition("/")[0] if "/" in name else "" for name in bare]
    if not all(owners) or len(set(owners)) < 2:
        return [], splits
    names_of = {owner: readable(owner) for owner in owners}
    distinct = len(set(names_of.values())) == len(names_of)
    return [names_of[owner] if distinct else owner for owner in owners], splits


def readable(folder: str) -> str:
    """A class name from a folder's: "001.Black_footed_Albatross", "AnnualCrop" -> "black footed albatross" …"""
    bare = re.sub(r"^\d+\.", "", folder)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", bare).replace("_", " ").strip().lower()


def _say_left_out(found: Survey, into: Gathered, read: set[str]) -> None:
    """A remark on the files that are not read, by their endings."""
    left = (name for name in found.files if name not in read)
    others = Counter(_shown(PurePosixPath(name).suffix.lower()) or "without ending" for name in left)
    unread = [f"{count:,} {ending}" for ending, count in others.most_common(SHOWN)]
    unread += [f"{len(others) - SHOWN} kinds more"] if len(others) > SHOWN else []
    unread += [f"{found.hidden:,} whose names begin with a dot"] if found.hidden else []
    if unread:
        into.notes.append(f"{found.folder}: files that are not read: {', '.join(unread)}.")


def _shown(name: str) -> str:
    return name if encodable(name) else ascii(name)
