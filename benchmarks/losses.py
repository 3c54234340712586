"""The losses beside open_clip's: seconds and memory of one loss, forward and backward, against the batch.

    python benchmarks/losses.py [--beside 1024 2048 --alone 4096 --runs 1]      # small; about half an hour without

Peers: `ClipLoss` and `SigLipLoss` of open_clip 3.3.0 from its wheel. Its development branch gives SigLipLoss a
`chunk_size` that no release has yet: `Chunked` below computes the same in the same order, and is run with the best
of four sizes. The floor is the matrix products alone, in the tiles isthmus uses: four for InfoNCE, whose logits are
computed again in the backward pass, three for the sigmoid. All runs of one batch size alternate.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import MIB, Plot, Result, Table, alternate, in_own_process, peak_memory, write
from isthmus.losses import infonce, sigmoid
from isthmus.losses.tiles import TILE

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from oracles import open_clip_loss

WIDTH = 1024
CLIP, SIGLIP = (14.0,), (10.0, -9.0)  # scale; scale and bias
CHUNKS = 512, 1024, 2048, 4096
FP32, BF16, MIXED = "fp32", "bf16", "fp32, bf16 products"
ALL_RUNS_UP_TO = 8192  # larger batches take two runs less

Case = tuple[str, str]  # who, and the precision it runs in


class Chunked(open_clip_loss().SigLipLoss):  # type: ignore[misc]
    """SigLipLoss by chunks of rows, each −log σ as softplus, the diagonal corrected: see the module."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        total = x.new_zeros((), dtype=torch.float32)
        for start in range(0, len(x), self.rows):
            logits = self.get_logits(x[start : start + self.rows], y, scale, bias)
            total = total + F.softplus(logits).sum() - logits.diagonal(start).sum()
        return total / len(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=int, nargs="+", default=[1024, 2048, 4096, 8192], help="N beside the peers")
    parser.add_argument("--alone", type=int, nargs="*", default=[16384, 32768], help="N of isthmus and floor alone")
    parser.add_argument("--once", type=int, nargs="*", default=[131072], help="N of isthmus in a single run")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--memory", nargs=3, metavar=("WHO", "PRECISION", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        who, precision, n = options.memory
        print(json.dumps(memory(who, precision, int(n))))
    else:
        write(measure(options.beside, options.alone, options.once, options.runs))


def measure(beside: list[int], alone: list[int], once: list[int], runs: int) -> Result:
    """Sizes to run beside the peers, sizes only isthmus is run at, and sizes it is run at a single time."""
    seconds: dict[int, dict[Case, float]] = {}
    mebibytes: dict[int, dict[Case, float]] = {}
    for n in beside + alone:
        cases = all_cases(n) if n in beside else our_cases()
        seconds[n] = time_all(n, cases, runs if n <= ALL_RUNS_UP_TO else max(1, runs - 2))
        mebibytes[n] = {
            case: in_own_process(__file__, "--memory", *case, n)[0] for case in cases if "floor" not in case[0]
        }
        for case in cases:
            print(n, *case, f"{seconds[n][case]:.3f} s", mebibytes[n].get(case, ""), flush=True)
    for n in once:
        cases = [("isthmus infonce", MIXED), ("isthmus sigmoid", MIXED)]
        weighed = {case: in_own_process(__file__, "--memory", *case, n) for case in cases}
        mebibytes[n], seconds[n] = ({case: pair[part] for case, pair in weighed.items()} for part in (0, 1))
        print(n, weighed, flush=True)
    return Result(
        "losses",
        "The losses",
        f"One loss, forward and backward, on N pairs of width {WIDTH:,}, gradients for both sides, scale and bias. "
        "Memory is what is taken beyond the inputs and their gradients. " + __doc__.split("\n\n")[2].replace("\n", " "),
        [ratios(max(beside), seconds, mebibytes), by_size(seconds), floors(seconds, mebibytes)],
        [
            plot("Seconds against N", "seconds", seconds),
            plot("Memory against N, beyond inputs and gradients", "MiB", mebibytes),
        ],
    )


# --- cases -----------------------------------------------------------------------------------------------------


def our_cases() -> list[Case]:
    return [
        ("isthmus infonce", MIXED),
        ("floor of infonce", BF16),
        ("isthmus sigmoid", MIXED),
        ("floor of sigmoid", BF16),
    ]


def all_cases(n: int) -> list[Case]:
    chunks = {precision: best_chunk(n, precision) for precision in (FP32, BF16)}
    cases = [(who, precision) for who in ("isthmus infonce", "ClipLoss") for precision in (FP32, BF16)]
    for precision in (FP32, BF16):
        cases += [(who, precision) for who in ("isthmus sigmoid", "SigLipLoss", f"SigLipLoss/{chunks[precision]}")]
    return [*cases, ("floor of infonce", FP32), ("floor of sigmoid", FP32), *our_cases()]


def best_chunk(n: int, precision: str) -> int:
    sizes = [size for size in CHUNKS if size <= n] or [n]
    seconds = alternate({str(size): run(f"SigLipLoss/{size}", precision, n) for size in sizes}, 1)
    return int(min(seconds, key=lambda size: seconds[size]))


def time_all(n: int, cases: list[Case], runs: int) -> dict[Case, float]:
    found = alternate({"|".join(case): run(*case, n) for case in cases}, runs)
    return {(who, precision): found[f"{who}|{precision}"] for who, precision in cases}


def run(who: str, precision: str, n: int) -> Callable[[], object]:
    """What to time or weigh."""
    inputs = batch(n, torch.bfloat16 if precision == BF16 else torch.float32)
    if who.startswith("floor"):
        return functools.partial(floor, *(t.detach() for t in inputs), 4 if "infonce" in who else 3)
    loss, scalars = loss_of(who)
    return functools.partial(step, loss, inputs, [torch.tensor(s, requires_grad=True) for s in scalars], precision)


def loss_of(who: str) -> tuple[Callable[..., Tensor], tuple[float, ...]]:
    if "/" in who:
        return Chunked(int(who.partition("/")[2])), SIGLIP
    losses = {
        "isthmus infonce": (infonce, CLIP),
        "isthmus sigmoid": (sigmoid, SIGLIP),
        "ClipLoss": (open_clip_loss().ClipLoss(), CLIP),
        "SigLipLoss": (open_clip_loss().SigLipLoss(), SIGLIP),
    }
    return losses[who]


@functools.cache
def batch(n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Unit vectors as in training: pairs alike, the rest nearly orthogonal."""
    generator = torch.Generator().manual_seed(0)
    x, noise = (F.normalize(torch.randn(n, WIDTH, generator=generator)) for _ in range(2))
    y = F.normalize(x + 2 * noise)
    return x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_()


def step(loss: Callable[..., Tensor], inputs: tuple[Tensor, Tensor], scalars: list[Tensor], precision: str) -> None:
    for tensor in (*inputs, *scalars):
        tensor.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == MIXED):
        value = loss(*inputs, *scalars)
    value.backward()


def floor(x: Tensor, y: Tensor, products: int) -> None:
    """The matrix products of a loss and nothing else, in their fastest order."""
    height, width = TILE
    p = torch.full(TILE, 1e-3, dtype=x.dtype)
    z, dx, dy = torch.empty_like(p), torch.empty_like(x[:height]), y.new_empty(y.shape[1], width)
    for i in range(0, len(x), height):
        transposed = x[i : i + height].T.contiguous()  # so the last product takes half as long in bf16
        for j in range(0, len(y), width):
            rows, cols = x[i : i + height], y[j : j + width]
            part = slice(len(rows)), slice(len(cols))
            for _ in range(products - 2):
                torch.mm(rows, cols.T, out=z[part])
            torch.mm(p[part], cols, out=dx[part[0]])
            torch.mm(transposed, p[part], out=dy[:, part[1]])


def memory(who: str, precision: str, n: int) -> tuple[float, float]:
    """MiB taken beyond the inputs and their gradients, in this process, and seconds."""
    run(who, precision, 256)()  # libraries and their buffers are there
    measured = run(who, precision, n)
    gradients = sum(t.nbytes for t in batch(n, torch.bfloat16 if precision == BF16 else torch.float32)) / MIB
    started = time.perf_counter()
    with peak_memory() as peak:
        measured()
    return round(peak[0] - gradients, 1), time.perf_counter() - started


# --- what is shown ---------------------------------------------------------------------------------------------


def ratios(n: int, seconds: dict[int, dict[Case, float]], mebibytes: dict[int, dict[Case, float]]) -> Table:
    """isthmus beside each peer at the greatest N both run at."""
    chunked = {precision: who for who, precision in seconds[n] if "/" in who}
    pairs: list[tuple[Case, Case]] = [
        (("isthmus infonce", FP32), ("ClipLoss", FP32)),
        (("isthmus infonce", BF16), ("ClipLoss", BF16)),
        (("isthmus infonce", MIXED), ("ClipLoss", FP32)),
    ]
    for ours, theirs in ((FP32, FP32), (BF16, BF16), (MIXED, FP32)):
        pairs += [(("isthmus sigmoid", ours), (peer, theirs)) for peer in ("SigLipLoss", chunked[theirs])]
    rows = []
    for us, them in pairs:
        time_us, time_them, memory_us, memory_them = (at[n][who] for at in (seconds, mebibytes) for who in (us, them))
        row = [" · ".join(us), time_us, memory_us, " · ".join(them), time_them, memory_them]
        rows.append([*row, time_them / time_us, memory_them / memory_us])
    columns = ["", "s", "MiB", "peer", "s", "MiB", "times as fast", "times less memory"]
    note = "“fp32, bf16 products” against fp32 compares both as they come on this processor: mixed precision with full."
    return Table(f"Beside open_clip, N = {n:,}", columns, rows, note)


def by_size(seconds: dict[int, dict[Case, float]]) -> Table:
    """How many times as fast as open_clip isthmus is at every N both run at, small ones too."""
    kinds = [(loss, precision) for loss in ("infonce", "sigmoid") for precision in (FP32, BF16)]
    beside = {n: found for n, found in seconds.items() if ("ClipLoss", FP32) in found}
    rows = [[f"{n:,}", *(times_as_fast(found, *kind) for kind in kinds)] for n, found in beside.items()]
    note = "The sigmoid beside the faster of SigLipLoss in full and in its best chunks."
    return Table("Times as fast as open_clip", ["N", *(" · ".join(kind) for kind in kinds)], rows, note)


def times_as_fast(found: dict[Case, float], loss: str, precision: str) -> float:
    peer = {"infonce": "ClipLoss", "sigmoid": "SigLipLoss"}[loss]
    best = min(seconds for (who, at), seconds in found.items() if who.startswith(peer) and at == precision)
    return best / found[f"isthmus {loss}", precision]


def floors(seconds: dict[int, dict[Case, float]], mebibytes: dict[int, dict[Case, float]]) -> Table:
    """isthmus beside the matrix products alone."""
    rows = []
    for n, found in seconds.items():
        for loss in ("infonce", "sigmoid"):
            ours, products = ("isthmus " + loss, MIXED), ("floor of " + loss, BF16)
            floor = found.get(products)
            rows.append([f"{n:,}", loss, found[ours], floor, floor and found[ours] / floor, mebibytes[n][ours]])
    note = "Where the products are a dash, isthmus ran a single time, with the sampler of its memory beside it."
    columns = ["N", "loss", "s", "products, s", "ratio", "MiB"]
    return Table("Beside the matrix products alone, bf16", columns, rows, note)


def plot(title: str, y: str, values: dict[int, dict[Case, float]]) -> Plot:
    series: dict[str, list[tuple[float, float]]] = {}
    for n, found in values.items():
        for (who, precision), value in found.items():
            if "floor" not in who and value > 0:
                name = who.partition("/")[0] + (" chunked" if "/" in who else "")
                series.setdefault(f"{name} · {precision}", []).append((n, value))
    return Plot(title, "N", y, series)


if __name__ == "__main__":
    main()
