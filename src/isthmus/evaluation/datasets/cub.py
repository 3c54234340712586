"""Caltech-UCSD Birds-200-2011 (Wah et al., 2011): `images.txt`, `image_class_labels.txt`, `train_test_split.txt`."""

from __future__ import annotations

from pathlib import Path

from isthmus.errors import InputError
from isthmus.evaluation.datasets.archive import Listing, PublicSet, columns, listed, number


def read(root: Path, split: str) -> Listing:
    """Classes by the number in the lists, 1 to 200; names are the archive's own, "001.Black_footed_Albatross"."""
    birds = root / "classes.txt"
    classes = [name.split(".", 1)[-1].replace("_", " ") for _, name in columns(birds, 2)]
    source = root / "images.txt"
    label, training = (dict(columns(root / name, 2)) for name in ("image_class_labels.txt", "train_test_split.txt"))
    files = columns(source, 2)
    for id, _ in files:
        if id not in label or id not in training:
            raise InputError(f"{source}: picture {id} is not in image_class_labels.txt and train_test_split.txt.")
    chosen = [(id, name) for id, name in files if (training[id] == "1") == (split == "train")]
    labels = [number(label[id], len(classes), f"{root / 'image_class_labels.txt'}, picture {id}") for id, _ in chosen]
    return listed(root / "images", [name for _, name in chosen], labels, classes, source)


SET = PublicSet(
    name="cub",
    archive="CUB_200_2011.tgz",
    marks=("image_class_labels.txt", "train_test_split.txt"),
    splits=("test", "train"),
    read=read,
    size={"test": 5_794, "train": 5_994},
    folders=("cub200", "cub_200_2011", "caltech_birds"),
    checked="freeze-align's cub_dataset.py; TensorFlow Datasets' caltech_birds2011",
)
