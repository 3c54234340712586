"""Groups of duplicates, linked directly or through others. One of each group is kept, all are listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from isthmus.curation.collection import Collection
from isthmus.curation.near_duplicates import METHODS, NEAR, Links, alike, check_methods
from isthmus.data.groups import connected

EDGES_HELD = 2**22  # links in memory before they are folded into their components
DOUBTFUL_HELD = 2**20  # doubtful pairs that are listed; a pool of icons may have many more


@dataclass(frozen=True)
class DuplicateGroups:
    """Groups of duplicates among n pairs.

    group: int64 [n], the lowest row of each pair's group (its own if it has no duplicate). kept: bool [n].
    how [n] and similarity float32 [n]: the closest link of a pair to another one of its group; None, NaN without.
    doubtful: (row, row, similarity) of pairs that look alike and differ in some place, as drawings of another digit or
    colour do, closest first: they are not in one group.
    """

    group: np.ndarray
    kept: np.ndarray
    how: list[str | None]
    similarity: np.ndarray
    doubtful: list[tuple[int, int, float]] = field(default_factory=list)

    def members(self) -> list[np.ndarray]:
        """Rows of each group of two or more, the kept one first; largest group first."""
        order = np.lexsort((np.arange(len(self.group)), ~self.kept, self.group))
        parts = np.split(order, np.flatnonzero(np.diff(self.group[order])) + 1)
        return sorted((part for part in parts if len(part) > 1), key=lambda part: (-len(part), int(part[0])))

    def table(self, ids: Sequence[str]) -> pa.Table:
        """Every member of every group: id, group (the id of the kept one), kept, how, similarity."""
        rows = [(row, int(part[0])) for part in self.members() for row in part.tolist()]
        return pa.table(
            {
                "id": pa.array([ids[row] for row, _ in rows], pa.string()),
                "group": pa.array([ids[kept] for _, kept in rows], pa.string()),
                "kept": pa.array([bool(self.kept[row]) for row, _ in rows], pa.bool_()),
                "how": pa.array([self.how[row] for row, _ in rows], pa.string()),
                "similarity": pa.array([float(self.similarity[row]) for row, _ in rows], pa.float32()),
            }
        )

    def doubtful_table(self, ids: Sequence[str]) -> pa.Table:
        """The doubtful pairs: id, other, similarity."""
        return pa.table(
            {
                "id": pa.array([ids[a] for a, _, _ in self.doubtful], pa.string()),
                "other": pa.array([ids[b] for _, b, _ in self.doubtful], pa.string()),
                "similarity": pa.array([similarity for _, _, similarity in self.doubtful], pa.float32()),
            }
        )


def find_duplicates(
    pairs: Collection, rows: np.ndarray, methods: Sequence[str], *, near: float = NEAR
) -> DuplicateGroups:
    """Group the pairs `rows` (int64) of a collection whose images are duplicates of each other.

    methods: "exact" (bytes), "phash" (perceptual hash; drawings must agree in every place), "phash-loose" (drawings as
    photographs), "embedding" (cosine of features at least `near`). One of each group is kept: the one whose longest
    caption has the most words, of equals the one with the lowest id. The rule depends on the pairs alone, not on their
    order.
    """
    union = _Union(len(pairs))
    doubtful: list[tuple[int, int, float]] = []
    for method in check_methods(methods):
        for links in alike(method, pairs, rows, near=near):
            if not links.doubtful:
                union.add(links)
            elif len(doubtful) < DOUBTFUL_HELD:
                doubtful += zip(links.a.tolist(), links.b.tolist(), links.similarity.tolist(), strict=True)
    group = union.groups()
    apart = sorted((one for one in doubtful if group[one[0]] != group[one[1]]), key=lambda one: (-one[2], one[:2]))
    how = [METHODS[number] if number < len(METHODS) else None for number in union.how.tolist()]
    return DuplicateGroups(group, _kept(pairs, group), how, union.similarity, apart)


class _Union:
    """Links between pairs, reduced to components whenever many have gathered: dense groups need no more memory."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self.how = np.full(nodes, len(METHODS), np.int8)
        self.similarity = np.full(nodes, np.nan, np.float32)
        self._ends = np.empty((2, 0), np.int64)
        self._waiting: list[np.ndarray] = []

    def add(self, links: Links) -> None:
        method = METHODS.index(links.how)
        for end in (links.a, links.b):
            fresh = self.how[end] >= method  # the more certain method decides
            np.fmax.at(self.similarity, end[fresh], links.similarity[fresh])
            self.how[end[fresh]] = method
        self._waiting.append(np.stack([links.a, links.b]))
        if sum(ends.shape[1] for ends in self._waiting) > EDGES_HELD:
            self.groups()

    def groups(self) -> np.ndarray:
        """int64 [nodes]: the lowest node of each one's component."""
        ends = np.concatenate([self._ends, *self._waiting], axis=1)
        root = connected(self.nodes, ends[0], ends[1])
        apart = np.flatnonzero(root != np.arange(self.nodes))
        self._ends, self._waiting = np.stack([apart, root[apart]]), []
        return root


def _kept(pairs: Collection, group: np.ndarray) -> np.ndarray:
    words = np.zeros(len(pairs), np.int64)
    np.maximum.at(words, pairs.owner, [len((text or "").split()) for text in pairs.texts])
    in_group = np.flatnonzero(np.bincount(group, minlength=len(group))[group] > 1)
    order = sorted(in_group.tolist(), key=lambda row: (int(group[row]), -int(words[row]), pairs.ids[row]))
    kept = np.ones(len(pairs), bool)
    kept[in_group] = False
    _, first = np.unique(group[order], return_index=True)
    kept[np.array(order, np.int64)[first]] = True
    return kept
