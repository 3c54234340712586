"""The pass over a pool on Ray Data: workers scan parts of the pool, and their candidates are merged here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.curation.pools import Pool
from isthmus.curation.scan import ConceptScorer, scan, tiles
from isthmus.curation.topk import Ranges, TopK
from isthmus.progress import progress_bar
from isthmus.ray_data import run

LEAST_PARTS = 16  # parts per worker, so that all finish at about the same time
PART_ROWS = 2**24  # each part's candidates are sent once: 1 GB for 2,754 concepts with K = 50,000


def scan_on_ray(
    open_pool: Callable[[], Pool],
    rows: int,
    scorer: ConceptScorer,
    keep: int,
    *,
    threads: int,
    excluded: np.ndarray | None = None,
    checkpoint: Path | None = None,
    about: dict[str, Any] | None = None,
    progress: bool | None = None,
) -> TopK:
    """The result of `scan`, identical to the bit on machines of one type with the same number of threads.

    open_pool: opens the pool on a worker; this function is sent there, not the pool. rows: of the pool. The checkpoint
    is written after each part. Other arguments and errors as for `scan`.
    """
    total = TopK.load(checkpoint, about or {}) if checkpoint is not None and checkpoint.is_file() else None
    parts = [part for gap in gaps(total.covered if total else [], rows) for part in _cut(*gap, rows, scorer.tile)]
    done = rows - sum(stop - start for start, stop in parts)
    make = partial(_scanner, open_pool, scorer, keep, excluded)
    with progress_bar(progress, total=rows, initial=done, unit="row", unit_scale=True) as bar:
        for packed in run(make, parts, threads=threads):
            part = _unpacked(packed)
            bar.update(sum(stop - start for start, stop in part.covered))
            total = part if total is None else total.merge(part)
            if checkpoint is not None:
                total.save(checkpoint, about or {})
    assert total is not None
    return total


def gaps(covered: Ranges, rows: int) -> Ranges:
    """The ranges of [0, rows) that are not in `covered` (in order)."""
    ends = [0, *(stop for _, stop in covered)]
    starts = [*(start for start, _ in covered), rows]
    return [(end, start) for end, start in zip(ends, starts, strict=True) if end < start]


def _cut(start: int, stop: int, rows: int, tile: int) -> Ranges:
    """Parts whose inner boundaries lie on the grid of tiles."""
    size = min(PART_ROWS, -(-rows // LEAST_PARTS))
    return list(tiles(start, stop, -(-size // tile) * tile))


def _scanner(
    open_pool: Callable[[], Pool], scorer: ConceptScorer, keep: int, excluded: np.ndarray | None
) -> Callable[[tuple[int, int]], bytes]:
    pool = open_pool()
    return lambda part: _packed(scan(pool, scorer, keep, start=part[0], stop=part[1], excluded=excluded))


def _packed(top: TopK) -> bytes:
    """A part is sent in the form of its checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        top.save(Path(folder) / "part", {})
        return (Path(folder) / "part").read_bytes()


def _unpacked(data: bytes) -> TopK:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "part").write_bytes(data)
        return TopK.load(Path(folder) / "part", {})
