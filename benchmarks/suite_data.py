"""Real data sets that need no download from a data hub, written in CLIP_benchmark's WebDataset layout.

    python benchmarks/suite_data.py out/suite/data

- `wds_fashion_mnist`: 10 kinds of clothing, 28 × 28 grey, from Debian's package `dataset-fashion-mnist` (30 MB), which
  `apt-get download` fetches into the folder above; it need not be installed. 200 test, 200 training pictures a class.
- `wds_digits`: scikit-learn's handwritten digits, 8 × 8 grey: the first half trains, the second is the test.
- `wds_clipart`: the labelled pictures of the demo, by their category, split as the demo splits them.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import subprocess
import tarfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits

import isthmus_demo

PACKAGE = "dataset-fashion-mnist"
CLOTHES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PER_CLASS = 200
Item = dict[str, bytes]  # the members of one sample by extension


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    build(parser.parse_args().out)


def build(root: Path) -> Path:
    """All three sets below `root`; those that are there are left as they are."""
    makers = {"wds_fashion_mnist": fashion_mnist, "wds_digits": digits, "wds_clipart": clipart}
    for name, make in makers.items():
        if not (root / name / "dataset_type.txt").exists():
            make(root / name)
    return root


def fashion_mnist(folder: Path) -> None:
    for split, stem in (("train", "train"), ("test", "t10k")):
        images, labels = fashion_arrays(folder.parent, stem)
        items = zip(images, labels.tolist(), strict=True)
        _write_split(folder, split, ({"png": _png(image), "cls": b"%d" % number} for image, number in items))
    _write_names(
        folder, CLOTHES, ["a photo of a {c}.", "a black and white photo of a {c}.", "{c}, a piece of clothing."]
    )


def fashion_arrays(cache: Path, stem: str = "t10k") -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [n, 28, 28] and classes [n] of Fashion-MNIST's test ("t10k") or training part."""
    members = _debian_package(cache)
    labels = np.frombuffer(gzip.decompress(members[f"{stem}-labels-idx1-ubyte.gz"]), np.uint8, offset=8)
    pixels = np.frombuffer(gzip.decompress(members[f"{stem}-images-idx3-ubyte.gz"]), np.uint8, offset=16)
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == c)[:PER_CLASS] for c in range(10)]))
    return pixels.reshape(-1, 28, 28)[chosen], labels[chosen]


def digits(folder: Path) -> None:
    data = load_digits()
    images, half = (data.images * (255 / 16)).astype(np.uint8), len(data.target) // 2
    for split, rows in (("train", slice(0, half)), ("test", slice(half, None))):
        items = zip(images[rows], data.target[rows].tolist(), strict=True)
        _write_split(folder, split, ({"png": _png(image), "cls": b"%d" % number} for image, number in items))
    _write_names(folder, NUMBERS, ['a photo of the number: "{c}".', "the handwritten digit {c}."])


def clipart(folder: Path) -> None:
    rows = [row for row in pq.read_table(isthmus_demo.PAIRS).to_pylist() if row["label"]]
    names = sorted({row["label"] for row in rows})
    by_split: dict[str, list[Item]] = defaultdict(list)
    for row in rows:
        group = json.dumps({"group": row["group"]}).encode()  # near-duplicates, the unit of intervals
        members = {"webp": row["image"], "cls": b"%d" % names.index(row["label"]), "json": group}
        by_split[row["split"]].append(members)
    for split, items in by_split.items():
        _write_split(folder, split, items)
    _write_names(folder, names, ["clip art of a {c}.", "a drawing of a {c}.", "an icon of a {c}."])


def _debian_package(cache: Path) -> dict[str, bytes]:
    """The data files of the package, fetched with apt-get unless they are there."""
    cache.mkdir(parents=True, exist_ok=True)
    if not list(cache.glob(f"{PACKAGE}_*.deb")):
        subprocess.run(["apt-get", "download", PACKAGE], cwd=cache, check=True)
    tree = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", str(next(cache.glob(f"{PACKAGE}_*.deb")))], check=True, stdout=subprocess.PIPE
    )
    with tarfile.open(fileobj=io.BytesIO(tree.stdout)) as archive:
        return {Path(m.name).name: archive.extractfile(m).read() for m in archive if m.name.endswith("ubyte.gz")}


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _write_split(folder: Path, split: str, items: Iterable[Item]) -> None:
    (folder / split).mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / split / "0.tar", "w") as archive:
        for number, members in enumerate(items):
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"s{number:07d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    (folder / split / "nshards.txt").write_text("1\n")


def _write_names(folder: Path, names: Iterable[str], templates: Iterable[str]) -> None:
    (folder / "classnames.txt").write_text("\n".join(names) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")
    (folder / "dataset_type.txt").write_text("classification\n")


if __name__ == "__main__":
    main()
