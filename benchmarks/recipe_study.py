"""The study behind the `default` recipe: every recipe as published and tuned, at five sizes of training data.

    python benchmarks/recipe_study.py             # hours on two cores; goes on where it stopped
    python benchmarks/recipe_study.py --render    # docs/recipes.md from the committed JSON

Protocol. Training sets of 500, 1,000, 2,000, 4,000 and all training pairs are drawn anew for every seed.
Every recipe runs as it is, and tuned: the same number of random trials for each (`default` too), on seed 0 of each
size, chosen by mean recall on the validation split. The chosen settings run on every seed. The test split is only
looked at for the final runs: mean recall (both directions, R@1, R@5, R@10 averaged) per query, averaged over seeds;
differences by a paired bootstrap over groups. Every run is capped in time, and the table says where it was stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

import isthmus as ist
import isthmus_demo
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.metrics.bootstrap import paired_bootstrap
from isthmus.metrics.retrieval import ranks
from isthmus.projectors.projector import project
from isthmus.training import train_projectors

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "recipe_study.json"
PAGE = HERE.parent / "docs" / "recipes.md"
IMAGE = "wheel:efficientnet-lite1?layer=7&pool=mean"  # narrow, so that SAIL's eightfold heads run on a CPU
TEXT = "wheel:minilm-l6"
SIZES = (500, 1000, 2000, 4000, None)  # None: all
TRAINED = ("linear", "freeze-align-pooled", "sail")  # the schedules; `cca` has none, and is where `default` starts
CUTOFFS = (1, 5, 10)
RESAMPLES = 2000

# What a trial may change. `default` and its rivals get the same number of trials.
SPACES: dict[str, dict[str, list[Any]]] = {
    "cca": {"head.width": [64, 128, 256, 384], "loss.scale": [10, 20, 40]},
    "linear": {
        "optim.lr": [1e-4, 3e-4, 1e-3, 3e-3],
        "optim.weight_decay": [0.0, 0.02, 0.1, 0.5],
        "optim.epochs": [15, 30, 60, 120],
        "optim.batch": [256, 512, 1024, 2048],
        "head.dropout": [0.0, 0.1, 0.3],
    },
    "freeze-align-pooled": {
        "optim.lr": [1e-4, 3e-4, 1e-3],
        "optim.weight_decay": [0.02, 0.1, 0.5],
        "optim.epochs": [15, 30, 60],
        "optim.batch": [256, 512, 1024, 1800],
        "head.dropout": [0.1, 0.3, 0.5],
        "optim.warmup": [0.1],
    },
    "sail": {
        "optim.lr": [1e-5, 3e-5, 1e-4, 3e-4],
        "optim.weight_decay": [1e-4, 1e-2, 1.0],
        "optim.epochs": [15, 30],
        "optim.batch": [256, 512, 1024],
        "loss.bias": ["auto"],
        "loss.normalize": ["batch"],
    },
    "default": {
        "optim.lr": [1e-4, 3e-4, 1e-3],
        "optim.weight_decay": [0.02, 0.1, 0.5],
        "optim.epochs": [10, 20, 40],
        "optim.batch": [256, 512, 1024, 2048],
        "head.dropout": [0.0, 0.1, 0.3],
    },
}


def main() -> None:
    options = parse()
    if options.render:
        PAGE.write_text(render(json.loads(RESULTS.read_text())))
        return
    study = Study(options)
    for size in options.sizes:
        for recipe in options.recipes:
            study.finish(size, recipe)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(study.summary(), indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="out/recipe_study/store")
    parser.add_argument(
        "--work", type=Path, default=Path("out/recipe_study/runs"), help="every run's ranks, for resuming"
    )
    parser.add_argument("--sizes", nargs="+", type=lambda s: None if s == "all" else int(s), default=SIZES)
    parser.add_argument("--recipes", nargs="+", default=list(SPACES))
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-seconds", type=float, default=180.0)
    parser.add_argument("--render", action="store_true")
    return parser.parse_args()


def draw(pairs: FeaturePairs, size: int | None, seed: int) -> FeaturePairs:
    """`size` training images: the first in the order of hash(seed, id)."""
    if size is None or size >= len(pairs):
        return pairs
    key = [hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest() for name in pairs.image_ids]
    order = sorted(range(len(pairs)), key=lambda row: key[row])
    return pairs.subset(np.sort(np.array(order[:size])))


class Study:
    """Runs, remembered on disk by what they are, and what they add up to."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.work = options, options.work
        self.work.mkdir(parents=True, exist_ok=True)
        store = ist.embed(isthmus_demo.PAIRS, IMAGE, TEXT, out=options.store, batch_size=4, progress=True)
        split = {name: store.pairs(split=name, image=IMAGE, text=TEXT) for name in ("train", "val", "test")}
        self.train, self.val, self.test = split["train"], split["val"], split["test"]
        self.final: dict[tuple[int | None, str], list[dict[str, Any]]] = {}
        self.chosen: dict[tuple[int | None, str], list[str]] = {}

    def finish(self, size: int | None, recipe: str) -> None:
        """The published runs of a recipe at one size, its trials, and the runs of the best trial."""
        self.final[size, recipe] = [self.run(size, recipe, [], s) for s in self.seeds()]
        trials = sample(SPACES[recipe], self.options.trials)
        tried = [self.run(size, recipe, trial, 0) for trial in trials]
        best = trials[int(np.argmax([one["val"] for one in tried]))]
        self.chosen[size, recipe] = best
        self.final[size, f"{recipe}, tuned"] = [self.run(size, recipe, best, s) for s in self.seeds()]

    def seeds(self) -> range:
        return range(self.options.seeds)

    def run(self, size: int | None, recipe: str, overrides: list[str], seed: int) -> dict[str, Any]:
        """One training run: validation recall, the test ranks, and how long it took."""
        key = f"{recipe}-{size or 'all'}-{seed}-" + hashlib.blake2b(repr(overrides).encode(), digest_size=6).hexdigest()
        path = self.work / f"{key}.json"
        if not path.exists():
            path.write_text(json.dumps(self.measure(size, recipe, overrides, seed)))
            print(
                key,
                *overrides,
                {k: v for k, v in json.loads(path.read_text()).items() if k != "hits"},
                flush=True,
            )
        return json.loads(path.read_text())

    def measure(self, size: int | None, recipe: str, overrides: list[str], seed: int) -> dict[str, Any]:
        train = draw(self.train, size, seed)
        loaded = ist.load_recipe(recipe, overrides)
        trained = train_projectors(train, self.val, loaded, seed=seed, max_seconds=self.options.max_seconds)
        image, text = (
            project(projector, matrix, torch.device("cpu"))
            for projector, matrix in (
                (trained.image_projector, self.test.image),
                (trained.text_projector, self.test.text),
            )
        )
        found = ranks(image, text, self.test.image_of)
        to_image, to_text = (sum(found.hits(k)[side].astype(float) for k in CUTOFFS) / 3 for side in (0, 1))
        summary = trained.summary
        return {
            "val": summary["validation"]["val_recall"],
            "test": float((to_image.mean() + to_text.mean()) / 2),
            "hits": [np.round(3 * to_image).astype(int).tolist(), np.round(3 * to_text).astype(int).tolist()],
            "pairs": summary["pairs"],
            "epochs": f"{summary['epochs']:g} of {summary['epochs_planned']}",
            "seconds": summary["seconds"],
            "parameters": summary["parameters"],
        }

    def summary(self) -> dict[str, Any]:
        """Everything the page shows: per size and system the mean and interval, and differences to `default`."""
        rows = []
        for size in dict.fromkeys(size for size, _ in self.final):
            systems = {name: runs for (at, name), runs in self.final.items() if at == size}
            ours = systems.get("default")
            for name, runs in systems.items():
                rows.append({"size": size, "system": name} | self.measured(runs) | self.against(ours, runs))
        chosen = [{"size": size, "recipe": recipe, "settings": s} for (size, recipe), s in self.chosen.items()]
        machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
        counts = {"train": len(self.train), "val": len(self.val), "test": len(self.test)}
        encoders = [record["uri"] for record in (*self.train.image_encoder, *self.train.text_encoder)]
        keep = ("trials", "seeds", "max_seconds")
        protocol = {name: getattr(self.options, name) for name in keep} | {"resamples": RESAMPLES}
        return {
            "machine": machine,
            "images": counts,
            "encoders": encoders,
            **protocol,
            "chosen": chosen,
            "rows": rows,
        }

    def measured(self, runs: list[dict[str, Any]]) -> dict[str, Any]:
        values = [100 * run["test"] for run in runs]
        return {
            "mean_recall": float(np.mean(values)),
            "by_seed": values,
            "epochs": runs[0]["epochs"],
            "seconds": float(np.median([run["seconds"] for run in runs])),
            "parameters": runs[0]["parameters"],
        }

    def against(self, ours: list[dict[str, Any]] | None, theirs: list[dict[str, Any]]) -> dict[str, Any]:
        """`default` minus this system, in points, with its 95 % interval over groups of test images."""
        if ours is None or ours is theirs:
            return {}
        mean = [
            tuple(np.mean([run["hits"][side] for run in runs], axis=0) / 3 for side in (0, 1))
            for runs in (ours, theirs)
        ]
        group = self.test.bootstrap_group
        found = paired_bootstrap(mean[0], mean[1], (group[self.test.image_of], group), resamples=RESAMPLES)
        low, high = found["ci95"]
        return {"default_minus": 100 * found["difference"], "ci95": [100 * low, 100 * high]}


def sample(space: dict[str, list[Any]], trials: int) -> list[list[str]]:
    """`trials` different random settings from `space`, the same at every size."""
    rng = np.random.default_rng(0)
    most = int(np.prod([len(values) for values in space.values()]))
    found: dict[tuple[str, ...], None] = {}
    while len(found) < min(trials, most):
        found[tuple(f"{key}={json.dumps(values[rng.integers(len(values))])}" for key, values in space.items())] = None
    return [list(settings) for settings in found]


def render(study: dict[str, Any]) -> str:
    """docs/recipes.md."""
    head = [
        "training pairs",
        "system",
        "mean recall",
        "seeds",
        "epochs",
        "median seconds",
        "default − system [95 %]",
    ]
    rows = []
    for row in study["rows"]:
        seeds = ", ".join(f"{value:.1f}" for value in row["by_seed"])
        gap = f"{row['default_minus']:+.1f} [{row['ci95'][0]:+.1f}, {row['ci95'][1]:+.1f}]" if "ci95" in row else ""
        size = f"{row['size']:,}" if row["size"] else f"all ({study['images']['train']:,})"
        rows.append(
            [
                size,
                row["system"],
                f"{row['mean_recall']:.1f}",
                seeds,
                row["epochs"],
                f"{row['seconds']:.0f}",
                gap,
            ]
        )
    table = tabulate(rows, headers=head, tablefmt="github", disable_numparse=True)
    return PAGE_TEXT.format(
        **study | {"table": table, "verdict": verdict(study), "encoders": " × ".join(study["encoders"])}
    )


def verdict(study: dict[str, Any]) -> str:
    """What the table decides at each size, in words: above, below or a tie."""
    lines = []
    for size in dict.fromkeys(row["size"] for row in study["rows"]):
        rows = {row["system"]: row for row in study["rows"] if row["size"] == size and "ci95" in row}
        below = [name for name in TRAINED if rows[name]["ci95"][0] <= 0]
        rivals = [row for name, row in rows.items() if name.endswith("tuned") and not name.startswith("default")]
        best = max(rivals, key=lambda row: row["mean_recall"])
        low, high = best["ci95"]
        word = "a tie" if low <= 0 <= high else "above it" if low > 0 else "below it"
        interval = f"{best['default_minus']:+.1f} [{low:+.1f}, {high:+.1f}]"
        first = f"not above {', '.join(below)}" if below else f"above {', '.join(TRAINED)} as they are"
        name = f"{size:,}" if size else "all"
        lines.append(
            f"- **{name}**: `default` is {first}; against the best tuned rival, {best['system']}: {word}, {interval}."
        )
    return "\n".join(lines)


PAGE_TEXT = """# Which recipe, and why `default` is what it is

## What to do

- Take `default`. Below about 1,000 pairs `cca` alone ties with it and takes a second ([little data](little-data.md)).
- Do not run a paper's recipe as published on a few thousand pairs: its schedule is made for millions, and ends before
  anything is learned. `tuned` below shows what it can do with a schedule that fits.
- Look for gains in encoders first: the recipes differ less than [encoders do](selection.md).

## Why

Written by `benchmarks/recipe_study.py --render` from `benchmarks/results/recipe_study.json`; do not edit.

{verdict}

A recipe's bare name is the recipe as it is shipped: for freeze-align-pooled and sail the published schedule. Mean
recall: both directions, R@1, R@5 and R@10 averaged, in percent, on {images[test]} held-out clip-art pictures. Encoders:
{encoders}. {seeds} seeds, each with its own draw of the training pairs; {trials} trials for every tuned system, chosen
on {images[val]} validation pictures. Every run is capped at {max_seconds:.0f} s; the column of epochs says, for the
first seed, where that or early stopping ended one before its last epoch. Differences by a paired bootstrap over groups
({resamples} resamples). Machine: {machine}.

{table}
"""

if __name__ == "__main__":
    main()
