"""Flickr30k (Young et al., 2014) in Karpathy's split: his `dataset_flickr30k.json`, or CLIP_benchmark's lists."""

from __future__ import annotations

from pathlib import Path

from isthmus.errors import InputError
from isthmus.evaluation.datasets.archive import Listing, PublicSet, lines
from isthmus.evaluation.datasets.captioned import captioned, karpathy

KARPATHY = "dataset_flickr30k.json"
FOLDERS = ("flickr30k-images", "flickr30k_images", "images", "Images", ".")


def read(root: Path, split: str) -> Listing:
    """`flickr30k_test_karpathy.txt`: a header, then `1007129816.jpg,A man …` once for each caption."""
    listed = root / f"flickr30k_{split}_karpathy.txt"
    if not listed.is_file():
        return karpathy(root, KARPATHY, split, FOLDERS, listed)
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(lines(listed)[1:], start=2):
        name, comma, caption = line.partition(".jpg,")
        if not comma or not caption.strip():
            raise InputError(f"{listed}, line {number}: expected a picture, a comma and a caption, found {line!r}.")
        captions.setdefault(f"{name}.jpg", []).append(caption)
    return captioned(root, FOLDERS, captions, listed)


SET = PublicSet(
    name="flickr30k",
    archive="flickr30k-images with dataset_flickr30k.json, or CLIP_benchmark's flickr30k_test_karpathy.txt",
    marks=(KARPATHY, "flickr30k_test_karpathy.txt", "flickr30k-images"),
    splits=("test", "val", "train"),
    read=read,
    size={"test": 1_000, "val": 1_014, "train": 29_000},
    folders=("flickr", "flickr_1k_test_image_text_retrieval"),
    task="zeroshot_retrieval",
    checked="CLIP_benchmark's flickr.py (lists); public readers of Karpathy's JSON",
)
