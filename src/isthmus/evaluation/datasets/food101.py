"""Food-101 (Bossard et al., ECCV 2014): `food-101/meta/{train,test}.txt`, `meta/classes.txt`, `images/CLASS/ID.jpg`."""

from __future__ import annotations

from pathlib import Path

from isthmus.evaluation.datasets.archive import Listing, PublicSet, lines, listed, matched_names, position
from isthmus.evaluation.datasets.names import class_names


def read(root: Path, split: str) -> Listing:
    """Classes in the order of `meta/classes.txt`, which is sorted."""
    file = root / "meta" / "classes.txt"
    raw = sorted(lines(file))
    numbers = {name: label for label, name in enumerate(raw)}
    source = root / "meta" / f"{split}.txt"
    names = lines(source)
    labels = [position(name.split("/")[0], numbers, str(source)) for name in names]
    classes = matched_names(raw, class_names("food101") or [], file)
    return listed(root / "images", [f"{name}.jpg" for name in names], labels, classes, source)


SET = PublicSet(
    name="food101",
    archive="food-101.tar.gz",
    marks=("meta/classes.txt", "meta/test.txt", "meta/test.json"),
    splits=("test", "train"),
    read=read,
    size={"test": 25_250, "train": 75_750},
    folders=("food-101",),
    checked="torchvision's Food101; names: TensorFlow Datasets' food-101_classes.txt",
)
