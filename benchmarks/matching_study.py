"""Do layers help to match pictures with captions? A manager against the last layer, before and after re-ranking.

    python benchmarks/matching_study.py                # goes on where it stopped; a run is minutes of one core
    python benchmarks/matching_study.py --runs 2       # that many further runs
    python benchmarks/fusion_study.py --render         # docs/managers.md, with this study's part

Protocol. Captioned drawings of the demo: so many of each split as SIZES says, chosen by a hash of their group of
near-duplicates, whole groups at a time. The recipe is `manager`, which without answers learns whether a caption belongs
to its picture, against hard negatives, and contrast between the unimodal ends; only the aggregator differs. The epoch
that is best on the validation drawings is kept. On the test drawings every caption is put to its own picture and to
another one (matching), and ranked among all by the cosine of the unimodal ends, whose first TOP are then put in order
by matching (re-ranking). Differences are paired by drawing; intervals are of a bootstrap over groups.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

import isthmus as ist
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.embedding import embed
from isthmus.evaluation.exposure import Exposure
from isthmus.evaluation.matching import matched
from isthmus.evaluation.reranking import Reranking
from isthmus.metrics.bootstrap import paired_bootstrap
from isthmus.metrics.retrieval import ranks
from isthmus_demo import PAIRS

RESULTS = Path(__file__).parent / "results" / "matching_study.json"
SIZES = {"train": 1600, "val": 200, "test": 400}
IMAGE = "wheel:dinov2-small-saliency?size=112&layer=7,8,9,10,11,12&pool=states"
TEXT = "wheel:minilm-l6?max_tokens=32&layer=1,2,3,4,5,6&pool=states"
SETTINGS = ("fusion.grid=4",)
ROWS, SEEDS, TOP, RESAMPLES = ("last", "aaum", "mean"), 3, 32, 2000
MEASURES = {
    "matched": "own picture preferred",
    "before": "R@1 by cosine",
    "after": f"R@1, {TOP} re-ranked",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("out/matching_study"), help="the store of layers")
    parser.add_argument("--runs", type=int, help="stop after so many")
    options = parser.parse_args()
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": {}}
    wanted = [(row, seed) for seed in range(SEEDS) for row in ROWS if f"{row}/{seed}" not in known["runs"]]
    pairs = some_of(read_pairs(PAIRS))
    for row, seed in wanted[: options.runs]:
        found = run(pairs, options.work, row, seed)
        known |= {"sizes": SIZES, "groups": found.pop("groups")}
        known["runs"][f"{row}/{seed}"] = found
        RESULTS.write_text(json.dumps(known) + "\n")
        shares = {name: round(100 * np.mean([int(one) for one in found[name]]), 1) for name in MEASURES}
        print(row, seed, shares, found["cpu_seconds"], flush=True)


def some_of(pairs: Pairs) -> Pairs:
    """The drawings of the study."""
    chosen = []
    for split, count in SIZES.items():
        rows = pairs.filter(split=split).images.select(["id", "group"]).to_pylist()
        rows.sort(key=lambda row: hashlib.blake2b((row["group"] or row["id"]).encode()).digest())
        chosen += [row["id"] for row in rows[:count]]
    return pairs.subset(chosen)


def run(pairs: Pairs, work: Path, row: str, seed: int) -> dict[str, Any]:
    """Train with one aggregator; of every test caption, whether each of MEASURES holds."""
    embed(pairs, IMAGE, TEXT, out=work, states_dtype="int8", progress=True)
    began = time.process_time()
    overrides = [*SETTINGS, f'fusion.aggregator="{row}"']
    model: Any = ist.train(work, recipe="manager", overrides=overrides, seed=seed)
    seconds = time.process_time() - began
    test = pairs.filter(split="test")
    put = matched(model, test, Exposure(None, ""))
    ranked = Reranking(model, test, Exposure(None, ""))
    before = ranks(ranked.ends["image"], ranked.ends["text"], ranked.image_of)
    after = ranked.reordered(before, TOP)
    hits = {"matched": put["own"] > put["other"], "before": before.image <= 1, "after": after.image <= 1}
    return {
        "groups": ranked.groups[ranked.image_of].tolist(),
        **{name: "".join(str(int(one)) for one in some) for name, some in hits.items()},
        "parameters": model.summary["parameters"],
        "epochs": model.summary["returned_epoch"],
        "cpu_seconds": round(seconds, 1),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}",
    }


def section() -> str:
    """The part of docs/managers.md; empty before the first run."""
    study = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": {}}
    rows = [line(study, row) for row in ROWS if f"{row}/0" in study["runs"]]
    if not rows:
        return ""
    head = ["reads", *MEASURES.values(), "re-ranked minus last [95 %]", "seeds", "CPU s"]
    return (
        f"## Captions, ViT-S\n\n`{IMAGE}`\n\n"
        f"{tabulate(rows, headers=head, tablefmt='github', disable_numparse=True)}\n\n"
        f"{SIZES['train']:,} drawings to train on, {SIZES['test']:,} to test on, with {len(study['groups']):,} captions"
        " (`benchmarks/matching_study.py`). Percent: of captions put to their own picture and to another one, those "
        "that prefer their own (chance: 50); of captions ranked among all test drawings, those whose own is first, by "
        f"the cosine of the unimodal ends (chance: {100 / SIZES['test']:.2f}), and once the first {TOP} have been put "
        "in order by matching."
    )


def line(study: dict[str, Any], row: str) -> list[str]:
    """A row of the table: shares, and the paired difference of what is re-ranked, by the seeds that both have."""
    found = {name: hits(study, row, name) for name in MEASURES}
    own, base = found["after"], hits(study, "last", "after")
    shared = min(len(own), len(base))
    told = paired_bootstrap(own[:shared].mean(0), base[:shared].mean(0), np.array(study["groups"]), resamples=RESAMPLES)
    low, high = told["ci95"]
    gap = "" if row == "last" else f"{100 * told['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    seconds = np.mean([study["runs"][f"{row}/{seed}"]["cpu_seconds"] for seed in range(len(own))])
    return [row, *(f"{100 * one.mean():.1f}" for one in found.values()), gap, str(len(own)), f"{seconds:.0f}"]


def hits(study: dict[str, Any], row: str, name: str) -> np.ndarray:
    """float64 [seeds, captions]."""
    runs = [study["runs"][f"{row}/{seed}"] for seed in range(SEEDS) if f"{row}/{seed}" in study["runs"]]
    return np.array([[int(one) for one in run[name]] for run in runs], float)


if __name__ == "__main__":
    main()
