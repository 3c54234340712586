"""COCO captions (Lin et al., 2014): Karpathy's test split, and the official val2017 that SAIL takes."""

from __future__ import annotations

from pathlib import Path

from isthmus.errors import InputError
from isthmus.evaluation.datasets.archive import Listing, PublicSet, json_of
from isthmus.evaluation.datasets.captioned import captioned, karpathy

KARPATHY = "dataset_coco.json"
FOLDERS = ("val2014", "train2014", "images/val2014", "images", ".")
OFFICIAL = "captions_val2017.json"


def read(root: Path, split: str) -> Listing:
    """`coco_test_karpathy.json` (CLIP_benchmark's, in COCO's own format) or Karpathy's `dataset_coco.json`; the split
    `val2017` is `annotations/captions_val2017.json`. Captions stand in the order of their ids.
    """
    if split == "val2017":
        file = next((f for f in (root / "annotations" / OFFICIAL, root / OFFICIAL) if f.is_file()), root / OFFICIAL)
        return _official(root, ("val2017", "images/val2017", "."), file)
    listed = root / f"coco_{split}_karpathy.json"
    if listed.is_file():
        return _official(root, FOLDERS, listed)
    return karpathy(root, KARPATHY, split, FOLDERS, listed)


def _official(root: Path, folders: tuple[str, ...], file: Path) -> Listing:
    rows = json_of(file)
    try:
        name_of = {image["id"]: image["file_name"] for image in rows["images"]}
        notes = sorted(rows["annotations"], key=lambda note: note["id"])
        captions: dict[str, list[str]] = {name: [] for _, name in sorted(name_of.items())}
        for note in notes:
            captions[name_of[note["image_id"]]].append(note["caption"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{file}: is not COCO's format: {{images: …, annotations: …}} ({error!r}).") from None
    return captioned(root, folders, captions, file)


SET = PublicSet(
    name="mscoco_captions",
    archive="val2014.zip with CLIP_benchmark's coco_test_karpathy.json or dataset_coco.json; val2017.zip with "
    "annotations_trainval2017.zip",
    marks=("coco_test_karpathy.json", KARPATHY, f"annotations/{OFFICIAL}", OFFICIAL),
    splits=("test", "val", "train", "val2017"),
    read=read,
    size={"test": 5_000, "val": 5_000, "val2017": 5_000},
    folders=("coco", "mscoco", "coco_captions", "mscoco_2014_5k_test_image_text_retrieval", "coco2017", "coco2014"),
    task="zeroshot_retrieval",
    checked="CLIP_benchmark's builder.py and torchvision's CocoCaptions; SAIL's coco_dataset.py (val2017)",
)
