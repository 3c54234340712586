"""Names of classes: as a list, or from a file with one a line; and checks that they are real names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from isthmus.data.text import read_entries
from isthmus.errors import InputError

SYNSET = re.compile(r"n\d{8}")
# Words in the names of folders that hold a data set's parts, not a class.
CONTAINERS = {
    *("train", "training", "test", "testing", "val", "valid", "validation", "trainval", "dev", "splits", "partitions"),
    *("image", "images", "img", "imgs", "jpg", "jpeg", "jpegimages", "png", "photo", "photos", "picture", "pictures"),
    *("frames", "data", "dataset", "meta", "metadata", "annotation", "annotations", "label", "labels", "list", "lists"),
    *("mask", "masks", "segmentation", "segmentations", "attributes", "parts", "imdb", "devkit"),
}


def class_names(classes: str | Path | Sequence[str] | None) -> list[str]:
    """Class names as given, or from a file with one a line."""
    return read_entries(classes) if isinstance(classes, str | Path) else list(classes or [])


def check_classes(names: Sequence[str], place: str, *, given: bool = False, read: bool = True) -> None:
    """`InputError` for names that would give a meaningless score: a single class, container folders, ids.

    place: whose names they are, for the message. given: the user wrote the names, so that numbers are intended ("0" to
    "9"); otherwise they are labels or folders. read: a text encoder will read them; for a probe, which does not, ids
    are as good as words.
    """
    different = list(dict.fromkeys(names))
    if len(different) < 2:
        alone = f"only {different[0]!r}" if different else "none"
        raise InputError(f"{place}: classification needs two classes or more, here is {alone}. {ADVICE}")
    contained = [name for name in different if CONTAINERS & set(re.split(r"[^a-z]+", name.lower()))]
    if 2 * len(contained) > len(different) and not given:
        some = ", ".join(contained[:4])
        raise InputError(f"{place}: {some} are folders that hold pictures, not classes. {ADVICE}")
    ids = [name for name in different if SYNSET.fullmatch(name)]
    if not given and all(name.isdecimal() for name in different):
        ids = different
    if ids and read:
        raise InputError(
            f"{place}: {ids[0]!r} is an id, not a name that a text encoder could read; give the names in that order "
            "(classnames.txt beside the data, or --classes)."
        )


ADVICE = "Expected a folder for each class, labels, or a public set as its authors publish it (docs/datasets.md)."
