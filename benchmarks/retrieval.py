"""Retrieval evaluation beside CLIP_benchmark's own, and at 100,000 × 100,000 where that one does not fit.

    python benchmarks/retrieval.py [--quick] [--sizes 4096 8192] [--alone 100000]

Embeddings 512 wide, float32, in memory-mapped files; one caption per image, R@1, R@5 and R@10 in both directions, no
bootstrap. CLIP_benchmark 1.6.2's `evaluate` is given a model that hands it the same embeddings, and holds all n × n
scores. The floor is one float32 product of all captions with all images, in the blocks isthmus uses.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from harness import Plot, Result, Table, alternate, anonymous, in_own_process, peak_memory, write
from isthmus.metrics.counting import BLOCK, STRIP
from isthmus.metrics.retrieval import retrieval

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from oracles import clip_benchmark

WIDTH = 512
OURS, THEIRS, FLOOR = "isthmus", "CLIP_benchmark", "one product"
CUTOFFS = [1, 5, 10]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small and one run: does it work?")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[2048, 8192], help="beside the peer; 32768 takes it ten minutes a run"
    )
    parser.add_argument("--alone", type=int, nargs="+", default=[100_000])
    parser.add_argument("--memory", nargs=3, metavar=("WHO", "FOLDER", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory(*options.memory)))
        return
    sizes, alone = ([512, 1024], [4096]) if options.quick else (options.sizes, options.alone)
    with tempfile.TemporaryDirectory() as folder:
        write(measure(Path(folder), sizes, alone, 1 if options.quick else 3))


def measure(folder: Path, sizes: list[int], alone: list[int], runs: int) -> Result:
    rows, seconds, mebibytes = [], {}, {}
    for n in [*sizes, *alone]:
        make(folder, n)
        who = [OURS, FLOOR, THEIRS] if n in sizes else [OURS, FLOOR]
        seconds[n] = alternate({name: case(name, folder) for name in who}, runs if n in sizes else 1, warm=n in sizes)
        mebibytes[n] = {name: in_own_process(__file__, "--memory", name, folder, n) for name in who if name != FLOOR}
        own, peer = seconds[n][OURS], seconds[n].get(THEIRS)
        ratio = None if peer is None else peer / own
        memory = mebibytes[n]
        rows.append([f"{n:,}", own, peer, ratio, own / seconds[n][FLOOR], *memory[OURS], memory.get(THEIRS, [None])[0]])
        print(rows[-1], flush=True)
    columns = ["n", "isthmus, s", "CLIP_benchmark, s", "ratio", "isthmus / product"]
    columns += ["isthmus, MiB", "whole process, MiB", "CLIP_benchmark, MiB"]
    return Result(
        "retrieval",
        "Retrieval evaluation",
        " ".join(__doc__.split("\n\n")[2].split()),
        [Table("n captions among n images, both directions", columns, rows, "MiB: beyond what was there before.")],
        [Plot("Seconds against n", "n", "seconds", series(seconds))],
    )


def make(folder: Path, n: int) -> None:
    """Embeddings whose pairs agree about as well as a small model's, as `image.npy` and `text.npy`."""
    rng = np.random.default_rng(n)
    files = [np.lib.format.open_memmap(folder / f"{side}.npy", "w+", np.float32, (n, WIDTH)) for side in SIDES]
    for start in range(0, n, 8192):
        shared = rng.standard_normal((min(8192, n - start), WIDTH), np.float32)
        for file in files:
            file[start : start + len(shared)] = shared + 2.5 * rng.standard_normal(shared.shape, np.float32)


SIDES = ("image", "text")


def case(who: str, folder: Path) -> Callable[[], object]:
    image, text = (np.load(folder / f"{side}.npy", mmap_mode="r") for side in SIDES)
    if who == OURS:
        return partial(retrieval, image, text, np.arange(len(text)), k=CUTOFFS, bootstrap=0)
    return partial(product, image, text) if who == FLOOR else partial(peer, image, text)


def product(image: np.ndarray, text: np.ndarray) -> None:
    out = np.empty((STRIP, min(BLOCK, len(image))), np.float32)
    for column in range(0, len(image), BLOCK):
        right = np.array(image[column : column + BLOCK]).T
        for row in range(0, len(text), STRIP):
            left = text[row : row + STRIP]
            np.matmul(left, right, out=out[: len(left), : right.shape[1]])


def peer(image: np.ndarray, text: np.ndarray) -> dict[str, float]:
    """CLIP_benchmark's `evaluate`; loader, tokenizer and model only hand it the embeddings, 512 at a time."""

    def batches() -> object:
        for start in range(0, len(image), 512):
            rows = torch.arange(start, min(start + 512, len(image)))
            yield rows, [[int(row)] for row in rows]

    model = SimpleNamespace(
        encode_image=lambda rows: torch.from_numpy(image[rows.numpy()]),
        encode_text=lambda rows: torch.from_numpy(text[rows.numpy()]),
    )
    evaluate = clip_benchmark("zeroshot_retrieval").evaluate
    return evaluate(model, batches(), torch.tensor, device="cpu", amp=False, recall_k_list=CUTOFFS)


def memory(who: str, folder: str, n: str) -> list[float]:
    """MiB at the peak beyond what there was before, and of the whole process."""
    run = case(who, Path(folder))
    with peak_memory() as found:
        before = anonymous()
        run()
    return [found[0], before + found[0]]


def series(seconds: dict[int, dict[str, float]]) -> dict[str, list[tuple[float, float]]]:
    names = dict.fromkeys(name for by_name in seconds.values() for name in by_name)
    return {name: [(n, by_name[name]) for n, by_name in seconds.items() if name in by_name] for name in names}


if __name__ == "__main__":
    main()
