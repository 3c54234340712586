"""Does curation help? A curated half of a noisy pool against a random half and against everything.

    python benchmarks/curation_study.py             # about ten minutes on one core; goes on where it stopped
    python benchmarks/curation_study.py --render    # docs/curation.md from the committed JSON

Protocol. The pool is 5,632 pairs: 2,560 clip-art pairs as they are, 1,024 whose captions are shuffled among them, 1,024
copies (256 of the first, four times each, features moved by 0.5 %), and 1,024 irrelevant ones: scanned digits, half of
them captioned with a file name. Which pairs are which is drawn anew for every seed, and so are random halves and
the order of training. Concepts are either the 200 most frequent phrases of the pool's own captions, noise included, or
the names of the data's 51 categories, as freeze-align takes class names. Every system trains the recipe `linear` for
the same number of steps of 256 pairs. Test: mean recall (both directions, R@1, R@5, R@10 averaged) on the test split;
differences by a paired bootstrap over groups.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from tabulate import tabulate

import isthmus as ist
import isthmus_demo
from curation_scale import MARKS, PAGE
from curation_scale import RESULTS as SCALE
from curation_scale import render as render_scale
from isthmus.curation.cleaning import Cleaning
from isthmus.curation.encoding import load_encoding
from isthmus.curation.prototypes import Prototypes, image_side, make_prototypes
from isthmus.curation.sources import open_pool
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.matrix import rows
from isthmus.data.pairs import pairs_from_lists
from isthmus.metrics.bootstrap import paired_bootstrap
from isthmus.metrics.retrieval import ranks
from isthmus.projectors.projector import project
from isthmus.training import train_projectors

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "curation_study.json"
IMAGE, TEXT = "wheel:efficientnet-lite1", "wheel:minilm-l6"
RIGHT, NOISE, COPIED = 2560, 1024, 256
POOL = RIGHT + 3 * NOISE
HALF = POOL // 2
BATCH, STEPS = 256, 440
CONCEPTS = "captions:200"
CUTOFFS = (1, 5, 10)
RESAMPLES = 2000
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = {"caption": "caption side", "both": "both sides"}
KINDS = ("right", "shuffled", "copy", "irrelevant")  # in the order of rows, and of the ids' first letters


def main() -> None:
    options = parse()
    if not options.render:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(Study(options).run(), indent=2) + "\n")
    PAGE.write_text(render(json.loads(RESULTS.read_text())))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("out/curation-study"), help="stores and single runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--render", action="store_true", help="only write the page, from the committed JSON")
    return parser.parse_args()


class Study:
    """Runs, remembered on disk, and what they add up to."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        clipart = ist.embed(isthmus_demo.PAIRS, IMAGE, TEXT, out=options.work / "store", batch_size=4, progress=True)
        self.train, self.test = clipart.pairs(split="train"), clipart.pairs(split="test")
        self.digits = ist.embed(digits(), IMAGE, TEXT, out=options.work / "digits", progress=True).pairs()
        self.encoding = load_encoding([TEXT])

    def run(self) -> dict[str, Any]:
        runs = [self.seed(seed) for seed in range(self.options.seeds)]
        machine = f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
        return {"machine": machine, "seeds": len(runs), "test": len(self.test), "rows": self.table(runs)}

    def seed(self, seed: int) -> dict[str, dict[str, Any]]:
        """Every system on one draw of the pool: the test hits, and what its pairs are made of."""
        path = self.options.work / f"seed-{seed}.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        for name, choose in self.systems(self.pool(seed), seed).items():
            if name not in found:
                chosen = choose()
                found[name] = self.measure(chosen, seed) | made_of(chosen)
                path.write_text(json.dumps(found))
                print(seed, name, {key: value for key, value in found[name].items() if key != "hits"}, flush=True)
        return found

    def pool(self, seed: int) -> FeaturePairs:
        rng = np.random.default_rng([2, seed])
        drawn = rng.permutation(len(self.train))
        right, shuffled = drawn[:RIGHT], drawn[RIGHT : RIGHT + NOISE]
        copies = np.repeat(rng.choice(right, COPIED, replace=False), NOISE // COPIED)
        junk = rng.choice(len(self.digits), NOISE, replace=False)
        image_rows = np.concatenate([right, shuffled, copies])
        text_rows = np.concatenate([right, np.roll(shuffled, 1), copies])
        parts = []
        for clipart, digits_, index in (
            (self.train.image, self.digits.image, image_rows),
            (self.train.text, self.digits.text, text_rows),
        ):
            features = np.concatenate([rows(clipart, index), rows(digits_, junk)])
            moved = slice(RIGHT + NOISE, RIGHT + 2 * NOISE)
            length = np.linalg.norm(features[moved], axis=1, keepdims=True) / features.shape[1] ** 0.5
            features[moved] += 0.005 * length * rng.standard_normal(features[moved].shape).astype(np.float32)
            parts.append(features)
        captions = [self.train.captions[row] for row in text_rows] + [self.digits.captions[row] for row in junk]
        ids = [f"{kind}-{row}" for kind in KINDS for row in range(RIGHT if kind == "right" else NOISE)]
        order = rng.permutation(POOL)
        pairs = FeaturePairs.from_arrays(*parts, ids=ids, captions=captions)
        return pairs.subset(order)

    def systems(self, pool: FeaturePairs, seed: int) -> dict[str, Callable[[], FeaturePairs]]:
        opened = open_pool(pool)
        phrases = make_prototypes(CONCEPTS, opened, self.encoding)
        classes = make_prototypes(sorted({label for label in self.train.labels if label}), opened, self.encoding)
        both = {"phrases": image_side(opened, phrases), "classes": image_side(opened, classes)}
        systems = {
            "random half": lambda: pool.subset(np.random.default_rng([3, seed]).permutation(POOL)[:HALF]),
            "everything": lambda: pool,
        }
        for name, prototypes in both.items():
            for sides in ("caption", "both"):
                systems[f"curated half: {name}, {WORDS[sides]}"] = partial(curated_half, pool, prototypes, sides=sides)
        clean = Cleaning(dedup=("embedding",))
        name = f"curated half: classes, {WORDS['both']}, near-duplicates out"
        systems[name] = partial(curated_half, pool, both["classes"], sides="both", cleaning=clean)
        systems["the right pairs alone (an oracle)"] = lambda: pool.subset(np.array(kinds(pool)) == "right")
        return systems

    def measure(self, pairs: FeaturePairs, seed: int) -> dict[str, Any]:
        batches, left = divmod(len(pairs), BATCH)
        assert not left and not STEPS % batches, f"{len(pairs)} pairs do not fill batches of {BATCH} evenly"
        settings = [f"optim.batch={BATCH}", f"optim.epochs={STEPS // batches}", "optim.precision=float32"]
        trained = train_projectors(pairs, None, ist.load_recipe("linear", settings), seed=seed)
        assert trained.summary["steps"] == STEPS
        heads = ((trained.image_projector, self.test.image), (trained.text_projector, self.test.text))
        found = ranks(*(project(head, matrix, torch.device("cpu")) for head, matrix in heads), self.test.image_of)
        hits = [sum(found.hits(k)[side].astype(int) for k in CUTOFFS) for side in (0, 1)]
        test = float(np.mean([side.mean() / len(CUTOFFS) for side in hits]))
        return {"pairs": len(pairs), "test": test, "hits": [side.tolist() for side in hits]}

    def table(self, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows_ = []
        for name in runs[0]:
            mine = [run[name] for run in runs]
            row = {"system": name, "pairs": mine[0]["pairs"], "by_seed": [100 * one["test"] for one in mine]}
            row |= {kind: float(np.mean([one[kind] for one in mine])) for kind in KINDS}
            for other in ("random half", "everything"):
                row[other] = None if other == name else self.minus(mine, [run[other] for run in runs])
            rows_.append(row)
        return rows_

    def minus(self, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[float]:
        """Points of mean recall: the difference, and its 95 % interval over groups of test images."""
        mean = [
            [np.mean([run["hits"][side] for run in runs], axis=0) / len(CUTOFFS) for side in (0, 1)]
            for runs in (ours, theirs)
        ]
        group = self.test.bootstrap_group
        found = paired_bootstrap(mean[0], mean[1], (group[self.test.image_of], group), resamples=RESAMPLES)
        return [100 * value for value in (found["difference"], *found["ci95"])]


def digits() -> Any:
    """scikit-learn's scanned digits as pictures, captioned in words or with a file name."""
    data = load_digits()
    pictures = [Image.fromarray((15.9375 * one).astype(np.uint8)).resize((224, 224)) for one in data.images]
    captions = [
        f"a handwritten digit {NUMBERS[digit]}, sample {row}" if row % 2 else f"IMG_{row:04d}.JPG"
        for row, digit in enumerate(data.target.tolist())
    ]
    return pairs_from_lists(pictures, captions)


def curated_half(pool: FeaturePairs, prototypes: Prototypes, **options: Any) -> FeaturePairs:
    """Half of the pool: the least quota that gives so many pairs, without the last of the largest concepts.

    Where cleaning leaves less than half, as many as there are right pairs.
    """
    low, high = 1, HALF
    while low < high:
        middle = (low + high) // 2
        if len(ist.curate(pool, prototypes, per_concept=middle, keep=POOL, floor=None, **options)) >= HALF:
            high = middle
        else:
            low = middle + 1
    chosen = ist.curate(pool, prototypes, per_concept=low, keep=POOL, floor=None, **options)
    size = HALF if len(chosen) >= HALF else RIGHT
    seen: Counter[str | None] = Counter()
    nth = []
    for concept in chosen.concept:
        seen[concept] += 1
        nth.append(seen[concept])
    kept = np.argsort(nth, kind="stable")[:size].tolist()
    row_of = {id: row for row, id in enumerate(pool.image_ids)}
    return pool.subset(np.sort([row_of[chosen.ids[row]] for row in kept]))


def kinds(pairs: FeaturePairs) -> list[str]:
    return [id.rpartition("-")[0] for id in pairs.image_ids]


def made_of(pairs: FeaturePairs) -> dict[str, float]:
    """The share of each kind of pair."""
    found = kinds(pairs)
    return {kind: found.count(kind) / len(found) for kind in KINDS}


def render(study: dict[str, Any]) -> str:
    """docs/curation.md."""
    table = [
        [
            row["system"],
            f"{row['pairs']:,}",
            *(f"{100 * row[kind]:.0f}" for kind in KINDS),
            f"{np.mean(row['by_seed']):.1f}",
            ", ".join(f"{value:.1f}" for value in row["by_seed"]),
            *(_difference(row[other]) for other in ("random half", "everything")),
        ]
        for row in study["rows"]
    ]
    headers = ["system", "pairs", *(f"{kind}, %" for kind in KINDS), "mean recall", "seeds", "− random half [95 %]"]
    shown = tabulate(table, [*headers, "− everything [95 %]"], tablefmt="github", disable_numparse=True)
    scale = render_scale(json.loads(SCALE.read_text())) if SCALE.exists() else "Not measured yet."
    return PAGE_TEXT.format(
        shown=shown,
        verdict="\n".join(verdicts(study)),
        seeds=study["seeds"],
        test=study["test"],
        machine=study["machine"],
        pool=POOL,
        steps=STEPS,
        batch=BATCH,
        scale=f"{MARKS[0]}\n{scale}\n{MARKS[1]}",
    )


def verdicts(study: dict[str, Any]) -> list[str]:
    """A line per curated system: above, below, or not distinguishable from its rivals; an interval with 0 is a tie."""
    lines = []
    for row in study["rows"]:
        if row["system"].startswith("curated"):
            told = [f"{_verdict(row[other])} {other}" for other in ("random half", "everything")]
            lines.append(f"- **{row['system']}**: {told[0]}, {told[1]}.")
    return lines


def _verdict(found: list[float]) -> str:
    _, low, high = found
    return "above" if low > 0 else "below" if high < 0 else "not distinguishable from"


def _difference(found: list[float] | None) -> str:
    return "" if found is None else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*found)


PAGE_TEXT = """# Effect and cost of curation

## What to do

- If time or disk forces you to a part of your pairs, choose it by concept, not at random.
- If it does not, train on everything: here no choice was above the whole pool, and the one by classes was below it.
- Take out copies and captions that do not fit first ([cleaning](guide/choosing-pairs.md#cleaning-pairs)).

## Why

Written by `benchmarks/curation_study.py --render` from `benchmarks/results/curation_study.json` and
`benchmarks/results/curation_scale.json`; do not edit.

## A noisy pool, halved

{verdict}

The pool has {pool:,} pairs: 45 % clip-art pairs as they are, 18 % with captions shuffled among them, 18 % copies of a
few, 18 % irrelevant ones (scanned digits, half of them captioned with a file name). Every system trains the recipe
`linear` for the same {steps} steps of {batch} pairs. Mean recall (both directions, R@1, R@5 and R@10 averaged) in
percent on {test:,} test pictures; {seeds} seeds, each with its own pool; differences by a paired bootstrap over groups
of test pictures. {machine}.

{shown}

Columns of shares: what a system trained on, averaged over seeds. *Phrases*: concepts are the 200 most frequent phrases
of the pool's own captions, so that its noise can become a concept ("handwritten digit"). *Classes*: the names of the
data's categories, without any label. *Caption side* compares a caption with a concept's name, as freeze-align does;
it cannot notice an image that does not fit its caption. *Both sides* also compares the image with the mean of
the images whose captions fit the concept best, and takes the lesser cosine. Choosing by concept tests whether a pair is
about something wanted, not whether its caption is right. The noise is our own and of three kinds; real pools have
others, and in other shares.

## Scale

{scale}
"""


if __name__ == "__main__":
    main()
