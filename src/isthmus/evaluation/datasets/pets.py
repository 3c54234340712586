"""Oxford-IIIT Pet (Parkhi et al., CVPR 2012): `annotations/{trainval,test}.txt`, `images/Breed_name_12.jpg`."""

from __future__ import annotations

from pathlib import Path

from isthmus.errors import InputError
from isthmus.evaluation.datasets.archive import Listing, PublicSet, columns, listed, matched_names, number
from isthmus.evaluation.datasets.names import class_names

BREEDS = 37


def read(root: Path, split: str) -> Listing:
    """Classes by the number in the lists, 1 to 37; their names are those in the names of the pictures."""
    source = root / "annotations" / ("trainval.txt" if split == "train" else f"{split}.txt")
    rows = columns(source, 4)  # picture, class, species, breed of the species
    labels = [number(row[1], BREEDS, f"{source}, {row[0]}") for row in rows]
    breed = {label: row[0].rsplit("_", 1)[0] for row, label in zip(rows, labels, strict=True)}
    if len(breed) != BREEDS:
        raise InputError(f"{source}: names {len(breed)} of the {BREEDS} breeds; another list?")
    classes = matched_names([breed[label] for label in range(BREEDS)], class_names("pets") or [], source)
    return listed(root / "images", [f"{row[0]}.jpg" for row in rows], labels, classes, source)


SET = PublicSet(
    name="pets",
    archive="images.tar.gz and annotations.tar.gz",
    marks=("annotations/test.txt", "annotations/trainval.txt", "annotations/list.txt"),
    splits=("test", "train"),
    read=read,
    size={"test": 3_669, "train": 3_680},
    folders=("oxford_pets", "oxford-iiit-pet", "oxford_iiit_pets"),
    checked="torchvision's OxfordIIITPet; names: TensorFlow Datasets' _LABEL_CLASSES",
)
