"""Oxford Flowers 102 (Nilsback and Zisserman, 2008): `imagelabels.mat`, `setid.mat`, `jpg/image_00001.jpg`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from isthmus.errors import InputError
from isthmus.evaluation.datasets.archive import Listing, PublicSet, listed, matlab, number
from isthmus.evaluation.datasets.names import class_names

PARTS = {"train": "trnid", "val": "valid", "test": "tstid"}


def read(root: Path, split: str) -> Listing:
    """Classes by the number in `imagelabels.mat`, 1 to 102."""
    classes = class_names("flowers") or []
    source = root / "setid.mat"
    (ids,) = matlab(source, PARTS[split])
    (labels,) = matlab(root / "imagelabels.mat", "labels")
    ids = np.atleast_1d(ids)
    if len(ids) and not 1 <= ids.min() <= ids.max() <= len(labels):
        raise InputError(f"{source}: names picture {ids.max()}, but {root / 'imagelabels.mat'} has {len(labels)}.")
    own = [number(str(labels[id - 1]), len(classes), str(root / "imagelabels.mat")) for id in ids.tolist()]
    return listed(root / "jpg", [f"image_{id:05d}.jpg" for id in ids.tolist()], own, classes, source)


SET = PublicSet(
    name="flowers",
    archive="102flowers.tgz, imagelabels.mat and setid.mat",
    marks=("setid.mat", "imagelabels.mat"),
    splits=("test", "train", "val"),
    read=read,
    size={"test": 6_149, "train": 1_020, "val": 1_020},
    folders=("flowers102", "flowers-102", "oxford_flowers", "102flowers"),
    checked="torchvision's Flowers102, whose list of names differs in two words (59, 97)",
)
