"""Pictures with captions: what readers of Flickr30k and COCO share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from isthmus.errors import InputError
from isthmus.evaluation.datasets.archive import Listing, among, json_of


def captioned(root: Path, folders: Sequence[str], captions: Mapping[str, list[str]], source: Path) -> Listing:
    """Pictures, each in the first of `folders` that has it. Raises `InputError`, naming `source`, for missing ones."""
    there = [root / folder for folder in folders if (root / folder).is_dir()]
    found = {name: next((f / name for f in there if (f / name).is_file()), None) for name in captions}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        places, rest = ", ".join(map(str, there)), among(len(missing), len(found))
        raise InputError(
            f"{missing[0]}: is in none of {places}, {rest} pictures that {source} lists; is the archive extracted "
            "whole?"
        )
    bare = [name for name, texts in captions.items() if not texts]
    if bare:
        raise InputError(f"{source}: {bare[0]} has no caption; another list?")
    return Listing(list(found.values()), list(captions), captions=list(captions.values()))


def karpathy(root: Path, name: str, split: str, folders: Sequence[str], other: Path) -> Listing:
    """Karpathy's JSON: `images`, each with `filename`, `split` and `sentences`, each with `raw`."""
    file = next((f for f in (root / name, root / "karpathy" / name) if f.is_file()), root / name)
    if not file.is_file():
        raise InputError(f"{other}: is missing, and so is {name}; one of them lists the split {split}.")
    rows = json_of(file)
    wanted = ("train", "restval") if split == "train" else (split,)
    try:
        chosen = [image for image in rows["images"] if image["split"] in wanted]
        captions = {image["filename"]: [one["raw"] for one in image["sentences"]] for image in chosen}
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{file}: is not Karpathy's format: {{images: [{{filename, split, sentences}}]}} ({error!r})."
        ) from None
    return captioned(root, folders, captions, file)
