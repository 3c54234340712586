"""ImageNet (ILSVRC2012), its validation pictures, and the sets that share its synset folders: -A, -R and -Sketch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from isthmus.data.labels import SYNSET
from isthmus.errors import InputError
from isthmus.evaluation.datasets.archive import (
    Listing,
    PublicSet,
    among,
    in_folders,
    lines,
    listed,
    matlab,
    number,
    pictures,
    position,
    subfolders,
)
from isthmus.evaluation.datasets.names import class_names, synsets

FLAT = "ILSVRC2012_val_00000001.JPEG"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
DEVKIT = "ILSVRC2012_devkit_t12/data"
KAGGLE = "LOC_val_solution.csv"
TARS = {"test": "ILSVRC2012_img_val.tar", "train": "ILSVRC2012_img_train.tar"}


def read(root: Path, split: str) -> Listing:
    """Classes sorted by synset. `test` is the validation set, the only one with public labels.

    `val/n01440764/….JPEG`; or the pictures as the archive has them, in one folder, with the devkit (`DEVKIT`) or
    Kaggle's `LOC_val_solution.csv` to say what they are.
    """
    folder = _pictures(root, split)
    if split == "test" and pictures(folder):
        return _flat(root, folder)
    return _by_synset("imagenet1k", folder)


def read_synsets(name: str, root: Path, split: str) -> Listing:
    """A folder for each of the set's synsets; sorted, they are the classes in order."""
    folder = next((root / sub for sub in ("images", "sketch") if (root / sub).is_dir()), root)
    return _by_synset(name, folder)


def _pictures(root: Path, split: str) -> Path:
    names = ("val", "validation", "test", "ILSVRC2012_img_val") if split == "test" else ("train",)
    bases = (root, root / "images", root / "ILSVRC" / "Data" / "CLS-LOC", root / "Data" / "CLS-LOC")
    folders = [base / name for base in bases for name in names] + [root]
    for folder in folders:
        if folder.is_dir() and ((folder / FLAT).is_file() or any(map(SYNSET.fullmatch, subfolders(folder)))):
            return folder
    packed = f" {TARS[split]} must be extracted first." if (root / TARS[split]).is_file() else ""
    raise InputError(f"{root}: no pictures of the split {split} (val/n01440764/… or {FLAT}).{packed}")


def _by_synset(name: str, folder: Path) -> Listing:
    wanted = synsets(name) or []
    there = {found for found in subfolders(folder) if SYNSET.fullmatch(found)}
    missing, foreign = sorted(set(wanted) - there), sorted(there - set(wanted))
    if foreign:
        raise InputError(f"{folder / foreign[0]}: is no class of {name}; is this another set of ImageNet?")
    if missing:
        raise InputError(
            f"{folder / missing[0]}: is missing, {among(len(missing), len(wanted))} classes; is the archive extracted "
            "whole?"
        )
    return in_folders(folder, wanted, class_names(name) or [])


def _flat(root: Path, folder: Path) -> Listing:
    """Pictures in one folder; the devkit numbers them in the order of their names."""
    number_of = {id: label for label, id in enumerate(synsets("imagenet1k") or [])}
    classes = class_names("imagenet1k") or []
    for base in (root, folder.parent, root.parent):
        if (base / KAGGLE).is_file():
            rows = [line.split(",") for line in lines(base / KAGGLE)[1:]]
            labels = [position(row[1].split()[0], number_of, f"{base / KAGGLE}, {row[0]}") for row in rows]
            return listed(folder, [f"{row[0]}.JPEG" for row in rows], labels, classes, base / KAGGLE)
        devkit = base / DEVKIT
        if devkit.is_dir():
            return _by_devkit(folder, devkit, number_of, classes)
    raise InputError(f"{folder}: which class has {FLAT}? Put the devkit ({DEVKIT}) or {KAGGLE} beside the pictures.")


def _by_devkit(folder: Path, devkit: Path, number_of: dict[str, int], classes: Sequence[str]) -> Listing:
    (rows,) = matlab(devkit / "meta.mat", "synsets")
    synset = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows if int(row["num_children"]) == 0}
    truth = lines(devkit / TRUTH)
    if set(synset.values()) != set(number_of):
        raise InputError(f"{devkit / 'meta.mat'}: names {len(synset)} synsets, which are not ImageNet's 1,000.")
    labels = [number_of[synset[number(id, len(synset), str(devkit / TRUTH)) + 1]] for id in truth]
    names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, len(truth) + 1)]
    return listed(folder, names, labels, classes, devkit / TRUTH)


def _variant(
    name: str, archive: str, size: int, marks: tuple[str, ...], folders: tuple[str, ...], checked: str
) -> PublicSet:
    return PublicSet(
        name=name,
        archive=archive,
        marks=marks,
        splits=("test",),
        read=partial(read_synsets, name),
        size={"test": size},
        folders=folders,
        checked=checked,
    )


SET = PublicSet(
    name="imagenet1k",
    archive="ILSVRC2012_img_val.tar with ILSVRC2012_devkit_t12.tar.gz, or folders of synsets",
    marks=(
        *(f"{base}{name}" for base in ("", "images/", "ILSVRC/Data/CLS-LOC/") for name in ("val", "validation")),
        *("train", "ILSVRC2012_img_val", FLAT, "n01440764", *TARS.values()),
    ),
    splits=("test", "train"),
    read=read,
    size={"test": 50_000, "train": 1_281_167},
    folders=("imagenet", "ilsvrc2012", "imagenet-1k"),
    checked="torchvision's ImageNet (folders, devkit); TensorFlow Datasets' labels.txt (synsets)",
    notes="Kaggle's LOC_val_solution.csv and ILSVRC/Data/CLS-LOC are from memory.",
)
SETS = [
    _variant(
        "imagenet-a",
        "imagenet-a.tar",
        7_500,
        ("n01498041",),
        ("imagenet-adversarial",),
        "TensorFlow Datasets' imagenet_a; synsets: eval.py of hendrycks/natural-adv-examples, CLIP_benchmark",
    ),
    _variant(
        "imagenet-r",
        "imagenet-r.tar",
        30_000,
        ("n01443537",),
        ("imagenet-rendition",),
        "TensorFlow Datasets' imagenet_r; synsets: eval.py of hendrycks/imagenet-r, CLIP_benchmark",
    ),
    _variant(
        "imagenet_sketch",
        "ImageNet-Sketch.zip",
        50_889,
        ("sketch/n01440764", "images/n01440764", "n01440764"),
        ("sketch", "imagenet-sketch"),
        "TensorFlow Datasets' imagenet_sketch, CLIP_benchmark's builder.py, CoOp's imagenet_sketch.py",
    ),
]
