"""Search in an index beside exact search, usearch and plain faiss: recall, time of a query, memory, time to build.

    python benchmarks/index.py [--rows 1000000] [--width 512]   # all four: 7 GB of disk, most of the time is usearch's
    python benchmarks/index.py --alone 10000000                 # isthmus alone: more than an hour, 22 GB of disk
    python benchmarks/index.py --new MODEL INDEX                # a new process that answers a text
    python benchmarks/index.py --quick                          # small: does it work? Prints, writes nothing

Needs faiss-cpu, and but for `--alone` and `--new` usearch. Each run replaces its own rows of the results.

Synthetic pictures in clusters of very different sizes, float16 in a mapped file, and texts that lie apart from all
pictures, as those of joint spaces do. Each case runs in a process of its own, one query at a time. Recall@10 is against
an exact search of the same float16 embeddings. Peers raise their own parameter until *pictures* find 0.98 of their
nearest, as one does who has no texts; isthmus does so with texts and pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness import RESULTS, Result, Table, anonymous, in_own_process, write
from isthmus.index import candidates, open_index
from isthmus.index.exact import exact_top
from isthmus.index.segments import PICTURE_SCHEMA, Part, Segment, write_segment

K, AIM = candidates.AMONG, candidates.AIM
CALIBRATED, ASKED = 256, 200  # queries of each kind
ASKED_ALL = 50  # of them, of all embeddings: a query takes long
BLOCK = 65_536
DOC, USAGE, ABOUT = __doc__ or "", "\n    python", "Synthetic pictures"
OURS, EXACT, USEARCH, FAISS = "isthmus", "exact", "usearch", "faiss"
Search = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small: does it work?")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    every = [EXACT, OURS, FAISS, USEARCH]
    parser.add_argument("--who", nargs="+", choices=every, default=every, help="those to measure (all)")
    parser.add_argument("--alone", type=int, metavar="ROWS", help="isthmus alone, of so many rows")
    parser.add_argument("--new", nargs=2, metavar=("MODEL", "INDEX"), help="a new process that answers a text")
    parser.add_argument("--scratch", metavar="DIR", help="where the files are; default: that of temporary files")
    parser.add_argument("--case", nargs=2, metavar=("WHO", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(case(options.case[0], Path(options.case[1]))))
        return
    if options.new:
        table = new_process(*options.new)
    elif options.alone:
        table = measure(options.alone, options.width, [OURS], options.scratch)
    else:
        rows, width = (20_000, 64) if options.quick else (options.rows, options.width)
        table = measure(rows, width, options.who, options.scratch)
    if options.quick:
        print(json.dumps(table.rows, indent=1))
    else:
        about = f"{DOC.partition(USAGE)[0].strip()}\n\n{ABOUT}{DOC.partition(ABOUT)[2].rstrip()}"
        write(Result("index", "Search in an index", about, [*earlier(table), table]))


def earlier(table: Table) -> list[Table]:
    """The tables of earlier runs but for the one of this title, whose rows that were not run again `table` takes."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known = [Table(**one) for one in results.get("index", {}).get("tables", [])]
    run = {row[0] for row in table.rows}
    table.rows[:0] = [row for one in known if one.title == table.title for row in one.rows if row[0] not in run]
    return [one for one in known if one.title != table.title]


def new_process(model: str, index: str, runs: int = 5) -> Table:
    """Seconds of `isthmus search` for a text, by the index's graph of the text side and by the model itself."""
    without = "import sys; sys.modules['isthmus.exports.embed'] = None; "
    start = "from isthmus.cli import main; main(sys.argv[1:])"
    cases = {"by the graph of the index": f"import sys; {start}", "by the model": without + start}
    wall: dict[str, list[float]] = {name: [] for name in cases}
    cpu: dict[str, list[float]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(runs + 1):
            for name, code in cases.items():
                before, started = os.times(), time.perf_counter()
                command = [
                    sys.executable,
                    "-c",
                    code,
                    "search",
                    os.path.abspath(model),
                    os.path.abspath(index),
                    "a bird",
                ]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
                after = os.times()
                if turn:
                    wall[name].append(time.perf_counter() - started)
                    cpu[name].append(sum(after[2:4]) - sum(before[2:4]))
    return Table(
        "A new process that answers a text",
        ["", "s", "CPU s"],
        [[name, statistics.median(wall[name]), statistics.median(cpu[name])] for name in cases],
        f"`isthmus search` of {len(open_index(index)):,} pictures, contact sheet included; medians of {runs} runs in "
        "turn, files in the page cache.",
    )


def measure(rows: int, width: int, who: list[str], scratch: str | None) -> Table:
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        make(Path(folder), rows, width)
        found = {name: in_own_process(__file__, "--case", name, folder) for name in who}
    columns = [
        "",
        "recall@10, texts",
        "recall@10, pictures",
        "p50, ms",
        "p99, ms",
        "memory, MiB",
        "files, MiB",
        "build, s",
    ]
    names = ("text", "image", "p50", "p99", "memory", "files", "build")
    return Table(
        f"{rows:,} × {width}",
        [*columns, "how"],
        [[name, *(one[key] for key in names), one["how"]] for name, one in found.items()],
        "Memory is anonymous memory while searching; files are those that are mapped or read. p50 and p99 of one text "
        "at a time, after 20 that are not counted.",
    )


def make(folder: Path, rows: int, width: int, seed: int = 0) -> None:
    """`emb.npy` float16 [rows, width], and queries of both kinds, to calibrate with and to ask."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(50, rows // 500), width), np.float32)
    sizes = rng.pareto(1.2, len(centres)) + 0.1  # few large clusters, many small ones
    emb = np.lib.format.open_memmap(folder / "emb.npy", "w+", np.float16, (rows, width))
    for start in range(0, rows, BLOCK):
        some = emb[start : start + BLOCK]
        some[:] = around(rng, centres[rng.choice(len(centres), len(some), p=sizes / sizes.sum())], 0.8)
    emb.flush()
    gap = 0.6 * rng.standard_normal(width, np.float32)  # what all texts share, and pictures do not have
    queries = 2 * (CALIBRATED + ASKED)
    texts = around(rng, centres[rng.integers(0, len(centres), queries)] + gap, 1.0)
    pictures = around(rng, emb[rng.integers(0, rows, queries)].astype(np.float32) * np.sqrt(width), 0.3)
    np.savez(folder / "queries.npz", text=texts, image=pictures)


def around(rng: np.random.Generator, centres: np.ndarray, spread: float) -> np.ndarray:
    found = centres + spread * rng.standard_normal(centres.shape, np.float32)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def case(who: str, folder: Path) -> dict[str, Any]:
    """One way to search, built and asked."""
    emb = np.load(folder / "emb.npy", mmap_mode="r")
    asked = dict(np.load(folder / "queries.npz"))
    known = {name: one[:CALIBRATED] for name, one in asked.items()}
    count = ASKED_ALL if who == EXACT else ASKED
    fresh = {name: one[CALIBRATED : CALIBRATED + count] for name, one in asked.items()}
    before = anonymous()
    started = time.perf_counter()
    search, files, how = {OURS: ours, EXACT: exact, USEARCH: usearch, FAISS: plain_faiss}[who](folder, emb, known)
    build = time.perf_counter() - started
    for query in fresh["text"][:20]:
        search(query[None])
    seconds = [timed(search, query[None]) for query in fresh["text"]]
    memory = anonymous() - before
    recall = {name: recall_of(search, one, emb) for name, one in fresh.items()}
    p50, p99 = (1000 * float(np.quantile(seconds, share)) for share in (0.5, 0.99))
    size = sum(file.stat().st_size for file in files) / 2**20
    return {**recall, "p50": p50, "p99": p99, "memory": memory, "files": size, "build": build, "how": how}


def timed(search: Search, query: np.ndarray) -> float:
    started = time.perf_counter()
    search(query)
    return time.perf_counter() - started


def recall_of(search: Search, queries: np.ndarray, emb: np.ndarray) -> float:
    found = np.concatenate([search(query[None]) for query in queries])
    return candidates.shared(found, exact_top(queries, [emb], K)[1])


def exact(folder: Path, emb: np.ndarray, known: dict[str, np.ndarray]) -> tuple[Search, list[Path], str]:
    how = f"every embedding, in tiles; {ASKED_ALL} queries"
    return lambda query: exact_top(query, [emb], K)[1], [folder / "emb.npy"], how


def ours(folder: Path, emb: np.ndarray, known: dict[str, np.ndarray]) -> tuple[Search, list[Path], str]:
    """A segment as `isthmus index` writes it, without pictures."""
    rows, width = emb.shape
    rng = np.random.default_rng(1)

    def parts() -> Any:
        for start in range(0, rows, BLOCK):
            some = emb[start : start + BLOCK]
            nothing = pa.table([pa.nulls(len(some), field.type) for field in PICTURE_SCHEMA], schema=PICTURE_SCHEMA)
            yield Part(rng.integers(0, 256, (len(some), 16), np.uint8), some, nothing)

    segment = Segment(folder, write_segment(folder, rows, width, parts()), width)
    candidates.write_candidates(folder, segment)
    candidates.calibrate_probes(folder, segment, known["text"], known["image"])
    told = segment.record.candidates or {}
    lists = candidates.InvertedLists(folder, segment.record)
    files = [folder / segment.record.files[name].name for name in ("embeddings", "candidates")]
    how = f"{told['lists']} lists, {told['kind']}, {told['probes']} probes, {told['keep']} × {K} compared again"
    return lambda query: lists.top(query, segment.embeddings, K)[1], files, how


def plain_faiss(folder: Path, emb: np.ndarray, known: dict[str, np.ndarray]) -> tuple[Search, list[Path], str]:
    import faiss

    lists = candidates.lists_of(len(emb))
    made: Any = faiss.index_factory(emb.shape[1], f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    sample = np.random.default_rng(0).choice(len(emb), min(len(emb), candidates.TRAINED * lists), replace=False)
    made.train(emb[np.sort(sample)].astype(np.float32))
    for start in range(0, len(emb), BLOCK):
        made.add(emb[start : start + BLOCK].astype(np.float32))
    faiss.write_index(made, str(folder / "plain.faiss"))

    def search(query: np.ndarray) -> np.ndarray:
        return made.search(query, K)[1]

    while recall_of(search, known["image"], emb) < AIM and made.nprobe < lists:
        made.nprobe *= 2
    return search, [folder / "plain.faiss"], f"{lists} lists, float32, {made.nprobe} probes"


def usearch(folder: Path, emb: np.ndarray, known: dict[str, np.ndarray]) -> tuple[Search, list[Path], str]:
    from usearch.index import Index

    made = Index(ndim=emb.shape[1], metric="ip", dtype="f16")
    for start in range(0, len(emb), BLOCK):
        some = emb[start : start + BLOCK]
        made.add(np.arange(start, start + len(some)), some)
    made.save(str(folder / "usearch.index"))

    def search(query: np.ndarray) -> np.ndarray:
        return np.atleast_2d(made.search(query, K).keys).astype(np.int64)

    while recall_of(search, known["image"], emb) < AIM and made.expansion_search < 4096:
        made.expansion_search *= 2
    return search, [folder / "usearch.index"], f"HNSW, float16, {made.expansion_search} looked at"


if __name__ == "__main__":
    main()
