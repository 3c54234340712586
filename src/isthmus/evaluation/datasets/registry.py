"""Every public set that has a reader, by its name in results."""

from __future__ import annotations

from isthmus.evaluation.datasets import (
    caltech101,
    cars,
    cifar,
    cub,
    dtd,
    eurosat,
    fashion_mnist,
    fgvc_aircraft,
    flickr30k,
    flowers,
    food101,
    imagenet,
    imagenetv2,
    mscoco_captions,
    objectnet,
    pets,
    sun397,
    ucf101,
)
from isthmus.evaluation.datasets.archive import PublicSet

_IMAGENETS = (imagenet.SET, imagenetv2.SET, *imagenet.SETS, objectnet.SET)
_FINE = (caltech101, pets, cars, flowers, food101, fgvc_aircraft, sun397, dtd, cub, eurosat, ucf101)
_SMALL = (*cifar.SETS, fashion_mnist.SET)
_CAPTIONED = (flickr30k.SET, mscoco_captions.SET)
PUBLIC: dict[str, PublicSet] = {
    one.name: one for one in (*_IMAGENETS, *(module.SET for module in _FINE), *_SMALL, *_CAPTIONED)
}


def markdown() -> str:
    """The table of docs/datasets.md: sets, archives, splits, sizes, and what each was checked against."""
    rows = ["| set | archive | splits (images published) | checked against |", "|---|---|---|---|"]
    for one in PUBLIC.values():
        splits = ", ".join(f"{split} ({one.size[split]:,})" if split in one.size else split for split in one.splits)
        rows.append(f"| {one.name} | {one.archive} | {splits} | {one.checked}.{' ' * bool(one.notes)}{one.notes} |")
    return "\n".join(rows)
