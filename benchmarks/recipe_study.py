"""A contest of recipes: each as it is shipped, and each with the same number of trials, on test pictures opened once.

    python benchmarks/recipe_study.py --source clip-art --size 500    # a round: minutes to an hour; goes on if stopped
    python benchmarks/recipe_study.py                                 # all rounds, smallest first: at most --hours
    python benchmarks/recipe_study.py --open                          # measures rounds that are trained, each once
    python benchmarks/recipe_study.py --render                        # docs/recipes.md from the committed files

Protocol. A round is a source and a size: so many images, drawn anew for every seed, are all that a system may use; a
fifth of them validates. Every recipe is trained as it is shipped on every draw, and tuned: `trials` trials each, of the
space in its own file, which holds its authors' values and what small data ask for, by the halving of `train --tune`, on
the first draw; the winner is trained on every draw, and refitted on all of it like `default` (`stop.refit`). Nothing
looks at the test split before `--open`, which measures a round when all of its models are there, writes
`results/recipe_contest/SOURCE-SIZE.json`, and refuses to measure it again. Differences by a paired bootstrap over
groups, averaged over draws.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import isthmus as ist
import isthmus_demo
from emoji import build as build_emoji
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.errors import UsageError
from isthmus.files import write_json
from isthmus.models.dual_encoder import DualEncoder
from isthmus.training.contrastive.trials import tune
from isthmus.training.fit import Fitting
from isthmus.training.tuning import TrialBudget
from recipe_page import render
from recipe_runs import RESAMPLES, Hits, difference, drawn, hits, mean_recall, test_part

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "recipe_contest"
PAGE = HERE.parent / "docs" / "recipes.md"
WORK = Path("out/recipe_study")
SOURCES = {"clip-art": lambda: isthmus_demo.PAIRS, "emoji": lambda: build_emoji(WORK / "emoji")}
IMAGE = "wheel:efficientnet-lite1?layer=7&pool=mean"  # narrow, so that SAIL's eightfold heads run on a CPU
TEXT = "wheel:minilm-l6"
SIZES = (500, 1000, 2000, 4000, None)  # None: all
RECIPES = ("cca", "linear", "freeze-align-pooled", "sail", "default")
SEEDS = 3
OURS = "default"


def main() -> None:
    options = parse()
    if options.render:
        PAGE.write_text(render([json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]))
        return
    deadline = time.monotonic() + 3600 * options.hours
    for source in options.source:
        pairs = features(source, options.store)
        for size in options.size:
            entered = Round(source, size, pairs, options.trials)
            if entered.path.exists() or (size is not None and size >= len(pairs) - len(test_part(pairs))):
                continue
            if options.open:
                entered.open()
                continue
            for _ in entered.train():
                if time.monotonic() > deadline:
                    return


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"nargs": "+", "type": lambda text: None if text == "all" else int(text)}
    parser.add_argument("--source", nargs="+", default=list(SOURCES), choices=list(SOURCES))
    parser.add_argument("--size", default=SIZES, **sizes)  # type: ignore[arg-type]
    parser.add_argument("--store", help="of the source, if there is one; its encoders are taken")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--open", action="store_true", help="measure the rounds that are trained")
    parser.add_argument("--render", action="store_true")
    return parser.parse_args()


def features(source: str, store: str | None) -> FeaturePairs:
    if store:
        return ist.open_store(store).pairs()
    made = ist.embed(SOURCES[source](), IMAGE, TEXT, out=WORK / source / "store", batch_size=4, progress=True)
    return made.pairs(image=IMAGE, text=TEXT)


class Round:
    """All systems on one source at one size."""

    def __init__(self, source: str, size: int | None, pairs: FeaturePairs, trials: int) -> None:
        self.source, self.size, self.pairs, self.trials = source, size, pairs, trials
        self.name = f"{source}-{size or 'all'}"
        self.work, self.path = WORK / source / self.name, RESULTS / f"{self.name}.json"

    @property
    def systems(self) -> list[str]:
        return [name for recipe in RECIPES for name in (recipe, f"{recipe}, tuned")]

    def train(self) -> Iterator[str]:
        """Train what is missing, a model at a time."""
        for recipe in RECIPES:
            yield from self._finals(recipe, recipe, [])
            settings = self._chosen(recipe)
            yield f"{recipe}: trials"
            yield from self._finals(f"{recipe}, tuned", recipe, settings)

    def _finals(self, system: str, recipe: str, settings: list[str]) -> Iterator[str]:
        for seed in range(SEEDS):
            out = self.work / f"{system}-{seed}"
            if not (out / "config.json").exists():
                train, val = drawn(self.pairs, self.size, seed)
                ist.train(train, val=val, recipe=recipe, overrides=settings, seed=seed, out=out, remember=False)
                print(self.name, system, seed, *settings, flush=True)
            yield system

    def _chosen(self, recipe: str) -> list[str]:
        """The settings that the trials choose, as `--set` takes them."""
        path = self.work / f"{recipe}-chosen.json"
        if not path.exists():
            train, val = drawn(self.pairs, self.size, 0)
            out = self.work / f"{recipe}-trials"
            found = tune(train, val, ist.load_recipe(recipe), Fitting(out), TrialBudget(trials=self.trials))
            write_json(path, found[2])
            print(self.name, recipe, found[2], flush=True)
        settings = json.loads(path.read_text())["settings"]
        return [*(f"{key}={json.dumps(value)}" for key, value in settings.items()), "stop.refit=true"]

    def open(self) -> None:
        """Measure all models on the test split, once."""
        folders = {system: [self.work / f"{system}-{seed}" for seed in range(SEEDS)] for system in self.systems}
        lacking = [str(one) for listed in folders.values() for one in listed if not (one / "config.json").exists()]
        if lacking:
            print(f"{self.name}: {len(lacking)} models are not trained yet, such as {lacking[0]}")
            return
        if self.path.exists():
            raise UsageError(f"{self.path}: this test split has been opened.")
        test = test_part(self.pairs)
        found = {system: [measured(folder, test) for folder in listed] for system, listed in folders.items()}
        rows = [self._row(system, found, test) for system in found]
        machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
        facts = {"source": self.source, "size": self.size, "trials": self.trials, "seeds": SEEDS, "machine": machine}
        counts = {"usable": len(self.pairs) - len(test), "test": len(test), "resamples": RESAMPLES}
        encoders = [record["uri"] for record in (*self.pairs.image_encoder, *self.pairs.text_encoder)]
        write_json(self.path, {**facts, **counts, "encoders": encoders, "rows": rows})

    def _row(self, system: str, found: dict[str, list[Hits]], test: FeaturePairs) -> dict[str, Any]:
        summaries = [read_summary(self.work / f"{system}-{seed}") for seed in range(SEEDS)]
        recipe, _, tuned = system.partition(", ")
        trials = json.loads((self.work / f"{recipe}-chosen.json").read_text()) if tuned else {"seconds": 0.0}
        against = f"{OURS}, tuned" if tuned else OURS
        gap = {} if system == against else difference(found[against], found[system], test)
        return {
            "system": system,
            "recalls": [mean_recall(one) for one in found[system]],
            "seconds": float(np.median([one["seconds"] + one.get("refit", {}).get("seconds", 0) for one in summaries])),
            "trial_seconds": trials["seconds"],
            "settings": trials.get("settings", {}),
            "against": against,
            **gap,
        }


def read_summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["summary"]


def measured(folder: Path, test: FeaturePairs) -> Hits:
    model = DualEncoder.from_pretrained(folder, load=False, device="cpu")
    return hits(model.image_projector, model.text_projector, test)


if __name__ == "__main__":
    main()
