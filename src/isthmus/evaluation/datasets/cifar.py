"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), the binary version; the Python version is a pickle, which is not read."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from isthmus.errors import InputError
from isthmus.evaluation.datasets.archive import Listing, PublicSet, lines, matched_names
from isthmus.evaluation.datasets.names import class_names

SIDE = 32
FILES = {
    "cifar10": {"test": ["test_batch.bin"], "train": [f"data_batch_{i}.bin" for i in range(1, 6)]},
    "cifar100": {"test": ["test.bin"], "train": ["train.bin"]},
}
NAMES = {"cifar10": "batches.meta.txt", "cifar100": "fine_label_names.txt"}
BINARY = {"cifar10": "cifar-10-binary.tar.gz", "cifar100": "cifar-100-binary.tar.gz"}
PICKLES = {"cifar10": "batches.meta", "cifar100": "meta"}


def read(name: str, root: Path, split: str) -> Listing:
    """Classes by their number, named by `batches.meta.txt` (CIFAR-100: the fine ones, by `fine_label_names.txt`).

    A row of a file is a label (CIFAR-100: a coarse and a fine one) and 3,072 bytes, the picture's planes of red, green
    and blue.
    """
    files = [root / file for file in FILES[name][split]]
    if (root / PICKLES[name]).is_file() and not files[0].is_file():
        raise InputError(f"{root}: is the Python version, a pickle, which is not read; get {BINARY[name]}.")
    source = root / NAMES[name]
    classes = matched_names(lines(source), class_names(name) or [], source)
    heads = 1 if name == "cifar10" else 2
    rows = np.concatenate([_rows(file, heads + 3 * SIDE**2) for file in files])
    labels = rows[:, heads - 1]
    if labels.max(initial=0) >= len(classes):
        raise InputError(f"{files[0]}: has the label {labels.max()}, but {source} names {len(classes)} classes.")
    images = rows[:, heads:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return Listing(list(images), [f"{split}/{i}" for i in range(len(rows))], labels.tolist(), classes)


def _rows(file: Path, width: int) -> np.ndarray:
    if not file.is_file():
        raise InputError(f"{file}: is missing; is the archive extracted whole?")
    data = np.fromfile(file, np.uint8)
    if not len(data) or len(data) % width:
        raise InputError(f"{file}: has {len(data):,} bytes, which is not a whole number of pictures of {width:,} each.")
    return data.reshape(-1, width)


def _set(name: str, folders: tuple[str, ...]) -> PublicSet:
    return PublicSet(
        name=name,
        archive=BINARY[name],
        marks=(*FILES[name]["test"], NAMES[name], PICKLES[name]),
        splits=("test", "train"),
        read=partial(read, name),
        size={"test": 10_000, "train": 50_000},
        folders=folders,
        checked="TensorFlow Datasets' cifar.py (binary version); the readme at cs.toronto.edu/~kriz/cifar.html",
    )


SETS = [
    _set("cifar10", ("cifar-10", "cifar-10-batches-bin", "cifar-10-batches-py")),
    _set("cifar100", ("cifar-100", "cifar-100-binary", "cifar-100-python")),
]
