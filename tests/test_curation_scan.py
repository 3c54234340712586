"""One pass over a pool: the same bits however it is cut, resumed or ordered."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from isthmus.curation.pools import MatrixPool
from isthmus.curation.scan import ConceptScorer, nearest_counts, scan, tiles
from isthmus.curation.topk import TopK, merged
from isthmus.errors import InputError, UsageError

ROWS, CONCEPTS, WIDTH = 9_001, 13, 24  # three tiles, the last one short


@pytest.fixture(scope="module")
def pool() -> MatrixPool:
    rng = np.random.default_rng(0)
    caption = rng.standard_normal((ROWS, WIDTH)).astype(np.float16)
    caption[5000] = caption[70]  # equal items in different places of different tiles
    image = rng.standard_normal((ROWS, WIDTH)).astype(np.float16)
    return MatrixPool("pool", {"caption": caption, "image": image}, [str(row) for row in range(ROWS)])


@pytest.fixture(scope="module")
def prototypes() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((CONCEPTS, WIDTH)).astype(np.float32)


def found(top: TopK) -> list[tuple[list[float], list[int]]]:
    return [tuple(part.tolist() for part in top.best(concept)) for concept in range(top.concepts)]  # type: ignore[misc]


def unit(matrix: np.ndarray) -> np.ndarray:
    matrix = matrix.astype(np.float64)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def test_scores_are_cosines_of_all_rows(pool: MatrixPool, prototypes: np.ndarray) -> None:
    top = scan(pool, ConceptScorer({"caption": prototypes}), ROWS)
    expected = unit(prototypes) @ unit(pool.matrices["caption"]).T
    for concept in range(CONCEPTS):
        score, row = top.best(concept)
        assert len(row) == ROWS
        assert np.abs(score - expected[concept, row]).max() < 1e-6


@pytest.mark.parametrize("combine", ["min", "mean"])
def test_both_sides_are_combined_row_by_row(pool: MatrixPool, prototypes: np.ndarray, combine: str) -> None:
    other = prototypes[::-1].copy()
    top = scan(pool, ConceptScorer({"caption": prototypes, "image": other}, combine), 50)
    sides = [
        unit(vectors) @ unit(pool.matrices[side]).T for side, vectors in (("caption", prototypes), ("image", other))
    ]
    expected = np.minimum(*sides) if combine == "min" else sum(sides) / 2
    for concept in range(CONCEPTS):
        assert top.best(concept)[1].tolist() == np.argsort(-expected[concept])[:50].tolist()


def test_parts_of_any_size_in_any_order_give_the_same_bits(pool: MatrixPool, prototypes: np.ndarray) -> None:
    scorer = ConceptScorer({"caption": prototypes})
    whole = found(scan(pool, scorer, 300))
    for cuts in ([0, 1, ROWS], [0, 4095, 4097, 8192, ROWS], [0, 333, 5000, 5001, 8999, ROWS]):
        parts = [scan(pool, scorer, 300, start=a, stop=b) for a, b in pairwise(cuts)]
        assert found(merged(parts[::-1])) == whole
        assert found(merged(parts)) == whole


def test_equal_items_tie_wherever_they_stand(pool: MatrixPool, prototypes: np.ndarray) -> None:
    top = scan(pool, ConceptScorer({"caption": prototypes}), ROWS)
    for concept in range(CONCEPTS):
        score, row = top.best(concept)
        at = int(np.flatnonzero(row == 70)[0])
        assert row[at + 1] == 5000 and score[at + 1] == score[at]


def test_rows_without_features_are_left_out(prototypes: np.ndarray) -> None:
    features = np.random.default_rng(3).standard_normal((40, WIDTH)).astype(np.float32)
    features[3], features[7, 2], features[9, 0] = 0, np.nan, np.inf
    pool = MatrixPool("pool", {"caption": features}, [str(row) for row in range(40)])
    top = scan(pool, ConceptScorer({"caption": prototypes}), 40)
    assert top.missing == 3
    for concept in range(CONCEPTS):
        assert set(range(40)) - set(top.best(concept)[1].tolist()) == {3, 7, 9}


def test_a_pool_of_one_feature_repeated_is_chosen_in_order_of_rows(prototypes: np.ndarray) -> None:
    pool = MatrixPool("pool", {"caption": np.ones((9000, WIDTH), np.float16)}, [str(row) for row in range(9000)])
    top = scan(pool, ConceptScorer({"caption": prototypes}), 5)
    assert all(top.best(concept)[1].tolist() == [0, 1, 2, 3, 4] for concept in range(CONCEPTS))


def test_excluded_rows_are_no_candidates(pool: MatrixPool, prototypes: np.ndarray) -> None:
    excluded = np.zeros(ROWS, bool)
    scorer = ConceptScorer({"caption": prototypes})
    best = [scan(pool, scorer, 1).best(concept)[1][0] for concept in range(CONCEPTS)]
    excluded[best] = True
    again = scan(pool, scorer, 1, excluded=excluded)
    assert not set(best) & {again.best(concept)[1][0] for concept in range(CONCEPTS)}


class Killed(MatrixPool):
    """A pool whose machine goes down at some row; it notes what was read."""

    def __init__(self, pool: MatrixPool, dies_at: int | None) -> None:
        super().__init__(pool.name, pool.matrices, pool.names)
        self.dies_at, self.read = dies_at, []

    def features(self, side, start: int, stop: int) -> np.ndarray:
        if self.dies_at is not None and stop > self.dies_at:
            raise KeyboardInterrupt
        self.read.append((start, stop))
        return super().features(side, start, stop)


def test_a_killed_pass_goes_on_at_the_recorded_row(pool: MatrixPool, prototypes: np.ndarray, tmp_path: Path) -> None:
    """freeze-align: after a kill it begins again at row 0."""
    scorer, path, about = ConceptScorer({"caption": prototypes}), tmp_path / "scan.topk", {"pool": pool.fingerprint}
    first = Killed(pool, dies_at=8192)
    with pytest.raises(KeyboardInterrupt):
        scan(first, scorer, 200, checkpoint=path, about=about, every=0)
    second = Killed(pool, dies_at=None)
    top = scan(second, scorer, 200, checkpoint=path, about=about, every=0)
    assert first.read == [(0, 4096), (4096, 8192)] and second.read == [(8192, ROWS)]
    assert found(top) == found(scan(pool, scorer, 200))
    third = Killed(pool, dies_at=0)
    assert found(scan(third, scorer, 200, checkpoint=path, about=about)) == found(top)  # done: nothing is read


def test_nearest_counts_add_up(pool: MatrixPool, prototypes: np.ndarray) -> None:
    counts, seen = nearest_counts(pool, ConceptScorer({"caption": prototypes}))
    nearest = (unit(prototypes) @ unit(pool.matrices["caption"]).T).argmax(axis=0)
    assert counts.tolist() == np.bincount(nearest, minlength=CONCEPTS).tolist() and seen == ROWS
    _, seen = nearest_counts(pool, ConceptScorer({"caption": prototypes}), rows=4096)
    assert seen == 4096


def test_tiles_lie_on_the_grid() -> None:
    assert list(tiles(5, 21, 8)) == [(5, 8), (8, 16), (16, 21)]
    assert ConceptScorer({"caption": np.ones((40_000, 2))}).tile == 256  # scores of a tile stay within 64 MiB


def test_what_cannot_be_scored_is_refused(pool: MatrixPool, prototypes: np.ndarray) -> None:
    with pytest.raises(InputError, match="24 wide, the concepts 5"):
        scan(pool, ConceptScorer({"caption": np.ones((2, 5))}), 3)
    with pytest.raises(InputError, match="concept 1: its prototype is zero"):
        ConceptScorer({"caption": np.array([[1.0, 0], [0, 0]])})
    with pytest.raises(UsageError, match="combine"):
        ConceptScorer({"caption": prototypes}, combine="max")
