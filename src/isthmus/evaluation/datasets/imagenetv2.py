"""ImageNet-V2 (Recht et al., ICML 2019), matched frequency: `0/….jpeg` to `999/….jpeg`."""

from __future__ import annotations

from pathlib import Path

from isthmus.errors import InputError
from isthmus.evaluation.datasets.archive import Listing, PublicSet, among, in_folders, subfolders
from isthmus.evaluation.datasets.names import class_names


def read(root: Path, split: str) -> Listing:
    """A folder's name is the number of its class; sorted as text, the order would be another (0, 1, 10, 100, …)."""
    classes = class_names("imagenetv2") or []
    wanted = [str(label) for label in range(len(classes))]
    missing = sorted(set(wanted) - set(subfolders(root)), key=int)
    if missing:
        raise InputError(
            f"{root / missing[0]}: is missing, {among(len(missing), len(wanted))} folders 0 to 999; is the archive "
            "extracted whole?"
        )
    return in_folders(root, wanted, classes)


SET = PublicSet(
    name="imagenetv2",
    archive="imagenetv2-matched-frequency.tar.gz",
    marks=("0", "999"),
    splits=("test",),
    read=read,
    size={"test": 10_000},
    folders=(
        *("imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency", "imagenet-v2"),
        *("imagenetv2-threshold0.7-format-val", "imagenetv2-top-images-format-val"),
    ),
    checked="CLIP_benchmark's imagenetv2.py, TensorFlow Datasets' imagenet_v2, CoOp's imagenetv2.py",
    notes="The variants threshold0.7 and top-images have the same layout.",
)
