"""Batches of layer states out of a store of sequences, beside a plain copy.

    python benchmarks/states.py [--quick] [--items 100000]

A store of 100,000 items × 3 layers × 16 tokens on average × 384 float16, written as isthmus writes it (a shard at most
64 MiB), its pages in the page cache: once with 16 tokens each, as an image encoder gives, once with 8 to 24, as a text
encoder does. A batch is 4,096 items drawn at random, all layers gathered into a preallocated float16 buffer, padded to
the longest. “Copy” copies the bytes of that buffer, padding included, between two buffers that are there already. Last,
int8 with a scale for each token, into float16. Runs alternate; medians.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import Result, Table, alternate, peak_memory, write
from isthmus.data.ragged import Ragged
from isthmus.store.ragged import write_ragged
from isthmus.store.shards import open_shard, shard_paths
from isthmus.store.states import StatesMatrix

LAYERS, TOKENS, WIDTH, BATCH = (4, 8, 12), 16, 384, 4096
SHARD = 4096  # items: 48 MiB of float16
CASES = {"16 tokens": (0, False), "8 to 24 tokens": (8, False), "16 tokens, int8": (0, True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small store and few runs: does it work?")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--folder", help="where the temporary store is made")
    options = parser.parse_args()
    items = 8192 if options.quick else options.items
    rows = []
    for name, (spread, int8) in CASES.items():
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            make(Path(folder), items, spread, int8)
            rows.append([name, *measure(opened(Path(folder), items), 3 if options.quick else 25)])
        print(rows[-1], flush=True)
    columns = [
        "store",
        "items",
        "MiB a batch",
        "padding",
        "copy, ms",
        "gather, ms",
        "share of copy",
        "share in the first epoch",
        "MiB beyond buffers",
    ]
    table = Table("One batch of 4,096 items of three layers", columns, rows)
    if not options.quick:
        write(Result("states", "Sequences in the store", " ".join(__doc__.split("\n\n")[2].split()), [table]))


def make(root: Path, items: int, spread: int, int8: bool) -> None:
    """Shards of random states; every number is different, as every page is in a real store."""
    for layer in LAYERS:
        for start in range(0, items, SHARD):
            same = np.random.default_rng(start)  # for all layers
            lengths = same.integers(TOKENS - spread, TOKENS + spread + 1, min(SHARD, items - start))
            keys = same.integers(0, 256, (len(lengths), 16), np.uint8)
            rng = np.random.default_rng([start, layer])
            states = rng.random((int(lengths.sum()), WIDTH), np.float32).astype(np.float16)
            ragged = Ragged(states, np.cumsum(lengths) - lengths)
            write_ragged(root / str(layer), "image", f"{layer:064x}", keys, ragged.to_int8() if int8 else ragged)


def opened(root: Path, items: int) -> StatesMatrix:
    members = [([open_shard(path) for path in shard_paths(root / str(layer))], np.arange(items)) for layer in LAYERS]
    records: Any = [{"uri": "states", "layer": layer, "width": WIDTH} for layer in LAYERS]
    return StatesMatrix(members, records)


def measure(states: StatesMatrix, runs: int) -> list[Any]:
    """The columns of the table from the number of items on."""
    order = np.random.default_rng(0).permutation(len(states))
    batches, turn = len(states) // BATCH, count()
    longest = int(states.lengths(order).max())
    out = np.ones((BATCH, len(LAYERS), longest, WIDTH), np.float16)
    other = torch.from_numpy(np.ones_like(out))

    def gather() -> None:
        start = next(turn) % batches * BATCH
        states.gather(order[start : start + BATCH], out)

    first = first_epoch(states, order, out, other)
    seconds = alternate({"copy": partial(other.copy_, torch.from_numpy(out)), "gather": gather}, runs)
    with peak_memory() as found:
        for _ in range(5):
            gather()
    padding = 1 - states.lengths(order[:BATCH]).mean() / longest
    copied, gathered = seconds["copy"], seconds["gather"]
    times = [copied * 1e3, gathered * 1e3, copied / gathered, first]
    return [f"{len(states):,}", out.nbytes / 2**20, float(padding), *times, found[0]]


def first_epoch(states: StatesMatrix, order: np.ndarray, out: np.ndarray, other: torch.Tensor) -> float:
    """Share of the speed of copying, median, while pages that are in memory are mapped for the first time."""
    shares = []
    for start in range(0, len(order) - BATCH + 1, BATCH):
        began = time.perf_counter()
        states.gather(order[start : start + BATCH], out)
        gathered = time.perf_counter()
        other.copy_(torch.from_numpy(out))
        shares.append((time.perf_counter() - gathered) / (gathered - began))
    return float(np.median(shares))


if __name__ == "__main__":
    main()
