"""UCF101 (Soomro et al., 2012), a frame of each video: CoOp's `UCF-101-midframes/Apply_Lipstick/v_….jpg`.

The set itself is of videos; what papers on images report is the middle frame of each, as the authors of CoOp publish
it, with `ucfTrainTestlist/testlist01.txt` of the set's own authors or CoOp's `split_zhou_UCF101.json`.
"""

from __future__ import annotations

from pathlib import Path

from isthmus.errors import InputError
from isthmus.evaluation.datasets.archive import (
    Listing,
    PublicSet,
    in_folders,
    json_of,
    letters,
    lines,
    listed,
    position,
    subfolders,
)
from isthmus.evaluation.datasets.names import class_names

FRAMES, LISTS, ZHOU = "UCF-101-midframes", "ucfTrainTestlist", "split_zhou_UCF101.json"


def read(root: Path, split: str) -> Listing:
    """Classes sorted by name, as in `classInd.txt`. `all`: every video, as freeze-align takes it; `test` and `train`:
    the first of the three published lists.
    """
    frames = root / FRAMES
    classes = class_names("ucf101") or []
    numbers = {letters(name): label for label, name in enumerate(classes)}
    folder_of = {letters(folder): folder for folder in subfolders(frames)}
    missing = [name for name in classes if letters(name) not in folder_of]
    if missing:
        raise InputError(f"{frames / missing[0].replace(' ', '_')}: is missing; is the archive extracted whole?")
    if split == "all":
        return in_folders(frames, [folder_of[letters(name)] for name in classes], classes)
    source, names = _list(root, split)
    owners = [letters(name.split("/")[0]) for name in names]
    labels = [position(owner, numbers, str(source)) for owner in owners]
    files = [f"{folder_of[owner]}/{Path(name).stem}.jpg" for owner, name in zip(owners, names, strict=True)]
    return listed(frames, files, labels, classes, source)


def _list(root: Path, split: str) -> tuple[Path, list[str]]:
    """`ApplyLipstick/v_ApplyLipstick_g01_c01.avi` (CoOp: `Apply_Lipstick/….jpg`) of each video of a split."""
    source = root / LISTS / f"{split}list01.txt"
    if source.is_file():
        return source, [line.split()[0] for line in lines(source)]
    zhou = root / ZHOU
    if not zhou.is_file():
        raise InputError(f"{source}: is missing, and so is {ZHOU}; the split `all` takes every frame.")
    rows = json_of(zhou)
    try:
        return zhou, [row[0] for part in (("train", "val") if split == "train" else (split,)) for row in rows[part]]
    except (KeyError, IndexError, TypeError):
        raise InputError(f"{zhou}: expected {{split: [[file, label, class], …]}}, as CoOp writes it.") from None


SET = PublicSet(
    name="ucf101",
    archive="UCF-101-midframes.zip (CoOp), with UCF101TrainTestSplits-RecognitionTask.zip or " + ZHOU,
    marks=(FRAMES,),
    splits=("test", "train", "all"),
    read=read,
    size={"test": 3_783, "train": 9_537, "all": 13_320},
    folders=("ucf-101", "ucf"),
    checked="CoOp's ucf101.py; torchvision's UCF101 (lists); names: TensorFlow Datasets' ucf101_labels.txt",
)
