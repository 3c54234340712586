"""Data sets on disk: which there are below a folder, and each as pairs, class names and templates.

A set is a folder as CLIP_benchmark publishes them (`wds_NAME`: `test/*.tar`, `classnames.txt`,
`zeroshot_classification_templates.txt`, `dataset_type.txt`), a folder of images `[test/]CLASS/…`, or a table of pairs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from isthmus.data import webdataset
from isthmus.data.folders import is_table, readable, survey
from isthmus.data.gathering import Gathered, Reading
from isthmus.data.images import EXTENSIONS
from isthmus.data.pairs import Pairs, gathered_pairs, read_pairs
from isthmus.data.splits import SYNONYMS
from isthmus.data.text import read_entries, read_lines
from isthmus.errors import InputError, UsageError, did_you_mean
from isthmus.evaluation.inputs import match_labels
from isthmus.evaluation.suite.names import known_classes, known_templates
from isthmus.metrics.zeroshot import load_templates

Task = Literal["zeroshot_classification", "zeroshot_retrieval"]
RETRIEVAL = ("flickr30k", "mscoco_captions")
# Name in results: other names it goes by. Case, punctuation and the marks below do not count.
SETS: dict[str, tuple[str, ...]] = {
    "imagenet1k": ("imagenet",),
    "imagenetv2": ("imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency"),
    "imagenet-a": (),
    "imagenet-r": (),
    "imagenet_sketch": ("sketch",),
    "caltech101": ("caltech-101_objectcategories",),
    "pets": ("oxford_pets", "oxford-iiit-pet"),
    "cars": ("stanford_cars",),
    "flowers": ("flowers102", "oxford_flowers"),
    "food101": (),
    "fgvc_aircraft": ("aircraft", "fgvc-aircraft-2013b"),
    "sun397": (),
    "dtd": (),
    "cub": ("cub200", "cub_200_2011"),
    "eurosat": (),
    "ucf101": (),
    "cifar10": (),
    "cifar100": (),
    "fashion_mnist": (),
    "flickr30k": ("flickr", "flickr_1k_test_image_text_retrieval"),
    "mscoco_captions": ("coco", "mscoco", "coco_captions", "mscoco_2014_5k_test_image_text_retrieval"),
}
# What the papers report, to be named in place of their sets.
LISTS = {
    "freeze-align": (
        *("imagenet1k", "imagenetv2", "imagenet-a", "caltech101", "pets", "cars", "flowers", "food101", "sun397"),
        *("fgvc_aircraft", "dtd", "cub", "eurosat", "ucf101", "fashion_mnist", "flickr30k", "mscoco_captions"),
    ),
    "sail": (
        *("food101", "cifar10", "cifar100", "sun397", "cars", "fgvc_aircraft", "dtd", "pets", "caltech101"),
        *("flowers", "imagenet1k", "imagenetv2", "flickr30k", "mscoco_captions"),
    ),
}
TABLES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
CLASSES, TEMPLATES, TYPE = "classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt"
FALLBACK = "default"  # our own templates, for sets that bring none


@dataclass
class BenchmarkSet:
    """One data set.

    pairs: labels are class numbers as text, so that two classes of one name stay two. classes: names by number,
    templates: prompts with a slot; both empty for retrieval.
    """

    name: str
    task: Task
    pairs: Pairs
    classes: list[str]
    templates: list[str]


def choose_sets(root: Path, only: Sequence[str] | None) -> dict[str, Path | None]:
    """Sets by name, in the order of SETS, and where they are below `root` (None: they are not).

    only: names of sets and of LISTS; None takes all of SETS and whatever else is there. Raises `UsageError` for a
    name that is neither known nor there.
    """
    there = find_sets(root)
    if only is None:
        return {name: there.get(name) for name in (*SETS, *(name for name in there if name not in SETS))}
    wanted = [name for entry in only for name in LISTS.get(entry, (entry,))]
    return {name: there.get(name) for name in dict.fromkeys(_known(name, there) for name in wanted)}


def find_sets(root: Path) -> dict[str, Path]:
    """Every set below `root`, or `root` itself where it is one, by its name in results."""
    if not root.exists():
        raise InputError(f"{root}: no such folder.")
    if root.is_file() or (root / CLASSES).is_file() or (root / TYPE).is_file():
        return {canonical(root.stem if root.is_file() else root.name): root}
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
    keys = {_letters(other): known for known, others in SETS.items() for other in (known, *others)}
    return keys.get(_letters(bare), keys.get(_letters(name), bare))


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _known(name: str, there: dict[str, Path]) -> str:
    found = canonical(name)
    if found not in SETS and found not in there:
        raise UsageError(f"No data set {name!r}.{did_you_mean(name, {*SETS, *LISTS, *there})}")
    return found


def open_set(name: str, path: Path, split: str = "test") -> BenchmarkSet:
    """The `split` of a data set.

    Raises `InputError`: no such split, no class names, another number of them than of folders, a label outside of
    them, a template without a slot.
    """
    if path.is_file():
        return _from_table(name, path, split)
    if is_table(path, survey(path)):
        return _from_table(name, path, split)
    folder = _split_folder(path, split)
    found = survey(folder)
    if len(found.ending(".tar")) > len(found.ending(*EXTENSIONS)):
        return _from_tars(name, path, folder, found.ending(".tar"))
    return _from_class_folders(name, path, folder)


def _from_tars(name: str, path: Path, folder: Path, tars: list[str]) -> BenchmarkSet:
    inside = "" if folder == path else f"{folder.name}/"  # ids of different splits differ
    shards = {f"{inside}{shard}": tar for shard, tar in webdataset.shards_of(folder, tars).items()}
    into = Gathered.empty(Reading("optional"))
    webdataset.read_tars(shards, into)
    pairs = gathered_pairs(str(folder), into)
    kind = "".join(read_entries(path / TYPE)[:1]) if (path / TYPE).is_file() else ""
    if kind.lower() == "retrieval" or (not kind and name in RETRIEVAL):
        return _retrieval(name, pairs)
    classes = _class_names(name, path)
    if classes is None:
        raise InputError(
            f"{path}: no {CLASSES}, one class a line, to say what the numbers in its .cls files mean"
            + ("." if name not in SETS else ", and neither open_clip nor clip_benchmark that knows them is installed.")
        )
    return BenchmarkSet(name, "zeroshot_classification", _labelled(pairs, classes), classes, _templates(name, path))


def _from_class_folders(name: str, path: Path, folder: Path) -> BenchmarkSet:
    """Images below a folder per class: sorted, they are the classes' numbers, as in torchvision's ImageFolder."""
    pairs = read_pairs(folder, captions="optional")
    if name in RETRIEVAL or len(pairs.captions):
        return _retrieval(name, pairs)
    owners = [id.partition("/")[0] if "/" in id else None for id in pairs.images["id"].to_pylist()]
    if None in owners:
        raise InputError(f"{folder}: {pairs.images['id'][owners.index(None)]} is in no folder of a class.")
    folders = sorted({owner for owner in owners if owner})
    classes = _class_names(name, path) or [readable(one) for one in folders]
    if len(classes) != len(folders):
        raise InputError(
            f"{path}: {len(folders)} folders of classes for {len(classes)} class names; put a {CLASSES} there with a "
            "line for each folder, in their order."
        )
    number = {one: str(row) for row, one in enumerate(folders)}
    labelled = _with_labels(pairs, [number[owner] for owner in owners if owner])
    if folder != path:  # ids of different splits differ
        ids = [f"{folder.name}/{id}" for id in pairs.images["id"].to_pylist()]
        labelled.images = labelled.images.set_column(0, "id", pa.array(ids, pa.string()))
    return BenchmarkSet(name, "zeroshot_classification", labelled, classes, _templates(name, path))


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
    numbers = all(label.isdecimal() for label in labels)  # of the lines of a list of names, where there is one
    classes, number = match_labels(labels, (_class_names(name, beside) or []) if numbers else [])
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
    """The folder of a split; the set's own where it has no splits. Where a set is tested on `val`, that is it."""
    names = [name for name, meant in SYNONYMS.items() if meant == split and name != "restval"]
    for name in [*names, *(["val", "validation"] if split == "test" else [])]:
        if (path / name).is_dir():
            return path / name
    others = [child.name for child in path.iterdir() if child.is_dir() and child.name in SYNONYMS]
    if others:
        raise InputError(f"{path}: has {' and '.join(sorted(others))}, but no {split}.")
    return path


def _class_names(name: str, path: Path) -> list[str] | None:
    if (path / CLASSES).is_file():
        return read_lines(path / CLASSES)
    return known_classes(name)


def _templates(name: str, path: Path) -> list[str]:
    if (path / TEMPLATES).is_file():
        return list(load_templates(path / TEMPLATES))
    return known_templates(name) or list(load_templates(FALLBACK))
