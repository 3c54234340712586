"""Shuffled batches out of a store, beside a plain copy and beside SAIL's DataLoader.

    python benchmarks/store.py [--quick] [--pairs 1000000]

A store of pairs × (1,024 + 1,024) float16, written as isthmus writes it (shards of 64 MiB), its pages in the page
cache. A batch is 32,768 pairs drawn at random from an epoch's permutation, both sides gathered into preallocated
float16 buffers. “Copy” copies as many bytes between two buffers that are there already. The peer is what SAIL does:
a Dataset over two lists of tensors in memory, batched by torch's DataLoader and its default collate. “Blocks” is the
order for a disk larger than memory (`optim.shuffle = "blocks"`): blocks of 4,096 consecutive pairs at random, pairs
among 16 of them. Runs alternate, the DataLoader's with isthmus's, the others' with each other.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from harness import Plot, Result, Table, alternate, in_own_process, peak_memory, write
from isthmus.store.matrix import Rows
from isthmus.store.shards import open_shard, shard_paths, write_shard
from isthmus.training.order import block_order, epoch_order

WIDTH, BATCH, SHARD = 1024, 32_768, 32_768  # 64 MiB a shard
SIDES = ("image", "text")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small store and one run: does it work?")
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--folder", help="where the temporary store is made")
    parser.add_argument("--memory", metavar="STORE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory(Path(options.memory))))
        return
    sizes = [65_536] if options.quick else [options.pairs // 10, options.pairs]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        write(measure(Path(folder), sizes, 3 if options.quick else 9))


def measure(folder: Path, sizes: list[int], runs: int) -> Result:
    rows: list[list[Any]] = []
    rates: dict[str, list[tuple[float, float]]] = {"isthmus": [], "SAIL's DataLoader": []}
    for pairs in sizes:
        root = folder / str(pairs)
        make(root, pairs)
        store = opened(root)
        share_first = first_epoch(store, pairs)
        both = cases(store, pairs)
        beside = alternate({"DataLoader": both.pop("DataLoader"), "isthmus": both["isthmus"]}, runs)
        seconds = alternate(both, 3 * runs)
        copied, ours, blocks = (seconds[name] for name in ("copy", "isthmus", "blocks"))
        peer = beside["DataLoader"]
        rows.append([f"{pairs:,}", copied * 1e3, ours * 1e3, copied / ours, share_first, copied / blocks])
        rows[-1] += [peer * 1e3, peer / beside["isthmus"], in_own_process(__file__, "--memory", root)]
        rates["isthmus"].append((pairs, BATCH / ours))
        rates["SAIL's DataLoader"].append((pairs, BATCH / peer))
        print(rows[-1], flush=True)
    columns = ["pairs", "copy, ms", "isthmus, ms", "share of copy", "same, first epoch", "same, blocks"]
    columns += ["DataLoader, ms", "ratio", "MiB beyond buffers"]
    note = "First epoch: a process maps each page when it first touches it."
    return Result(
        "store",
        "The store under load",
        " ".join(__doc__.split("\n\n")[2].split()),
        [Table("One batch of 32,768 pairs", columns, rows, note)],
        [Plot("Pairs per second against the store's size", "pairs", "pairs per second", rates)],
    )


def make(root: Path, pairs: int) -> None:
    """Shards of random features; every number is different, as every page is in a real store."""
    for side in SIDES:
        (root / side).mkdir(parents=True)
        for start in range(0, pairs, SHARD):
            rng = np.random.default_rng([start, len(side)])
            features = rng.random((min(SHARD, pairs - start), WIDTH), np.float32).astype(np.float16)
            write_shard(root / side, side, "0" * 64, rng.integers(0, 256, (len(features), 16), np.uint8), features)


def opened(root: Path) -> list[Rows]:
    return [Rows([open_shard(path).features for path in shard_paths(root / side)]) for side in SIDES]


def buffers() -> list[np.ndarray]:
    return [np.ones((BATCH, WIDTH), np.float16) for _ in SIDES]


def gather(store: list[Rows], rows: np.ndarray, out: list[np.ndarray]) -> None:
    for matrix, buffer in zip(store, out, strict=True):
        matrix.gather(rows, buffer[: len(rows)])


def first_epoch(store: list[Rows], pairs: int) -> float:
    """Share of the speed of copying, median, while pages that are in memory are mapped for the first time."""
    order, out, other, shares = epoch_order(pairs, 7, 0), buffers(), buffers(), []
    for start in range(0, pairs - BATCH + 1, BATCH):
        began = time.perf_counter()
        gather(store, order[start : start + BATCH], out)
        gathered = time.perf_counter()
        copy(out, other)
        shares.append((time.perf_counter() - gathered) / (gathered - began))
    return float(np.median(shares))


def copy(out: list[np.ndarray], other: list[np.ndarray]) -> None:
    for a, b in zip(out, other, strict=True):
        torch.from_numpy(a).copy_(torch.from_numpy(b))  # by as many threads as gather


def cases(store: list[Rows], pairs: int) -> dict[str, Callable[[], object]]:
    out, other = buffers(), buffers()
    batches = pairs // BATCH
    orders = {"isthmus": epoch_order(pairs, 0, 0), "blocks": block_order(pairs, 0, 0)}
    turn = {name: count() for name in orders}

    def ours(name: str) -> None:
        start = next(turn[name]) % batches * BATCH
        gather(store, orders[name][start : start + BATCH], out)

    return {
        "copy": partial(copy, out, other),
        "isthmus": partial(ours, "isthmus"),
        "blocks": partial(ours, "blocks"),
        "DataLoader": partial(next, forever(store)),
    }


class Lists(Dataset):
    """SAIL's dataset in its essence: two lists of tensors, an item at a time."""

    def __init__(self, store: list[Rows]) -> None:
        some = np.arange(min(len(store[0]), 2 * BATCH))  # its speed does not depend on how many there are
        self.sides = []
        for matrix in store:
            out = np.empty((len(some), WIDTH), np.float16)
            matrix.gather(some, out)
            self.sides.append(list(torch.from_numpy(out).clone().unbind()))

    def __len__(self) -> int:
        return len(self.sides[0])

    def __getitem__(self, row: int) -> tuple[torch.Tensor, ...]:
        return tuple(side[row] for side in self.sides)


def forever(store: list[Rows]) -> Iterator[Any]:
    loader = DataLoader(Lists(store), batch_size=BATCH, shuffle=True, drop_last=True)
    while True:
        yield from loader


def memory(root: Path) -> float:
    """MiB that ten batches take beyond the buffers they are gathered into."""
    store, out = opened(root), buffers()
    order = epoch_order(len(store[0]), 0, 0)
    with peak_memory() as found:
        for start in range(0, min(10 * BATCH, len(order)), BATCH):
            gather(store, order[start : start + BATCH], out)
    return found[0]


if __name__ == "__main__":
    main()
