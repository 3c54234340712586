"""What do tokens buy? freeze-align's head on pooled features and on 1, 4, 16 and all tokens of an image.

    python benchmarks/token_study.py              # minutes on one core; states its cost first, goes on where it stopped
    python benchmarks/token_study.py --ablation   # the paper's table of slots: what each of them goes through
    python benchmarks/token_study.py --render     # docs/tokens.md from the committed JSON

Protocol. 2,000 training and 1,000 test pictures of the demo data, drawn by a hash of their ids, embedded once; 10
epochs in batches of 256 at a joint width of 256, the same for every system, with no look at the test pictures before
the end. Two seeds, of which each query's score is the mean; intervals and differences by a bootstrap over groups of
test images.
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
import isthmus_demo
from isthmus.embedding import embed, plan
from isthmus.metrics.bootstrap import paired_bootstrap
from isthmus.metrics.retrieval import ranks
from isthmus.projectors.projector import project
from isthmus.training import train_projectors

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "token_study.json"
PAGE = HERE.parent / "docs" / "tokens.md"
IMAGE = "wheel:dinov2-small-saliency?layer=11&pool="
TEXT = "wheel:minilm-l6?max_tokens=77&pool="
IMAGE_VIEWS, TEXT_VIEWS = ("cls+mean", "cls+grid1", "cls+grid4", "cls+grid16", "cls+patches"), ("mean", "tokens")
TRAIN, TEST, SEEDS, RESAMPLES, CUTOFFS = 2000, 1000, 2, 2000, (1, 5, 10)
SETTINGS = ["head.width=256", "optim.batch=256"]

# name: recipe, image view, text view, what is set besides
SYSTEMS: dict[str, tuple[str, str, str, list[str]]] = {
    "pooled": ("freeze-align-pooled", "cls+mean", "mean", ["optim.epochs=10"]),
    "pooled, 40 epochs": ("freeze-align-pooled", "cls+mean", "mean", ["optim.epochs=40"]),
    "tokens, r = 1": ("freeze-align", "cls+grid1", "tokens", ["optim.epochs=10"]),
    "tokens, r = 4": ("freeze-align", "cls+grid4", "tokens", ["optim.epochs=10"]),
    "tokens, r = 16": ("freeze-align", "cls+grid16", "tokens", ["optim.epochs=10"]),
    "tokens, all 256": ("freeze-align", "cls+patches", "tokens", ["optim.epochs=10"]),
}
WHOLE = ("cls:parallel,tokens:parallel", "tokens:parallel+residual")  # image, text
SLOTS = {  # freeze-align's identity / token / mlp per slot
    "whole head": WHOLE,
    "image: no class token": ("cls:none,tokens:parallel", WHOLE[1]),
    "image: class token alone": ("cls:parallel,tokens:none", WHOLE[1]),
    "image: linear": ("cls:linear,tokens:linear", WHOLE[1]),
    "image: mlp": ("cls:residual,tokens:residual", WHOLE[1]),
    "text: identity, then mlp": (WHOLE[0], "tokens:identity+residual"),
    "text: token, no mlp": (WHOLE[0], "tokens:parallel"),
    "text: linear": (WHOLE[0], "tokens:linear"),
}


def main() -> None:
    options = parse()
    if options.render:
        PAGE.write_text(render(json.loads(RESULTS.read_text())))
        return
    study = Study(options.work)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found |= study.slots() if options.ablation else study.systems()
    RESULTS.write_text(json.dumps(found | study.facts(), indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("out/token_study"), help="the store, and every run's hits")
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--render", action="store_true")
    return parser.parse_args()


class Study:
    """The store, the runs remembered on disk, and what they add up to."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.train_ids, self.test_ids = draw("train", TRAIN), draw("test", TEST)
        self.embedded = self.embed()
        self.store = ist.open_store(work / "store")

    def embed(self) -> dict[str, float]:
        """Say what it will cost, embed, and remember what it did cost."""
        path = self.work / "embed.json"
        if path.exists():
            return json.loads(path.read_text())
        views = [IMAGE + view for view in IMAGE_VIEWS], [TEXT + view for view in TEXT_VIEWS]
        only = self.train_ids + self.test_ids
        print(plan(isthmus_demo.PAIRS, *views, only=only), flush=True)
        began = time.process_time()
        embed(isthmus_demo.PAIRS, *views, out=self.work / "store", only=only, progress=True)
        path.write_text(json.dumps({"cpu_seconds": time.process_time() - began}))
        return json.loads(path.read_text())

    def systems(self) -> dict[str, Any]:
        runs = {name: self.runs(name, *chosen) for name, chosen in SYSTEMS.items()}
        return {"systems": [self.row(name, runs[name], runs["pooled"]) for name in SYSTEMS]}

    def slots(self) -> dict[str, Any]:
        def overrides(image: str, text: str) -> list[str]:
            return [f'head.image="{image}"', f'head.text="{text}"', "optim.epochs=10"]

        runs = {
            name: self.runs(f"slots {name}", "freeze-align", "cls+grid4", "tokens", overrides(*kinds))
            for name, kinds in SLOTS.items()
        }
        rows = [self.row(name, runs[name], runs["whole head"]) for name in SLOTS]
        return {"slots": [row | dict(zip(("image", "text"), SLOTS[row["system"]], strict=True)) for row in rows]}

    def runs(self, name: str, recipe: str, image: str, text: str, overrides: list[str]) -> list[dict[str, Any]]:
        found = []
        for seed in range(SEEDS):
            path = self.work / "runs" / f"{name.replace(' ', '-').replace(',', '')}-{seed}.json"
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                path.write_text(json.dumps(self.run(recipe, image, text, overrides, seed)))
            found.append(json.loads(path.read_text()))
            print(name, seed, {key: value for key, value in found[-1].items() if key != "hits"}, flush=True)
        return found

    def run(self, recipe: str, image: str, text: str, overrides: list[str], seed: int) -> dict[str, Any]:
        """Train on one pair of views; the hits of every test query, what it took and how large it is."""
        chosen = {"image": IMAGE + image, "text": TEXT + text}
        train = self.store.pairs(only=self.train_ids, **chosen)
        test = self.store.pairs(only=self.test_ids, **chosen)
        began = time.process_time()
        trained = train_projectors(train, None, ist.load_recipe(recipe, [*SETTINGS, *overrides]), seed=seed)
        seconds = time.process_time() - began
        cpu = torch.device("cpu")
        sides = (trained.image_projector, test.image), (trained.text_projector, test.text)
        hits = [ranks(*(project(*side, cpu) for side in sides), test.image_of).hits(k) for k in CUTOFFS]
        return {
            "hits": [np.mean([hit[side] for hit in hits], axis=0).tolist() for side in (0, 1)],
            "cpu_seconds": seconds,
            "parameters": trained.summary["parameters"],
            "precision": trained.summary["precision"],
            "image_bytes": 2 * sum(train.image_parts),
            "text_bytes": 2 * sum(train.text_parts),
        }

    def row(self, name: str, runs: list[dict[str, Any]], base: list[dict[str, Any]]) -> dict[str, Any]:
        """Mean recall with its interval, and minus that of the system to compare with, in points."""
        own, other = (
            [np.mean([run["hits"][side] for run in some], axis=0) for side in (0, 1)] for some in (runs, base)
        )
        score = self.compare(own, [np.zeros_like(side) for side in own])
        gap = None if runs is base else self.compare(own, other)
        seeds = [100 * float(np.mean([np.mean(side) for side in run["hits"]])) for run in runs]
        keep = {key: runs[0][key] for key in ("parameters", "image_bytes", "text_bytes", "precision")}
        seconds = float(np.mean([run["cpu_seconds"] for run in runs]))
        return {"system": name, "recall": score, "gap": gap, "by_seed": seeds, "cpu_seconds": seconds} | keep

    def compare(self, a: list[np.ndarray], b: list[np.ndarray]) -> list[float]:
        """[a − b, low, high] in points."""
        test = self.store.pairs(only=self.test_ids, image=IMAGE + "cls+mean", text=TEXT + "mean")
        group = test.bootstrap_group
        found = paired_bootstrap(a, b, (group[test.image_of], group), resamples=RESAMPLES)
        return [100 * float(value) for value in (found["difference"], *found["ci95"])]

    def facts(self) -> dict[str, Any]:
        machine = f"{platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}"
        return {"machine": machine, "embed_cpu_seconds": self.embedded["cpu_seconds"], "resamples": RESAMPLES}


def draw(split: str, count: int) -> list[str]:
    """The first ids of a split in the order of a hash."""
    import pyarrow.parquet as pq

    table = pq.read_table(isthmus_demo.PAIRS, columns=["id", "split"]).to_pylist()
    ids = [row["id"] for row in table if row["split"] == split]
    return sorted(ids, key=lambda one: hashlib.blake2b(f"0:{one}".encode(), digest_size=8).digest())[:count]


def render(study: dict[str, Any]) -> str:
    """docs/tokens.md."""
    head = ["head", "recall [95 %]", "minus pooled [95 %]", "kB an image", "kB a caption", "training, CPU s"]
    rows = [
        [
            row["system"],
            ranged(row["recall"]),
            signed(row["gap"]),
            f"{row['image_bytes'] / 1000:.1f}",
            f"{row['text_bytes'] / 1000:.1f}",
            f"{row['cpu_seconds']:.0f}",
        ]
        for row in study["systems"]
    ]
    slots = [
        [row["system"], f"`{row['image']}`", f"`{row['text']}`", ranged(row["recall"]), signed(row["gap"])]
        for row in study["slots"]
    ]
    slots_head = ["slots", "head.image", "head.text", "recall [95 %]", "minus whole head [95 %]"]
    return PAGE_TEXT.format(
        table=tabulate(rows, headers=head, tablefmt="github", disable_numparse=True),
        slots_table=tabulate(slots, headers=slots_head, tablefmt="github", disable_numparse=True),
        verdict=verdict(study["systems"], "the pooled head"),
        slots_verdict=verdict(study["slots"], "the whole head"),
        precision=study["systems"][0]["precision"],
        **{key: study[key] for key in ("machine", "embed_cpu_seconds", "resamples")},
    )


def ranged(value: list[float]) -> str:
    return f"{value[0]:.1f} [{value[1]:.1f}, {value[2]:.1f}]"


def signed(value: list[float] | None) -> str:
    return "" if value is None else f"{value[0]:+.1f} [{value[1]:+.1f}, {value[2]:+.1f}]"


def verdict(rows: list[dict[str, Any]], base: str) -> str:
    """Which systems are above, below or tied with `base`, in words."""
    words: dict[str, list[str]] = {"above": [], "tied with": [], "below": []}
    for row in rows:
        if row["gap"] is not None:
            _, low, high = row["gap"]
            words["above" if low > 0 else "below" if high < 0 else "tied with"].append(row["system"])
    return "\n".join(f"- {word} {base}: {'; '.join(names)}." for word, names in words.items() if names)


PAGE_TEXT = """# What tokens gain

## What to do

- Stay with pooled features (`pool=cls+mean`): at a few thousand pairs tokens brought no measurable gain, for up to 130
  times the bytes of an image.
- Train longer before you train on tokens: that did help.
- Take tokens for segmentation, or to run [freeze-align](recipes/freeze-align.md) as published, on many more pairs.

## Why

Written by `benchmarks/token_study.py --render` from `benchmarks/results/token_study.json`; do not edit.

freeze-align's head on pooled features (one CLS and one mean per image, one mean per caption) and on tokens: the class
token and r averages of the patches, or all 256 of them, and every token of a caption (at most 77).

{verdict}

{table}

Recall: R@1, R@5 and R@10 averaged over both directions, in percent, among 1,000 held-out clip-art pictures; 2,000
training pairs, 10 epochs (40 where it says so) in batches of 256, joint width 256, otherwise as the recipes have it;
the mean of two seeds. The bracket is the 95 % interval of a bootstrap over groups of test images ({resamples}
resamples): it includes chance in the test pictures, not in the choice of training pictures. One encoder pair
(`wheel:dinov2-small-saliency?layer=11`, `wheel:minilm-l6`), one small data set and one short schedule: it says nothing
about millions of pairs.

Embedding 3,000 pictures and their captions took {embed_cpu_seconds:.0f} CPU seconds, the same for every row: one
forward pass writes all views. Bytes are what the store holds of one item, in fp16. Training in {precision} on
{machine}.

With r = 1 the image side is the pooled head itself, and only the text side differs. A head that saw every patch also
gives each patch an embedding of its own, which segmentation needs and this table does not measure.

## Slots

The published ablation on 4 + 1 tokens (`pool=cls+grid4`): what each slot goes through. *Identity* in a slot of the
image leaves that branch out (`none`). `python benchmarks/token_study.py --ablation` runs it.

{slots_verdict}

{slots_table}
"""

if __name__ == "__main__":
    main()
