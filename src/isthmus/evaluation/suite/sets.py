"""Data sets on disk: finds them below a folder and reads each as pairs, class names and templates.

A set is an archive as its authors publish it (`datasets/`), a folder as CLIP_benchmark publishes them (`wds_NAME`:
`test/*.tar`, `classnames.txt`, `zeroshot_classification_templates.txt`, `dataset_type.txt`), a folder of images
`[test/]CLASS/…`, or a table of pairs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from isthmus.data import webdataset
from isthmus.data.folders import is_table, readable, survey
from isthmus.data.gathering import Gathered, Reading
from isthmus.data.images import EXTENSIONS, BadImage, decode
from isthmus.data.labels import ADVICE, SYNSET, check_classes
from isthmus.data.pairs import Pairs, gathered_pairs, pairs_from_lists, read_pairs
from isthmus.data.sources import ImageSource, Items
from isthmus.data.splits import SYNONYMS
from isthmus.data.text import read_entries, read_lines
from isthmus.errors import InputError, UsageError, did_you_mean
from isthmus.evaluation.datasets.archive import Listing, PublicSet, SetTask, letters, matched_names
from isthmus.evaluation.datasets.names import class_names, synsets
from isthmus.evaluation.datasets.names import templates as published_templates
from isthmus.evaluation.datasets.registry import PUBLIC
from isthmus.evaluation.inputs import match_labels
from isthmus.evaluation.protocols import PROTOCOLS
from isthmus.metrics.zeroshot import load_templates

LISTS = {name: protocol.sets for name, protocol in PROTOCOLS.items()}  # to be named in place of their sets
TABLES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
CLASSES, TEMPLATES, TYPE = "classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt"
FALLBACK = "default"  # our own templates, for sets without any


@dataclass
class BenchmarkSet:
    """One data set.

    pairs: labels are class numbers as text, so that two classes of one name stay two. classes: names by number,
    templates: prompts with a slot; both empty for retrieval. notes: remarks for readers of the result.
    """

    name: str
    task: SetTask
    pairs: Pairs
    classes: list[str]
    templates: list[str]
    notes: list[str] = field(default_factory=list)


def choose_sets(root: Path, only: Sequence[str] | None) -> dict[str, Path | None]:
    """Sets by name, and where they are below `root` (None: missing).

    only: names of sets and of LISTS; None means all that are there. Raises `UsageError` for a name that is neither
    known nor there.
    """
    there = find_sets(root)
    if only is None:
        return {
            name: there[name] for name in (*PUBLIC, *(name for name in there if name not in PUBLIC)) if name in there
        }
    wanted = [name for entry in only for name in LISTS.get(entry, (entry,))]
    return {name: there.get(name) for name in dict.fromkeys(_known(name, there) for name in wanted)}


def find_sets(root: Path) -> dict[str, Path]:
    """Every set below `root`, or `root` itself where it is one, by its name in results."""
    if not root.exists():
        raise InputError(f"{root}: no such folder.")
    name = canonical(root.stem if root.is_file() else root.name)
    whole = name in PUBLIC and root.is_dir() and PUBLIC[name].root(root) is not None
    if whole or root.is_file() or (root / CLASSES).is_file() or (root / TYPE).is_file():
        return {name: root}
    found: dict[str, Path] = {}
    for path in sorted(root.iterdir()):
        if path.name.startswith(".") or not (path.is_dir() or path.suffix.lower() in TABLES):
            continue
        name = canonical(path.stem if path.is_file() else path.name)
        if name in found:
            raise InputError(f"{root}: {found[name].name} and {path.name} both are {name}; move one away.")
        found[name] = path
    return found


def canonical(name: str) -> str:
    """The name in results of a set that goes by `name`: "wds_vtab-caltech101_test" is "caltech101"."""
    bare = re.sub(r"^(wds[_/-])?(vtab[_/-])?|_test$", "", name)
    keys = {letters(other): one.name for one in PUBLIC.values() for other in (one.name, *one.folders)}
    return keys.get(letters(bare), keys.get(letters(name), bare))


def _known(name: str, there: dict[str, Path]) -> str:
    found = canonical(name)
    if found not in PUBLIC and found not in there:
        raise UsageError(f"No data set {name!r}.{did_you_mean(name, {*PUBLIC, *LISTS, *there})}")
    return found


def open_set(name: str, path: Path, split: str | None = None) -> BenchmarkSet:
    """The `split` of a data set; default: the one that papers report, `test` where nothing is published.

    Raises `InputError`: an archive that is not whole, no such split, no class names, names that are none
    (`check_classes`), another number of them than of folders, a label outside of them, a template without a slot.
    """
    if path.is_file():
        return _from_table(name, path, split or "test")
    public = PUBLIC.get(name)
    if public is not None and not _holds_shards(path) and public.root(path) is not None:
        return _from_archive(public, path, split or public.splits[0])
    if is_table(path, survey(path)):
        return _from_table(name, path, split or "test")
    folder = _split_folder(path, split or "test")
    found = survey(folder)
    if len(found.ending(".tar")) > len(found.ending(*EXTENSIONS)):
        return _from_tars(name, path, folder, found.ending(".tar"))
    return _from_class_folders(name, path, folder)


def _holds_shards(path: Path) -> bool:
    """Whether the folder holds CLIP_benchmark's tars, rather than an archive of ImageNet."""
    tars = (tar.stem for part in (path, *(path / name for name in SYNONYMS)) for tar in part.glob("*.tar"))
    return any(not SYNSET.fullmatch(stem) and not stem.startswith("ILSVRC2012") for stem in tars)


def _from_archive(public: PublicSet, path: Path, split: str) -> BenchmarkSet:
    listing = public.open(path, split)
    notes = public.difference(split, len(listing.images))
    pairs = _as_pairs(listing, path)
    if public.task == "zeroshot_retrieval":
        return BenchmarkSet(public.name, public.task, pairs, [], [], notes)
    labelled = _with_labels(pairs, [str(label) for label in listing.labels])
    return BenchmarkSet(public.name, public.task, labelled, list(listing.classes), _templates(public.name, path), notes)


def _as_pairs(listing: Listing, path: Path) -> Pairs:
    captions = [list(texts) for texts in listing.captions] if listing.captions else None
    pairs = pairs_from_lists(listing.images, captions, ids=listing.ids)
    reader = Framed(pairs.reader, listing.border) if listing.border else pairs.reader
    return Pairs(pairs.images, pairs.captions, reader, path=path, skipped=pairs.skipped)


class Framed:
    """Images whose outermost pixels are cut off at each side."""

    def __init__(self, source: ImageSource, border: int) -> None:
        self.source, self.border = source, border

    def read(self, index: int) -> bytes:
        image = decode(self.source.read(index))
        inner = (self.border, self.border, image.width - self.border, image.height - self.border)
        if inner[2] <= inner[0] or inner[3] <= inner[1]:
            raise BadImage(f"its {image.width} × {image.height} pixels are all frame.")
        return Items([image.crop(inner)]).read(0)

    def signature(self, index: int) -> str | None:
        word = self.source.signature(index)
        return word and f"{word}:{self.border}"


def _from_tars(name: str, path: Path, folder: Path, tars: list[str]) -> BenchmarkSet:
    inside = "" if folder == path else f"{folder.name}/"  # ids of different splits differ
    shards = {f"{inside}{shard}": tar for shard, tar in webdataset.shards_of(folder, tars).items()}
    into = Gathered.empty(Reading("optional"))
    webdataset.read_tars(shards, into)
    pairs = gathered_pairs(str(folder), into)
    kind = "".join(read_entries(path / TYPE)[:1]) if (path / TYPE).is_file() else ""
    if kind.lower() == "retrieval" or (not kind and name in PUBLIC and PUBLIC[name].task == "zeroshot_retrieval"):
        return _retrieval(name, pairs)
    classes = _class_names(path) or class_names(name)
    if classes is None:
        raise InputError(f"{path}: no {CLASSES}, one class a line, to say what the numbers in its .cls files mean.")
    check_classes(classes, str(path), given=True)
    return BenchmarkSet(name, "zeroshot_classification", _labelled(pairs, classes), classes, _templates(name, path))


def _from_class_folders(name: str, path: Path, folder: Path) -> BenchmarkSet:
    """Images in a folder per class; the sorted folders number the classes, as in torchvision's ImageFolder."""
    pairs = read_pairs(folder, captions="optional")
    if (name in PUBLIC and PUBLIC[name].task == "zeroshot_retrieval") or len(pairs.captions):
        return _retrieval(name, pairs)
    owners = [_class_folder(id, folder) for id in pairs.images["id"].to_pylist()]
    folders = sorted(set(owners))
    classes = _folder_names(name, path, folder, folders)
    number = {one: str(row) for row, one in enumerate(folders)}
    labelled = _with_labels(pairs, [number[owner] for owner in owners])
    if folder != path:  # ids of different splits differ
        ids = [f"{folder.name}/{id}" for id in pairs.images["id"].to_pylist()]
        labelled.images = labelled.images.set_column(0, "id", pa.array(ids, pa.string()))
    return BenchmarkSet(name, "zeroshot_classification", labelled, classes, _templates(name, path))


def _class_folder(id: str, folder: Path) -> str:
    parts = id.split("/")
    if len(parts) != 2:
        where = "in no folder of a class" if len(parts) == 1 else f"{len(parts) - 1} folders deep"
        raise InputError(f"{folder}: {id} is {where}. {ADVICE}")
    return parts[0]


def _folder_names(name: str, path: Path, folder: Path, folders: list[str]) -> list[str]:
    """A class name for each folder: of `classnames.txt` in order; the published one, by synset or letters; its own."""
    given, known = _class_names(path), class_names(name)
    if given is not None:
        if len(given) != len(folders):
            raise InputError(
                f"{path}: {len(folders)} folders of classes for {len(given)} class names; put a {CLASSES} there with a "
                "line for each folder, in their order."
            )
        check_classes(given, str(path), given=True)
        return given
    ids = synsets(name)
    if known is None and all(map(SYNSET.fullmatch, folders)):
        ids, known = synsets("imagenet1k"), class_names("imagenet1k")
    elif known is not None and len(folders) != len(known):
        raise InputError(f"{folder}: {len(folders)} folders for the {len(known)} classes of {name}. {ADVICE}")
    if ids and known and set(folders) <= set(ids):
        return [known[ids.index(one)] for one in folders]
    names = matched_names(folders, known, folder) if known else [readable(one) for one in folders]
    check_classes(names, str(folder))
    return names


def _from_table(name: str, path: Path, split: str) -> BenchmarkSet:
    """A table with captions is for retrieval, one with labels only for classification."""
    beside = path if path.is_dir() else path.parent
    pairs = read_pairs(path, captions="optional")
    if split in pairs.images["split"].to_pylist():
        pairs = pairs.filter(split=split)
    if len(pairs.captions):
        return _retrieval(name, pairs)
    labels = pairs.images["label"].to_pylist()
    if None in labels:
        raise InputError(f"{path}: {pairs.images['id'][labels.index(None)]} has neither caption nor label.")
    numbers = all(label.isdecimal() for label in labels)  # the number of names in the list, if there is one
    classes, number = match_labels(labels, (_class_names(beside) or []) if numbers else [])
    check_classes(classes, str(path), given=numbers)
    numbered = _with_labels(pairs, [str(number[label]) for label in labels])
    return BenchmarkSet(name, "zeroshot_classification", numbered, classes, _templates(name, beside))


def _retrieval(name: str, pairs: Pairs) -> BenchmarkSet:
    if not len(pairs.captions):
        raise InputError(f"{pairs.path}: no captions to retrieve by.")
    return BenchmarkSet(name, "zeroshot_retrieval", pairs, [], [])


def _labelled(pairs: Pairs, classes: Sequence[str]) -> Pairs:
    """`pairs`, whose labels are checked to be numbers of classes."""
    rows = zip(pairs.images["id"].to_pylist(), pairs.images["label"].to_pylist(), strict=True)
    for id, label in rows:
        if label is None or not label.isdecimal() or int(label) >= len(classes):
            raise InputError(f"{pairs.path}: the label {label!r} of {id} is outside of the {len(classes)} classes.")
    return pairs


def _with_labels(pairs: Pairs, labels: Sequence[str]) -> Pairs:
    column = pairs.images.column_names.index("label")
    return pairs.having(pairs.images.set_column(column, "label", pa.array(labels, pa.string())))


def _split_folder(path: Path, split: str) -> Path:
    """The folder of a split; the set's own folder if it has no splits. For a set that is tested on `val`, that one."""
    names = [name for name, meant in SYNONYMS.items() if meant == split and name != "restval"]
    for name in [*names, *(["val", "validation"] if split == "test" else [])]:
        if (path / name).is_dir():
            return path / name
    others = [child.name for child in path.iterdir() if child.is_dir() and child.name in SYNONYMS]
    if others:
        raise InputError(f"{path}: has {' and '.join(sorted(others))}, but no {split}.")
    return path


def _class_names(path: Path) -> list[str] | None:
    return read_lines(path / CLASSES) if (path / CLASSES).is_file() else None


def _templates(name: str, path: Path) -> list[str]:
    if (path / TEMPLATES).is_file():
        return list(load_templates(path / TEMPLATES))
    return published_templates(name) or list(load_templates(FALLBACK))
