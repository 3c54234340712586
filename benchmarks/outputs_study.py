"""What smaller embeddings cost: recall against bytes per item, on the demo data.

    python benchmarks/outputs_study.py --store out/demo/store

Trains heads with and without Matryoshka widths (two seeds each), CCA and the default recipe on the store's train
split, and measures retrieval on its test split: prefixes, one byte per dimension, one bit (Hamming; asymmetric, where
the query stays float32). Writes benchmarks/results/outputs_study.json and, from that, docs/outputs.md. About five
minutes on one core. `--render` writes the page alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import isthmus as ist
from isthmus.metrics.bootstrap import paired_bootstrap
from isthmus.metrics.retrieval import Ranks, ranks
from isthmus.models.outputs import Decoded, quantize, shorten
from isthmus.store import open_store

HERE = Path(__file__).parent
RESULT, PAGE = HERE / "results" / "outputs_study.json", HERE.parent / "docs" / "outputs.md"
WIDTHS = (16, 32, 64, 128, 256, 512)
PLAIN = ["head.beside=none", "head.width=512"]
MODELS = {
    "plain": ("default", PLAIN, (0, 1)),
    "matryoshka": ("default", [*PLAIN, "loss.matryoshka=[16, 32, 64, 128, 256]"], (0, 1)),
    "cca": ("cca", [], (0,)),
    "default": ("default", [], (0,)),
}
KINDS = {"float32": 4.0, "int8": 1.0, "binary": 1 / 8, "binary, asymmetric": 1 / 8}
RECALLS = (1, 10)
RESAMPLES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store", default="out/demo/store")
    parser.add_argument("--render", action="store_true", help="only write the page from the results")
    args = parser.parse_args()
    if not args.render:
        measured = measure(args.store)
        RESULT.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(render(json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")


def measure(store: str) -> dict[str, Any]:
    """All rows of all models, each compared with its own float32 at full width."""
    began = time.process_time()
    test = open_store(store).pairs(split="test")
    rows: list[dict[str, Any]] = []
    for name, (recipe, overrides, seeds) in MODELS.items():
        found: dict[tuple[str, int], list[Ranks]] = {}
        for seed in seeds:
            model = ist.train(store, recipe=recipe, overrides=overrides, seed=seed)
            image, text = model.project("image", test.image), model.project("text", test.text)
            for width in [width for width in WIDTHS if width < model.width] + [model.width]:
                for kind in KINDS:
                    found.setdefault((kind, width), []).append(ranked(image, text, test.image_of, kind, width))
            print(name, seed, round(time.process_time() - began), "s", flush=True)
        whole = found["float32", max(width for _, width in found)]
        rows += [row(name, kind, width, one, whole, test.bootstrap_group) for (kind, width), one in found.items()]
    n = {"images": len(test), "captions": len(test.image_of), "groups": len(np.unique(test.bootstrap_group))}
    return {"n": n, "rows": rows, "cpu_seconds": round(time.process_time() - began), "version": ist.__version__}


def ranked(image: np.ndarray, text: np.ndarray, image_of: np.ndarray, kind: str, width: int) -> Ranks:
    """Both directions. Asymmetric: the query as it is, the collection in bits."""
    image, text = shorten(image, width), shorten(text, width)
    if kind == "float32":
        return ranks(image, text, image_of)
    coded = [Decoded(quantize(side, kind.partition(",")[0]), width) for side in (image, text)]
    if "asymmetric" not in kind:
        return ranks(*coded, image_of)
    to_image, to_text = ranks(coded[0], text, image_of), ranks(image, coded[1], image_of)
    return Ranks(image=to_image.image, text=to_text.text, image_of=to_image.image_of, images=to_image.images)


def row(name: str, kind: str, width: int, found: list[Ranks], whole: list[Ranks], groups: np.ndarray) -> dict[str, Any]:
    """Recall, mean of directions and seeds, with its interval, and the paired difference to full float32."""
    out: dict[str, Any] = {"model": name, "kind": kind, "width": width, "bytes": KINDS[kind] * width}
    units = [unit for one in found for unit in one.units(groups)]
    for k in RECALLS:
        hits, before = ([side.astype(float) for one in many for side in one.hits(k)] for many in (found, whole))
        none = [np.zeros_like(side) for side in hits]
        level = paired_bootstrap(hits, none, units, resamples=RESAMPLES)
        change = paired_bootstrap(hits, before, units, resamples=RESAMPLES)
        out[f"R@{k}"] = {"value": level["difference"], "ci95": level["ci95"]}
        out[f"change@{k}"] = {"value": change["difference"], "ci95": change["ci95"]}
    return out


# --- the page ---------------------------------------------------------------------------------------------------------

HEAD = """\
# Smaller embeddings: what they cost

## What to do

- Store `int8`: a quarter of the bytes, and no loss that can be measured.
- Want bits? Keep the query in float32 (asymmetric), and do not binarise `cca`.
- Want 32 dimensions or fewer? Train them (`loss.matryoshka`, `head.beside=none`); from 64 on `cca`, cut, is as good.

[How](guide/spaces.md) is in the guide.

## Why

Written by `python benchmarks/outputs_study.py` from `benchmarks/results/outputs_study.json`; not edited by hand.

{images:,} test pictures of the demo data ({groups:,} groups of near-duplicates), retrieval, mean of both directions. In
brackets: 95 % intervals from a bootstrap over groups. *Change* compares, on the same queries, with the same model's
float32 at full width; if its interval contains 0 it is a tie. Heads are of the default recipe without CCA beside them,
512 wide, two seeds each; the two differ only in `loss.matryoshka = [16, 32, 64, 128, 256]`. `default` is CCA, 384
wide, beside a trained head, so that its first 384 dimensions are CCA alone. CCA's directions fall in weight: it is
ordered by nature, but its bits all weigh the same, which is why they cost it most. One data set, small and of
drawings: how much is lost on yours, `benchmarks/outputs_study.py --store YOURS` shows.

"""

USE = """
## Searching among them

`isthmus.models.outputs.Decoded(codes, width)` stands for embeddings in `top_k` and `retrieval`: with bits on both
sides that is Hamming distance, with a float32 query the asymmetric comparison. Train prefixes with
`isthmus train STORE --set head.beside=none --set 'loss.matryoshka=[32, 64, 128]' --out MODEL`.
"""


def render(measured: dict[str, Any]) -> str:
    rows = measured["rows"]
    text = HEAD.format(**measured["n"])
    text += "## Fewer dimensions, float32\n\nR@10, %:\n\n" + widths_table(rows)
    text += "\n" + reading(rows)
    text += "\n## Fewer bytes per dimension\n\nAt full width, and of the Matryoshka heads at 128:\n\n" + kinds_table(
        rows
    )
    text += f"\nEverything on this page took {measured['cpu_seconds']} s of CPU.\n"
    return text + USE


def cell(one: dict[str, Any], sign: bool = False) -> str:
    low, high = one["ci95"]
    numbers = [f"{100 * value:{'+' if sign else ''}.1f}" for value in (one["value"], low, high)]
    return "{} [{}, {}]".format(*numbers).replace("-", "−")


def widths_table(rows: list[dict[str, Any]]) -> str:
    names = list(MODELS)
    lines = ["| dimensions | bytes | " + " | ".join(names) + " |", "|---:|---:|" + "---|" * len(names)]
    for width in sorted({row["width"] for row in rows}):
        found = [find(rows, name, "float32", width) for name in names]
        cells = [cell(one["R@10"]) if one else "" for one in found]
        lines.append(f"| {width} | {4 * width:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def kinds_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| model | dimensions | output | bytes | R@1, % | R@10, % | change of R@10, points |",
        "|---|---:|---|---:|---|---|---|",
    ]
    for name in MODELS:
        full = full_width(rows, name)
        for width in [128, full] if name == "matryoshka" else [full]:
            for kind in KINDS:
                one = find(rows, name, kind, width)
                assert one is not None
                cells = [cell(one["R@1"]), cell(one["R@10"]), cell(one["change@10"], sign=True)]
                lines.append(f"| {name} | {width} | {kind} | {one['bytes']:,.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def reading(rows: list[dict[str, Any]]) -> str:
    """Which widths of which heads are ties with the whole, and where heads are apart, said from the numbers."""
    lines = []
    for name in MODELS:
        full = full_width(rows, name)
        short = [find(rows, name, "float32", width) for width in WIDTHS if width < full]
        tied = [one["width"] for one in short if one and one["change@10"]["ci95"][1] >= 0]
        said = f"a tie with all {full} dimensions at " + ", ".join(map(str, tied))
        lines.append(f"- {name}: {said if tied else f'every prefix costs recall against all {full}'}.")
    for one, other in (("matryoshka", "plain"), ("matryoshka", "cca")):
        ahead, behind = (apart(rows, *both) for both in ((one, other), (other, one)))
        lines.append(f"- {one} against {other}, by intervals that do not meet: ahead at {ahead}; behind at {behind}.")
    return "\n".join(lines) + "\n"


def apart(rows: list[dict[str, Any]], better: str, worse: str) -> str:
    """The widths at which the whole interval of one lies above that of the other."""
    both = [(width, *(find(rows, name, "float32", width) for name in (better, worse))) for width in WIDTHS]
    found = [width for width, a, b in both if a and b and a["R@10"]["ci95"][0] > b["R@10"]["ci95"][1]]
    return ", ".join(map(str, found)) or "no width"


def full_width(rows: list[dict[str, Any]], name: str) -> int:
    return max(row["width"] for row in rows if row["model"] == name)


def find(rows: list[dict[str, Any]], name: str, kind: str, width: int) -> dict[str, Any] | None:
    return next((r for r in rows if (r["model"], r["kind"], r["width"]) == (name, kind, width)), None)


if __name__ == "__main__":
    main()
