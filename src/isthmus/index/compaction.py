"""Compaction: small segments are joined, and what was removed is dropped, by writing new segments in place of old ones.

Each run of `isthmus index` appends a segment. As in log-structured stores, small ones are joined when there are many of
them, or when together they are too large to be searched exactly, so that large ones are seldom written again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from isthmus.index.candidates import needs_candidates
from isthmus.index.segments import Part, Segment, write_segment

MOST_SMALL = 8  # segments that are searched exactly
MOST_REMOVED_ROWS = 0.25  # share of rows beyond which all is written anew
COPIED = 4096  # rows at once


def compacted(root: Path, segments: list[Segment], there: Sequence[np.ndarray], *, force: bool) -> list[Segment]:
    """The segments, some of them joined if it is time; there: bool [n_i], the rows that are not removed.

    force: all as one. Rows have other numbers afterwards.
    """
    width = segments[0].embeddings.shape[1]
    chosen = range(len(segments)) if force else _due(segments, there, width)
    gone = sum(int((~there[place]).sum()) for place in chosen)
    if not chosen or (len(chosen) == 1 and not gone):
        return segments
    rows = sum(int(there[place].sum()) for place in chosen)
    parts = (part for place in chosen for part in _parts(segments[place], there[place]))
    joined = Segment(root, write_segment(root, rows, width, parts), width)
    return [*(segment for place, segment in enumerate(segments) if place not in chosen), joined]


def _due(segments: list[Segment], there: Sequence[np.ndarray], width: int) -> Sequence[int]:
    """The numbers of the segments that shall be joined now."""
    rows = sum(map(len, segments))
    if sum(int((~one).sum()) for one in there) > MOST_REMOVED_ROWS * rows:
        return range(len(segments))
    small = [place for place, segment in enumerate(segments) if not needs_candidates(len(segment), width)]
    many = len(small) > MOST_SMALL or needs_candidates(sum(len(segments[place]) for place in small), width)
    return small if many else ()


def _parts(segment: Segment, there: np.ndarray) -> Iterator[Part]:
    rows = np.flatnonzero(there)
    for start in range(0, len(rows), COPIED):
        yield segment.part(rows[start : start + COPIED])
