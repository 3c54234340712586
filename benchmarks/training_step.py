"""What a training step costs beside its projectors and its loss.

    python benchmarks/training_step.py [--batch 4096] [--runs 7]

A whole step, as `isthmus train` takes it (rows from memory-mapped features, projectors, loss, gradients, checks,
optimiser), alternates with the projectors and the loss alone, forward and backward, on one batch that is there.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from harness import Result, Table, alternate, write
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.training.contrastive.objective import ContrastiveObjective
from isthmus.training.recipe import load_recipe
from isthmus.training.run import Run

RECIPES = ("linear", "freeze-align-pooled", "sail")
WIDTHS = 1024, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pairs = features(Path(folder), 8 * options.batch)
        rows = [compare(recipe, pairs, options.batch, options.runs) for recipe in RECIPES]
    columns = ["recipe", "whole step, s", "projectors and loss, s", "share of the rest"]
    write(Result("training_step", "A training step", about(options.batch), [Table("", columns, rows)]))


def about(batch: int) -> str:
    return f"{__doc__.split(chr(10) * 2)[2]} {batch:,} pairs of width {WIDTHS[0]:,} + {WIDTHS[1]:,}.".replace("\n", " ")


def features(folder: Path, n: int) -> FeaturePairs:
    """n pairs of random fp16 features in memory-mapped files."""
    random = np.random.default_rng(0)
    for name, width in zip(("image", "text"), WIDTHS, strict=True):
        np.save(folder / name, random.standard_normal((n, width), dtype=np.float32).astype(np.float16))
    image, text = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("image", "text"))
    return FeaturePairs.from_arrays(image, text)


def compare(recipe: str, pairs: FeaturePairs, batch: int, runs: int) -> list[object]:
    chosen = load_recipe(recipe, [f"optim.batch={batch}"])
    objective = ContrastiveObjective(pairs, None)
    run = Run(objective, chosen, out=None, seed=0, device="cpu")
    image, text, groups = objective.batch(np.arange(batch))

    def projectors_and_loss() -> None:
        objective.module.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=run.state.precision == "bf16"):
            loss = objective.module.loss(*objective.module(image, text), groups)
        loss.backward()

    seconds = alternate({"step": run.step, "bare": projectors_and_loss}, runs)
    print(recipe, seconds, flush=True)
    return [recipe, seconds["step"], seconds["bare"], f"{1 - seconds['bare'] / seconds['step']:.1%}"]


if __name__ == "__main__":
    main()
