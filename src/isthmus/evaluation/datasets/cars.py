"""Stanford Cars (Krause et al., 2013): `devkit/`, `cars_train/`, `cars_test/`, `cars_test_annos_withlabels.mat`."""

from __future__ import annotations

from pathlib import Path

from isthmus.errors import InputError
from isthmus.evaluation.datasets.archive import Listing, PublicSet, listed, matched_names, matlab, number
from isthmus.evaluation.datasets.names import class_names

LABELS = "cars_test_annos_withlabels.mat"


def read(root: Path, split: str) -> Listing:
    """Classes by the number in the lists, named by `devkit/cars_meta.mat`."""
    meta = root / "devkit" / "cars_meta.mat"
    (raw,) = matlab(meta, "class_names")
    source = root / "devkit" / "cars_train_annos.mat"
    if split == "test":
        source = next(
            (root / place for place in (LABELS, f"devkit/{LABELS}") if (root / place).is_file()), root / LABELS
        )
    (rows,) = matlab(source, "annotations")
    if not rows.dtype.names or not {"class", "fname"} <= set(rows.dtype.names):
        raise InputError(f"{source}: has no classes for the pictures; for the test split it is {LABELS}.")
    classes = matched_names([str(name) for name in raw], class_names("cars") or [], meta)
    labels = [number(str(row["class"]), len(classes), f"{source}, {row['fname']}") for row in rows]
    return listed(root / f"cars_{split}", [str(row["fname"]) for row in rows], labels, classes, source)


SET = PublicSet(
    name="cars",
    archive="car_devkit.tgz, cars_train.tgz, cars_test.tgz and " + LABELS,
    marks=("devkit/cars_meta.mat", LABELS, "cars_test"),
    splits=("test", "train"),
    read=read,
    size={"test": 8_041, "train": 8_144},
    folders=("stanford_cars", "car196", "cars196"),
    checked="torchvision's StanfordCars; names: TensorFlow Datasets' cars196",
)
