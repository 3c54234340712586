"""How fast, and in how much memory, `curate` finds the best pairs of a large pool.

    python benchmarks/curation_scale.py                    # 10 million × 384 fp16, 2,754 concepts, K = 50,000
    python benchmarks/curation_scale.py --rows 1000000
    python benchmarks/curation_scale.py --render           # its section of docs/curation.md from the committed JSON

Makes a pool in clip-retrieval's layout in a temporary folder (7.7 GB), then, in a process of its own: measures the
speed of a float32 and of a bfloat16 matrix product, runs the pass and the assignment as `isthmus curate` does, and
samples anonymous memory (RssAnon) throughout. The pool is synthetic: a speed, not a quality, is measured.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "curation_scale.json"
PAGE = HERE.parent / "docs" / "curation.md"
MARKS = ("<!-- curation_scale: begin -->", "<!-- curation_scale: end -->")
CONCEPTS, WIDTH, KEEP, PER_CONCEPT = 2754, 384, 50_000, 2000  # freeze-align's numbers, MiniLM's width
ROWS_PER_FILE = 1_000_000
GIB = 2**30
LAION = 400_000_000


def main() -> None:
    options = parse()
    if options.render:
        write_section(PAGE, render(json.loads(RESULTS.read_text())))
    elif options.pool:
        print(json.dumps(measure(options.pool, options)))
    else:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            make_pool(Path(folder), options)
            command = [
                sys.executable,
                __file__,
                "--pool",
                folder,
                "--concepts",
                options.concepts,
                "--keep",
                options.keep,
            ]
            shown = subprocess.run(
                [str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True
            ).stdout
        result = json.loads(shown.splitlines()[-1])
        RESULTS.parent.mkdir(exist_ok=True)
        if not options.no_write:
            RESULTS.write_text(json.dumps(result, indent=2) + "\n")
        print(render(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--concepts", type=int, default=CONCEPTS)
    parser.add_argument("--keep", type=int, default=KEEP)
    parser.add_argument("--folder", help="where the temporary pool is made")
    parser.add_argument("--no-write", action="store_true", help="print only")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--pool", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def concept_vectors(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, WIDTH)).astype(np.float32)


def make_pool(folder: Path, options: argparse.Namespace) -> None:
    """Rows around concepts that are as uneven as words are (frequency ∝ 1 / rank), in random order."""
    centres = concept_vectors(options.concepts)
    frequency = 1 / np.arange(1, options.concepts + 1)
    for number, start in enumerate(range(0, options.rows, ROWS_PER_FILE)):
        rng = np.random.default_rng([1, number])
        rows = min(ROWS_PER_FILE, options.rows - start)
        (folder / "text_emb").mkdir(exist_ok=True)
        (folder / "metadata").mkdir(exist_ok=True)
        array = np.lib.format.open_memmap(
            folder / "text_emb" / f"text_emb_{number}.npy", "w+", np.float16, (rows, WIDTH)
        )
        for low in range(0, rows, 50_000):
            high = min(low + 50_000, rows)
            concept = rng.choice(options.concepts, high - low, p=frequency / frequency.sum())
            part = rng.standard_normal((high - low, WIDTH), np.float32) + 0.5 * centres[concept]
            array[low:high] = part / np.linalg.norm(part, axis=1, keepdims=True)
        array.flush()
        ids = pa.array([f"{number:05d}{row:09d}" for row in range(rows)])
        table = pa.table({"image_path": ids, "caption": pa.array([f"caption {row}" for row in range(rows)])})
        pq.write_table(table, folder / "metadata" / f"metadata_{number}.parquet")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from isthmus.curation.assign import assign
    from isthmus.curation.scan import ConceptScorer, scan
    from isthmus.curation.sources import open_pool
    from isthmus.curation.topk import buffer_bytes

    pool = Interleaved(open_pool(folder), options.concepts)
    scorer = ConceptScorer({"caption": concept_vectors(options.concepts)})
    bfloat16 = product_speed(scorer.concepts, WIDTH, scorer.tile, torch.bfloat16)
    memory = Memory()
    started = time.perf_counter()
    top = scan(pool, scorer, options.keep, checkpoint=folder / "candidates.topk", about={}, progress=True)
    seconds = time.perf_counter() - started - pool.spent
    selection = assign(top, PER_CONCEPT)
    ids = pool.ids(selection.rows)
    assigned = time.perf_counter() - started - pool.spent - seconds
    flops = 2 * len(pool) * scorer.concepts * WIDTH
    product = float(np.median(pool.speeds))
    return {
        "rows": len(pool),
        "width": WIDTH,
        "concepts": scorer.concepts,
        "keep": options.keep,
        "seconds": seconds,
        "assign_seconds": assigned,
        "selected": len(set(ids)),
        "rows_per_second": len(pool) / seconds,
        "gflops": flops / seconds / 1e9,
        "product_gflops": {"float32": product, "bfloat16": bfloat16},
        "product_samples": len(pool.speeds),
        "ratio": flops / seconds / 1e9 / product,
        "peak_anonymous_bytes": memory.stop(),
        "buffer_bytes": buffer_bytes(scorer.concepts, options.keep, scorer.tile),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, torch {torch.__version__}",
    }


class Interleaved:
    """A pool that, every hundredth tile, times bare float32 products in the pass's own shape: other work on the
    machine slows both alike. spent: the seconds this took, which are not the pass's.
    """

    def __init__(self, pool: Any, concepts: int) -> None:
        self._pool, self._concepts, self._calls = pool, concepts, 0
        self.speeds: list[float] = []
        self.spent = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def __len__(self) -> int:
        return len(self._pool)

    def features(self, side: Any, start: int, stop: int) -> np.ndarray:
        self._calls += 1
        if self._calls % 100 == 1:
            started = time.perf_counter()
            self.speeds.append(product_speed(self._concepts, WIDTH, 4096, torch.float32))
            self.spent += time.perf_counter() - started
        return self._pool.features(side, start, stop)


def product_speed(m: int, k: int, n: int, dtype: torch.dtype) -> float:
    """GFLOP/s of [m, k] × [k, n]; median of 5 after a warm-up."""
    a, b = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    out = torch.empty(m, n, dtype=dtype)
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        torch.mm(a, b.T, out=out)
        seconds.append(time.perf_counter() - started)
    return 2 * m * k * n / float(np.median(seconds[1:])) / 1e9


class Memory:
    """The peak of this process's anonymous memory, sampled ten times a second."""

    def __init__(self) -> None:
        self.peak, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            self.peak = max(self.peak, anonymous_bytes())

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return self.peak


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def render(result: dict[str, Any]) -> str:
    """The section of docs/curation.md."""
    rate = result["rows_per_second"]
    alone = LAION / rate / 3600
    product = result["product_gflops"]
    peak, buffers = (result[name] / GIB for name in ("peak_anonymous_bytes", "buffer_bytes"))
    state = result["buffer_bytes"] / 1.25 / 1e9
    files = LAION * result["width"] * 2 / 1e12
    return f"""
{result["rows"]:,} rows × {result["width"]} (float16, memory-mapped) against {result["concepts"]:,} concepts, the best
{result["keep"]:,} rows of each, exactly; {result["threads"]} thread(s), {result["machine"]}.

| | |
|---|---|
| the pass, reading and checkpoints included | {result["seconds"]:,.0f} s, {rate:,.0f} rows/s |
| arithmetic in it | {result["gflops"]:,.0f} GFLOP/s |
| a bare float32 matrix product, same run | {product["float32"]:,.0f} GFLOP/s |
| **share of that speed** | **{100 * result["ratio"]:.0f} %** |
| a bare bfloat16 product, once before the pass (not used: see below) | {product["bfloat16"]:,.0f} GFLOP/s |
| peak anonymous memory | {peak:.2f} GiB, of which {buffers:.2f} GiB buffers |
| choosing {PER_CONCEPT:,} per concept, finding ids | {result["assign_seconds"]:,.0f} s, {result["selected"]:,} pairs |

The bare product has the pass's own shape and is timed between its tiles, {result["product_samples"]} times, so that
other work on the machine slows both alike (median). bfloat16 is not used for scores: it
keeps 8 bits, so that near-equal cosines tie by the thousand, as freeze-align's int8 does.

By arithmetic, not measured: at this rate 400 million rows take {alone:,.1f} hours on this machine with
{result["threads"]} thread(s), and {alone / 10:,.1f} hours on ten, each with a tenth of the files; then ten states of at
most {state:.1f} GB are merged, in any order. The features themselves are {files:.2f} TB at
this width: reading them needs {rate * result["width"] * 2 / 1e6:,.0f} MB/s. Not counted: making the embeddings, which
costs far more than choosing among them.
"""


def write_section(page: Path, text: str) -> None:
    """Replace what stands between this benchmark's marks in the page."""
    before, _, rest = page.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    page.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
