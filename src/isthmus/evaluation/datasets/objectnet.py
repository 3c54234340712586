"""ObjectNet (Barbu et al., NeurIPS 2019), the 113 classes that ImageNet has too: `images/`, `mappings/`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from isthmus.errors import InputError
from isthmus.evaluation.datasets.archive import Listing, PublicSet, in_folders, json_of

BORDER = 2  # pixels: a red frame of one marks every picture as a test picture; wise-ft cuts two


def read(root: Path, split: str) -> Listing:
    """Classes sorted by folder; names are ObjectNet's own, in lower case."""
    mapping = root / "mappings" / "folder_to_objectnet_label.json"
    overlap = root / "mappings" / "objectnet_to_imagenet_1k.json"
    label_of = json_of(mapping)
    shared = set(json_of(overlap))
    chosen = {folder: name for folder, name in label_of.items() if name in shared}
    if len(chosen) != len(shared):
        lost = min(shared - set(chosen.values()), default="?")
        raise InputError(f"{overlap}: {lost!r} is no label of {mapping.name}; another version?")
    folders = sorted(chosen)
    return replace(in_folders(root / "images", folders, [chosen[f].lower() for f in folders]), border=BORDER)


SET = PublicSet(
    name="objectnet",
    archive="objectnet-1.0.zip",
    marks=("mappings/folder_to_objectnet_label.json", "mappings"),
    splits=("test",),
    read=read,
    size={"test": 18_574},
    folders=("objectnet-1.0",),
    checked="wise-ft's objectnet.py and its mapping files; CLIP_benchmark's objectnet.py, which keeps the frame",
)
