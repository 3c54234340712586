"""Candidates of large segments, by faiss: rows that may be nearest, whose exact scores decide.

Inverted lists of quantised embeddings, bytes (SQ8) below ten million rows and two bits a number from there on (RaBitQ:
Gao et al. 2024, arXiv:2409.09913); both are mapped, and candidates are compared again by the embeddings that are
stored. Lists of bits find their centres in two steps, groups of rows and then each group's, and a row is compared with
the centres of the nearest groups alone, since there are too many rows for all of them. A graph over the centres (HNSW)
would do the same, but by inner products it may leave some of them unreachable.

How many lists are probed is calibrated when a segment is written, on queries of the kinds that will be asked: texts
lie outside the distribution of pictures, so what serves pictures may not serve them (clip-retrieval#76; Jaiswal et al.
2022, "OOD-DiskANN", arXiv:2211.12850), and the other way round.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.errors import UsageError
from isthmus.files import atomic_path
from isthmus.index.exact import exact_top, rescored
from isthmus.index.layout import KeptFile, SegmentRecord
from isthmus.index.segments import Segment

FILE = "candidates.faiss"
EXACT_VALUES = 2**25  # numbers of a segment that is searched exactly: 65,536 rows of 512
BITS_ROWS = 10_000_000  # rows from which lists hold bits
TRAINED = 40  # rows a list that its centre is found by
ROUNDS = 8  # of k-means
ADDED = 65_536  # rows converted at once
AIM, AMONG = 0.98, 10  # share of the 10 nearest that shall be found
BITS = "RaBitQ2"
NEAR = 8  # groups of centres that a row is compared with
KEEP = {"SQ8": (4,), BITS: (10, 30)}  # candidates for each row wanted
LEAST_CANDIDATES = 64
LEAST_GAIN = 0.001  # of recall, by twice as many probes


def needs_candidates(rows: int, width: int) -> bool:
    """Whether exact search of a segment takes too long."""
    return rows * width > EXACT_VALUES


def available() -> bool:
    """Whether faiss is there."""
    try:
        import faiss  # noqa: F401
    except ImportError:
        return False
    return True


def lists_of(rows: int) -> int:
    """How many lists: a power of two near 4 √n."""
    return int(2 ** round(np.log2(4 * np.sqrt(rows))))


def write_candidates(root: Path, segment: Segment, seed: int = 0) -> None:
    """Train lists on a segment and write them beside it; see `calibrate_probes`."""
    import faiss

    rows, width = segment.embeddings.shape
    kind = BITS if rows >= BITS_ROWS else "SQ8"
    lists = lists_of(rows)
    chosen = np.random.default_rng(seed).choice(rows, min(rows, TRAINED * lists), replace=False)
    sample = segment.embeddings[np.sort(chosen)].astype(np.float32)
    if kind == BITS:
        centres = grouped_centres(sample, lists, seed)
        shape = (width, centres.ntotal, faiss.METRIC_INNER_PRODUCT)
        made: Any = faiss.IndexIVFRaBitQ(centres, *shape, True, int(BITS[-1]))
    else:
        made = faiss.index_factory(width, f"IVF{lists},{kind}", faiss.METRIC_INNER_PRODUCT)
        made.cp.niter, made.cp.seed = ROUNDS, seed
    made.train(sample)
    for start in range(0, rows, ADDED):
        made.add(segment.embeddings[start : start + ADDED].astype(np.float32))
    if kind == BITS:
        centres.nprobe = centres.nlist  # a query is compared with all centres
    path = root / "segments" / segment.record.name / FILE
    with atomic_path(path) as aside:
        faiss.write_index(made, str(aside))
    segment.record.files["candidates"] = KeptFile.of(root, path)
    segment.record.candidates = {"kind": kind, "lists": made.nlist, "probes": 1, "keep": KEEP[kind][0]}


def grouped_centres(sample: np.ndarray, lists: int, seed: int) -> Any:
    """An index of about so many centres of a sample float32 [s, d], in groups; a row is compared with the nearest."""
    import faiss

    def centres(rows: np.ndarray, count: int) -> Any:
        if len(rows) <= count:
            return rows
        found = faiss.Kmeans(rows.shape[1], count, niter=ROUNDS, seed=seed, min_points_per_centroid=1)
        found.train(rows)
        return found.centroids

    width = sample.shape[1]
    over: Any = faiss.IndexFlatIP(width)
    over.add(centres(sample, round(lists**0.5)))
    group = over.search(sample, 1)[1][:, 0]
    found: Any = faiss.IndexIVFFlat(over, width, over.ntotal, faiss.METRIC_INNER_PRODUCT)
    for one in np.unique(group):
        part = sample[group == one]
        found.add(centres(part, max(1, round(len(part) * lists / len(sample)))))
    found.make_direct_map()
    found.nprobe = NEAR
    found.own_fields = True
    over.this.disown()
    return found


def calibrate_probes(root: Path, segment: Segment, texts: np.ndarray, pictures: np.ndarray) -> dict[str, Any]:
    """Set the fewest probes with which both `texts` (float32 [q, d]) and `pictures` (float32 [p, d]) find `AIM` of
    their nearest pictures; note the recall of both.
    """
    record = segment.record
    assert record.candidates is not None
    near = {"text": exact_top(texts, [segment.embeddings], AMONG)[1]}
    near["image"] = exact_top(pictures, [segment.embeddings], AMONG)[1]
    asked = {"text": texts, "image": pictures}
    *fewer, most = KEEP[record.candidates["kind"]]
    for keep in (*fewer, most):
        probes, before = 1, 0.0
        while True:
            record.candidates |= {"probes": probes, "keep": keep}
            source = InvertedLists(root, record)
            recall = {name: shared(source.top(asked[name], segment.embeddings, AMONG)[1], near[name]) for name in asked}
            least = min(recall.values())
            stuck = keep != most and least < before + LEAST_GAIN  # candidates are lacking, not lists
            if least >= AIM or stuck or probes >= record.candidates["lists"]:
                break
            probes, before = 2 * probes, least
        if least >= AIM:
            break
    told = {f"recall@{AMONG}": recall, "queries": {name: len(one) for name, one in asked.items()}}
    record.candidates |= told
    return told


def shared(found: np.ndarray, wanted: np.ndarray) -> float:
    """The mean share of each row of `wanted` that is in that of `found`."""
    return float(np.mean([np.isin(one, other).mean() for one, other in zip(wanted, found, strict=True)]))


class InvertedLists:
    """The lists of one segment, mapped when they are first searched. Raises `UsageError` without faiss."""

    def __init__(self, root: Path, record: SegmentRecord) -> None:
        assert record.candidates is not None
        self._path, self._rows, self._told = record.files["candidates"].check(root), record.rows, record.candidates

    @cached_property
    def _lists(self) -> Any:
        if not available():
            raise UsageError("This index has lists of faiss: pip install 'isthmus[index]'.")
        import faiss

        found: Any = faiss.read_index(str(self._path), faiss.IO_FLAG_MMAP)
        mapped: Any = faiss.downcast_InvertedLists(found.invlists)
        mapped.prefetch_nthread = 0  # by default 32 threads are started for each query, which takes milliseconds
        return found

    def top(
        self, queries: np.ndarray, embeddings: np.ndarray, k: int, where: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `isthmus.index.exact.exact_top`, of candidates alone."""
        import faiss

        lists = self._lists
        keep = min(max(k * self._told["keep"], LEAST_CANDIDATES), self._rows)
        parameters = (
            faiss.IVFRaBitQSearchParameters if self._told["kind"].startswith("RaBitQ") else faiss.SearchParametersIVF
        )
        options: dict[str, Any] = {"nprobe": self._told["probes"]}
        if where is not None:  # lists hold fewer of these: more lists for as many
            share = max(int(np.count_nonzero(where)), 1) / len(where)
            bits: Any = np.packbits(where, bitorder="little")
            options = {
                "nprobe": int(min(self._told["lists"], np.ceil(self._told["probes"] / share))),
                "sel": faiss.IDSelectorBitmap(bits),  # type: ignore[call-arg]
            }
        _, found = lists.search(np.ascontiguousarray(queries), keep, params=parameters(**options))
        return rescored(queries, embeddings, found, k)
