"""Steps of a manager's training out of a store of states, beside the time of its modules alone.

    python benchmarks/fusion.py [--quick]

2,000 pictures × 6 layers × 65 tokens × 384 and as many questions × 6 layers × 4 to 12 tokens × 384, written as isthmus
writes them, float16. A step is a batch of 32 through the objective of `isthmus train`: read, padded, forward, backward,
AdamW. “Modules” are the same forward, backward and AdamW on one batch that is already there. Width 128, three layers,
20 answers. Runs alternate; medians. Wanted: at most 10 % above the modules. The aggregators are rows, since what they
cost beside the last layer is asked too.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from harness import Result, Table, alternate, write
from isthmus.data.ragged import Ragged
from isthmus.store import StoreWriter
from isthmus.store.keys import text_hash, to_keys
from isthmus.training.fusion.data import layered_split
from isthmus.training.fusion.objective import FusionObjective
from isthmus.training.optimizers import build_optimizer
from isthmus.training.recipe import load_recipe

LAYERS, WIDTH, PATCHES, BATCH, ANSWERS = 6, 384, 64, 32, 20
ROWS = ("last", "mean", "bridge", "saum", "aaum")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small store and few runs: does it work?")
    parser.add_argument("--folder", help="where the temporary store is made")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        store = Path(folder) / "store"
        make(store, 100 if options.quick else 2000)
        for name in ROWS[-1:] if options.quick else ROWS:
            rows.append([name, *measure(store, name, 1 if options.quick else 15)])
            print(rows[-1], flush=True)
    columns = ["aggregator", "step, ms", "modules, ms", "above the modules"]
    table = Table("A step of 32 questions", columns, rows)
    if not options.quick:
        write(Result("fusion", "Training a manager", " ".join(__doc__.split("\n\n")[2].split()), [table]))


def make(path: Path, count: int) -> None:
    """A store of random states of pictures and questions, with answers."""
    rng = np.random.default_rng(0)
    ids = [f"{number:06d}" for number in range(count)]
    texts = [f"question {number}" for number in range(count)]
    told = {"image": [text_hash(f"picture {one}") for one in ids], "text": [text_hash(one) for one in texts]}
    lengths = {"image": np.full(count, PATCHES + 1), "text": rng.integers(4, 13, count)}
    with StoreWriter(path) as writer:
        for side in told:
            for layer in range(1, LAYERS + 1):
                one = record(side, layer)
                writer.add_encoder(one)
                states = rng.standard_normal((int(lengths[side].sum()), WIDTH), np.float32)
                ragged = Ragged(states, np.cumsum(lengths[side]) - lengths[side])
                writer.write(side, one["fingerprint"], to_keys(told[side]), ragged)
        captions = {
            "caption_id": [f"{one}#0" for one in ids],
            "id": ids,
            "caption": texts,
            "content_hash": told["text"],
        }
        captions["answers"] = [f'{{"answer {number % ANSWERS}": 1.0}}' for number in range(count)]
        writer.finish(pa.table({"id": ids, "content_hash": told["image"]}), pa.table(captions))


def record(side: str, layer: int) -> dict:
    """Of the states of one layer, as an encoder describes itself."""
    shared = {"modality": side, "uri": f"test:{side}?layer={layer}&pool=states", "layer": layer, "pool": "states"}
    key = {"image": 1, "text": 2}[side]
    sizes = {"width": WIDTH, "parts": [WIDTH], "prefix": int(side == "image"), "rate_hz": None}
    return shared | sizes | {"fingerprint": f"{100 * key + layer:02x}" * 32, "backbone_key": f"{key:064x}"}


def measure(store: Path, aggregator: str, runs: int) -> tuple[str, str, str]:
    """(step, modules, what the step takes beyond them) of an aggregator."""
    overrides = [f"fusion.aggregator={aggregator}", "optim.precision=float32"]
    recipe = load_recipe("manager", overrides)
    objective = FusionObjective(*layered_split(store, recipe.fusion))
    module = objective.prepare(objective.planned(recipe), torch.device("cpu")).train()
    optimizer = build_optimizer(module, objective.plan.recipe.optim, factor=objective.learning_rate)
    draw = np.random.default_rng(0)
    there = objective.batch(np.arange(BATCH))

    def whole() -> None:
        step(objective, optimizer, lambda: objective.batch(draw.integers(0, objective.items, BATCH)))

    times = alternate({"step": whole, "modules": partial(step, objective, optimizer, lambda: there)}, runs)
    ours, theirs = times["step"], times["modules"]
    return f"{1e3 * ours:.0f}", f"{1e3 * theirs:.0f}", f"{ours / theirs - 1:+.1%}"


def step(objective: FusionObjective, optimizer: torch.optim.Optimizer, batch: Callable) -> None:
    loss = objective.losses(batch(), None)["loss"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


if __name__ == "__main__":
    main()
