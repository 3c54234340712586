"""Describable Textures (Cimpoi et al., CVPR 2014), its first partition: `labels/{train,val,test}1.txt`, `images/`."""

from __future__ import annotations

from pathlib import Path

from isthmus.evaluation.datasets.archive import Listing, PublicSet, lines, listed, matched_names, position
from isthmus.evaluation.datasets.names import class_names


def read(root: Path, split: str) -> Listing:
    """Classes sorted by name; all 47 occur in every list."""
    source = root / "labels" / f"{split}1.txt"
    names = lines(source)
    raw = sorted({name.split("/")[0] for name in names})
    numbers = {name: label for label, name in enumerate(raw)}
    classes = matched_names(raw, class_names("dtd") or [], source)
    return listed(
        root / "images", names, [position(n.split("/")[0], numbers, str(source)) for n in names], classes, source
    )


SET = PublicSet(
    name="dtd",
    archive="dtd-r1.0.1.tar.gz",
    marks=("labels/test1.txt", "labels/train1.txt", "imdb/imdb.mat"),
    splits=("test", "train", "val"),
    read=read,
    size={"test": 1_880, "train": 1_880, "val": 1_880},
    folders=("describable_textures",),
    checked="torchvision's DTD; names: TensorFlow Datasets' dtd_key_attributes.txt",
)
