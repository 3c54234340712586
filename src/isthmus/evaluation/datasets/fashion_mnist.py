"""Fashion-MNIST (Xiao et al., 2017): `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`, `train-…`, also as `.gz`."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from isthmus.errors import InputError
from isthmus.evaluation.datasets.archive import Listing, PublicSet
from isthmus.evaluation.datasets.names import class_names

PREFIX = {"test": "t10k", "train": "train"}
MAGIC = {1: 2049, 3: 2051}  # of unsigned bytes in so many dimensions


def read(root: Path, split: str) -> Listing:
    """Classes by their number, 0 to 9."""
    root = root / "raw" if (root / "raw").is_dir() else root
    images = _idx(root / f"{PREFIX[split]}-images-idx3-ubyte", 3)
    labels = _idx(root / f"{PREFIX[split]}-labels-idx1-ubyte", 1)
    classes = class_names("fashion_mnist") or []
    if len(images) != len(labels) or labels.max(initial=0) >= len(classes):
        raise InputError(f"{root}: {len(images)} pictures and {len(labels)} labels up to {labels.max(initial=0)}.")
    return Listing(list(images), [f"{split}/{i}" for i in range(len(images))], labels.tolist(), classes)


def _idx(file: Path, dimensions: int) -> np.ndarray:
    """An array of bytes in LeCun's IDX format: a magic number, the sizes, the values; numbers big-endian."""
    packed = file.with_name(file.name + ".gz")
    try:
        data = file.read_bytes() if file.is_file() else gzip.decompress(packed.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{file}: is missing, and so is {packed.name}.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file}: cannot be read ({error}).") from None
    head = 4 * (1 + dimensions)
    magic, *shape = np.frombuffer(data[: len(data[:head]) // 4 * 4], ">u4").tolist() or [0]
    if magic != MAGIC[dimensions] or len(shape) != dimensions or len(data) - head != int(np.prod(shape)):
        raise InputError(f"{file}: is no whole IDX file of bytes in {dimensions} dimensions.")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


SET = PublicSet(
    name="fashion_mnist",
    archive="the four …-ubyte.gz files",
    marks=tuple(
        f"{prefix}-{kind}-ubyte{end}"
        for prefix in ("t10k", "train")
        for kind in ("images-idx3", "labels-idx1")
        for end in ("", ".gz")
    ),
    splits=("test", "train"),
    read=read,
    size={"test": 10_000, "train": 60_000},
    folders=("fashionmnist",),
    checked="torchvision's FashionMNIST",
)
