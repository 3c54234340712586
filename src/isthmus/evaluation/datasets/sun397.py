"""SUN397 (Xiao et al., CVPR 2010): `ClassName.txt`, `a/abbey/sun_….jpg`, and `Testing_01.txt` of Partitions.zip."""

from __future__ import annotations

from pathlib import Path

from isthmus.errors import InputError
from isthmus.evaluation.datasets.archive import Listing, PublicSet, in_folders, lines, listed, matched_names, position
from isthmus.evaluation.datasets.names import class_names

PARTS = {"test": "Testing_01.txt", "train": "Training_01.txt"}


def read(root: Path, split: str) -> Listing:
    """Classes in the order of `ClassName.txt`. `all`: every picture, as both papers and CLIP_benchmark take it; `test`
    and `train`: the first of the ten published partitions.
    """
    file = _found(root, "ClassName.txt")
    folders = [line.strip("/") for line in lines(file)]
    classes = matched_names([folder[2:] for folder in folders], class_names("sun397") or [], file)
    pictures = next((folder for folder in (root, root / "SUN397") if (folder / "a").is_dir()), root)
    if split == "all":
        return in_folders(pictures, folders, classes)
    source = _found(root, PARTS[split])
    names = [line.strip("/") for line in lines(source)]
    numbers = {folder: label for label, folder in enumerate(folders)}
    labels = [position(name.rpartition("/")[0], numbers, str(source)) for name in names]
    return listed(pictures, names, labels, classes, source)


def _found(root: Path, name: str) -> Path:
    places = [root / name, root / "SUN397" / name, root / "Partitions" / name, root.parent / name]
    places.append(root.parent / "Partitions" / name)
    for place in places:
        if place.is_file():
            return place
    hint = " It is in Partitions.zip; the split `all` takes every picture." if name in PARTS.values() else ""
    raise InputError(f"{root / name}: is missing.{hint}")


SET = PublicSet(
    name="sun397",
    archive="SUN397.tar.gz (and Partitions.zip)",
    marks=("ClassName.txt", "a/abbey", "SUN397/a/abbey"),
    splits=("all", "test", "train"),
    read=read,
    size={"all": 108_754, "test": 19_850, "train": 19_850},
    checked="torchvision's SUN397 (all); CoOp's sun397.py (partitions); names: TensorFlow Datasets' sun397_labels.txt",
)
