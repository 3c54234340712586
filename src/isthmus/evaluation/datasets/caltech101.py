"""Caltech-101 (Fei-Fei et al., 2004): `101_ObjectCategories/accordion/image_0001.jpg`. Its authors publish no split."""

from __future__ import annotations

from pathlib import Path

from isthmus.errors import InputError
from isthmus.evaluation.datasets.archive import Listing, PublicSet, in_folders, letters, subfolders
from isthmus.evaluation.datasets.names import class_names

BACKGROUND = "BACKGROUND_Google"  # no object; torchvision, and with it freeze-align, leaves it out
NAMES = {  # folders for which CLIP uses another name
    "Faces": "off-center face",
    "Faces_easy": "centered face",
    "Leopards": "leopard",
    "Motorbikes": "motorbike",
    "airplanes": "airplane",
    "car_side": "side of a car",
    "cougar_body": "body of a cougar cat",
    "cougar_face": "face of a cougar cat",
    "crocodile_head": "head of a  crocodile",
    "flamingo_head": "head of a flamingo",
    "snoopy": "snoopy (cartoon beagle)",
    "yin_yang": "yin and yang symbol",
}


def read(root: Path, split: str) -> Listing:
    """The 101 classes, sorted by folder, capitals first; the background is not a class."""
    folder = root / "101_ObjectCategories"
    folder = folder if folder.is_dir() else root
    there = [name for name in subfolders(folder) if name != BACKGROUND]
    known = {letters(name): name for name in class_names("caltech101") or []}
    names = [NAMES.get(name) or known.get(letters(name)) for name in there]
    for name, found in zip(there, names, strict=True):
        if found is None:
            raise InputError(f"{folder / name}: is no class of Caltech-101.")
    missing = sorted(set(known.values()) - {"background", *names})
    if missing:
        raise InputError(f"{folder}: no folder of {missing[0]!r}; is the archive extracted whole?")
    return in_folders(folder, there, [name for name in names if name])


SET = PublicSet(
    name="caltech101",
    archive="caltech-101.zip (in it 101_ObjectCategories.tar.gz)",
    marks=("101_ObjectCategories", "BACKGROUND_Google", "yin_yang"),
    splits=("all",),
    read=read,
    size={"all": 8_677},
    folders=("caltech-101", "101_ObjectCategories", "caltech-101_objectcategories"),
    checked="torchvision's Caltech101; names: CLIP_benchmark's en_classnames.json over TensorFlow Datasets' "
    "caltech101_labels.txt",
    notes="CLIP_benchmark's own reader keeps the background as a class.",
)
