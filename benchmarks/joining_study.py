"""Does another image encoder find its way into the space of a trained model?

    python benchmarks/joining_study.py --store out/selection_study/store

Trains EfficientNet-Lite1 with MiniLM-L6, then lets other image encoders of the store join that space with its text
side frozen, and measures retrieval on held-out pictures that no choice was made on: new images with the old captions,
and new images with old ones. Writes benchmarks/results/joining_study.json and docs/joining.md. The store is the one
that benchmarks/selection_study.py makes. Some minutes on one core. `--render` writes the page alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import isthmus as ist
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.metrics.retrieval import retrieval
from isthmus.store import open_store

HERE = Path(__file__).parent
RESULT, PAGE = HERE / "results" / "joining_study.json", HERE.parent / "docs" / "joining.md"
OLD, TEXT = "wheel:efficientnet-lite1", "wheel:minilm-l6"
NEW = ("wheel:efficientnet-lite0", "wheel:dinov2-small-saliency?layer=11&pool=cls+mean")
WAYS = {"joined, default": "default", "joined, ridge alone": "cca", "joined, linear": "linear"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store", default="out/selection_study/store")
    parser.add_argument("--render", action="store_true", help="only write the page from the results")
    args = parser.parse_args()
    if not args.render:
        RESULT.write_text(json.dumps(measure(args.store), indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(render(json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")


def parts(store: str, image: str) -> tuple[FeaturePairs, FeaturePairs, FeaturePairs]:
    """Train pairs, and two halves of the held-out groups: to choose on, and to measure on."""
    opened = open_store(store)
    train, held = (opened.pairs(split=split, image=image, text=TEXT) for split in ("train", "val"))
    half = held.bootstrap_group % 2 == 0
    return train, held.subset(half), held.subset(~half)


def measure(store: str) -> dict[str, Any]:
    train, val, test = parts(store, OLD)
    old = ist.train(train, val=val)
    captions, pictures = old.project("text", test.text), old.project("image", test.image)
    rows = [{"image": OLD, "way": "the old model itself", "text": recall(pictures, captions, test), "old images": None}]
    for uri in NEW:
        train, val, test = parts(store, uri)
        free = ist.train(train, val=val)
        own = recall(free.project("image", test.image), free.project("text", test.text), test)
        rows.append({"image": uri, "way": "a model of its own, default", "text": own, "old images": None})
        for way, recipe in WAYS.items():
            new = ist.train(train, val=val, recipe=recipe, init=old, freeze="text")
            assert np.array_equal(new.project("text", test.text), captions)  # the text side has not moved
            joined = new.project("image", test.image)
            row = {"image": uri, "way": way, "text": recall(joined, captions, test)}
            rows.append(row | {"old images": recall(joined, pictures, test)})
            print(rows[-1], flush=True)
    n = {"train": len(train), "val": len(val), "test": len(test), "groups": len(np.unique(test.bootstrap_group))}
    return {"n": n, "rows": rows, "version": ist.__version__}


def recall(a: np.ndarray, b: np.ndarray, test: FeaturePairs) -> dict[str, Any]:
    """R@10, mean of both directions; one caption per image here."""
    found = retrieval(a, b, test.image_of, groups=test.bootstrap_group)
    return {"value": found["metrics"]["mean_recall@10"], "ci95": found["ci95"]["mean_recall@10"]}


HEAD = """\
# Joining an existing space

## What to do

- You have an index and want a better image encoder: join it, and keep the index of captions.
- Let `default` do it; ridge alone, a second, was not told from it.
- Embed the pictures again when you can: between an old and a new encoder, similar ones find each other more easily.

## Why

Written by `python benchmarks/joining_study.py` from `benchmarks/results/joining_study.json`; not edited by hand.

    isthmus train STORE --init MODEL --freeze text --image-encoder URI --out JOINED

freezes the text side of a trained model and trains another image encoder onto it. Indexed captions stay
valid, and pictures that either encoder embedded are compared with each other. `--freeze image` does the same for
another text encoder. Of the closed forms, ridge regression onto the fixed side takes the place of CCA; the default
recipe averages it with the trained head.

{train:,} training pairs of the demo data, chosen on {val}, measured on {test} other pictures ({groups} groups): R@10,
mean of both directions, %, with 95 % intervals over groups. One seed; chance is {chance:.1f} %.

| image encoder | how | with captions | with the old encoder's images |
|---|---|---|---|
"""

FOOT = """
With captions, the intervals of the methods overlap: they are ties here, and joining has no visible cost compared with
a separate model. The last column shows that the spaces are the same: an old and a new embedding of the same picture
find each other among {test}, most easily where the encoders are relatives (Lite0 and Lite1).
"""


def render(measured: dict[str, Any]) -> str:
    n = measured["n"]
    lines = [
        f"| `{row['image']}` | {row['way']} | {cell(row['text'])} | {cell(row['old images'])} |"
        for row in measured["rows"]
    ]
    return HEAD.format(**n, chance=1000 / n["test"]) + "\n".join(lines) + "\n" + FOOT.format(**n)


def cell(one: dict[str, Any] | None) -> str:
    return "" if one is None else "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * v for v in (one["value"], *one["ci95"])))


if __name__ == "__main__":
    main()
