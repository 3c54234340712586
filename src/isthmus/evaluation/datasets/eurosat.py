"""EuroSAT in colours (Helber et al., 2019): `2750/AnnualCrop/AnnualCrop_1.jpg`. Its authors publish no split."""

from __future__ import annotations

from pathlib import Path

from isthmus.errors import InputError
from isthmus.evaluation.datasets.archive import Listing, PublicSet, in_folders, subfolders
from isthmus.evaluation.datasets.names import class_names

NAMES = {  # the archive's folders, which are sorted, and CLIP's names
    "AnnualCrop": "annual crop land",
    "Forest": "forest",
    "HerbaceousVegetation": "brushland or shrubland",
    "Highway": "highway or road",
    "Industrial": "industrial buildings or commercial buildings",
    "Pasture": "pasture land",
    "PermanentCrop": "permanent crop land",
    "Residential": "residential buildings or homes or apartments",
    "River": "river",
    "SeaLake": "lake or sea",
}


def read(root: Path, split: str) -> Listing:
    """Classes sorted by folder."""
    folder = root / "2750"
    missing = set(NAMES) - set(subfolders(folder))
    if missing:
        raise InputError(f"{folder / min(missing)}: is missing; is the archive extracted whole?")
    assert set(NAMES.values()) == set(class_names("eurosat") or [])
    return in_folders(folder, list(NAMES), list(NAMES.values()))


SET = PublicSet(
    name="eurosat",
    archive="EuroSAT.zip",
    marks=("2750",),
    splits=("all",),
    read=read,
    size={"all": 27_000},
    checked="torchvision's EuroSAT; names of the folders: CLIP_benchmark's en_classnames.json, CoOp's eurosat.py",
)
