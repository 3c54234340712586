"""FGVC-Aircraft (Maji et al., 2013), its 100 variants: `data/variants.txt`, `images_variant_test.txt`, `images/`."""

from __future__ import annotations

from pathlib import Path

from isthmus.evaluation.datasets.archive import Listing, PublicSet, columns, lines, listed, matched_names, position
from isthmus.evaluation.datasets.names import class_names


def read(root: Path, split: str) -> Listing:
    """Classes in the order of `variants.txt`."""
    data = root / "data" if (root / "data").is_dir() else root
    variants, source = data / "variants.txt", data / f"images_variant_{split}.txt"
    raw = lines(variants)
    numbers = {name: label for label, name in enumerate(raw)}
    rows = columns(source, 2, last_with_blanks=True)
    labels = [position(name, numbers, f"{source}, {id}") for id, name in rows]
    classes = matched_names(raw, class_names("fgvc_aircraft") or [], variants)
    return listed(data / "images", [f"{id}.jpg" for id, _ in rows], labels, classes, source)


SET = PublicSet(
    name="fgvc_aircraft",
    archive="fgvc-aircraft-2013b.tar.gz",
    marks=("data/variants.txt", "variants.txt", "data/images_variant_test.txt", "images_variant_test.txt"),
    splits=("test", "train", "val", "trainval"),
    read=read,
    size={"test": 3_333, "train": 3_334, "val": 3_333, "trainval": 6_667},
    folders=("aircraft", "fgvc-aircraft-2013b"),
    checked="torchvision's FGVCAircraft (level variant)",
)
