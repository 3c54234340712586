"""The best K rows of each concept: exact, whatever the order in which the pool arrives."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.curation.topk import MAX_ROWS, TopK, merged
from isthmus.errors import InputError, UsageError


def brute_force(scores: np.ndarray, keep: int) -> list[tuple[list[float], list[int]]]:
    """By sorting each concept's whole row: score down, then row up; NaN left out."""
    out = []
    for one in scores:
        rows = [row for row in np.lexsort((np.arange(len(one)), -one)).tolist() if not np.isnan(one[row])][:keep]
        out.append((one[rows].tolist(), rows))
    return out


def found(top: TopK) -> list[tuple[list[float], list[int]]]:
    return [tuple(part.tolist() for part in top.best(concept)) for concept in range(top.concepts)]  # type: ignore[misc]


def streamed(scores: np.ndarray, keep: int, pieces: list[tuple[int, int]]) -> TopK:
    top = TopK(len(scores), keep, block=8)
    for start, stop in pieces:
        for low in range(start, stop, 8):
            top.update(scores[:, low : min(low + 8, stop)], low)
    return top


tied_scores = st.integers(1, 4).flatmap(
    lambda concepts: st.integers(1, 90).flatmap(
        lambda rows: st.lists(
            # few values: ties everywhere; NaN: no candidate
            st.lists(st.sampled_from([-1.0, -0.25, -0.0, 0.0, 0.5, 0.7071, 1.0]), min_size=concepts, max_size=concepts),
            min_size=rows,
            max_size=rows,
        )
    )
)


@settings(deadline=None, max_examples=120)
@given(values=tied_scores, keep=st.integers(1, 40), data=st.data())
def test_any_order_of_blocks_and_any_merging_equals_a_full_sort(values, keep, data) -> None:
    scores = np.array(values, np.float32).T
    missing = data.draw(st.lists(st.booleans(), min_size=scores.shape[1], max_size=scores.shape[1]))
    scores[:, missing] = np.nan
    cuts = sorted({0, scores.shape[1], *data.draw(st.lists(st.integers(0, scores.shape[1]), max_size=5))})
    pieces = data.draw(st.permutations(list(pairwise(cuts))))
    expected = brute_force(scores, keep)
    one = streamed(scores, keep, pieces)
    assert found(one) == expected
    assert one.missing == sum(missing) and one.covered == [(0, scores.shape[1])]
    parts = [streamed(scores, keep, [piece]) for piece in pieces]
    split = data.draw(st.integers(0, len(parts)))
    grouped = [merged(group) for group in (parts[:split], parts[split:]) if group]
    assert found(merged(grouped[::-1])) == expected


def test_large_random_scores_equal_a_full_sort_through_many_compactions() -> None:
    scores = np.random.default_rng(0).standard_normal((7, 20_000)).astype(np.float32).round(2)  # with ties
    top = TopK(7, 100, block=512)
    for start in range(0, 20_000, 512):
        top.update(scores[:, start : start + 512], start)
    assert found(top) == brute_force(scores, 100)


def test_a_tie_at_the_last_place_goes_to_the_lower_row_though_it_comes_later() -> None:
    scores = np.full((1, 40), 0.5, np.float32)
    late_first = TopK(1, 3, block=8)
    for start in (32, 24, 16, 8, 0):
        late_first.update(scores[:, start : start + 8], start)
    assert late_first.best(0)[1].tolist() == [0, 1, 2]


def test_a_perfect_match_ranks_first() -> None:
    """freeze-align: ×128 in int8 turns the greatest score into the least."""
    scores = np.linspace(-0.3, 1.0, 1000, dtype=np.float32)[None]
    top = TopK(1, 10, block=1000)
    top.update(scores, 0)
    assert top.best(0)[1][0] == 999 and top.best(0)[0][0] == 1.0


def test_an_outlier_changes_one_score_only() -> None:
    """freeze-align: one score out of range overwrites its whole block with a constant."""
    scores = np.random.default_rng(1).uniform(-0.3, 0.4, (3, 64)).astype(np.float32)
    outlier = scores.copy()
    outlier[1, 17] = 3.0
    plain, other = TopK(3, 64, block=64), TopK(3, 64, block=64)
    plain.update(scores, 0)
    other.update(outlier, 0)
    assert found(other)[0] == found(plain)[0] and found(other)[2] == found(plain)[2]
    by_row = [dict(zip(*reversed(top.best(1)), strict=True)) for top in (plain, other)]
    assert [row for row in by_row[0] if by_row[0][row] != by_row[1][row]] == [17]


def test_a_missing_row_is_absent_and_not_a_middling_score() -> None:
    """freeze-align: rows without features rank as a cosine of 0.045."""
    scores = np.full((2, 10), -0.2, np.float32)
    scores[:, 4] = np.nan
    top = TopK(2, 10, block=10)
    top.update(scores, 0)
    assert 4 not in top.best(0)[1] and len(top.best(0)[1]) == 9 and top.missing == 1


def test_more_wanted_than_there_is_gives_all() -> None:
    top = TopK(1, 1000, block=8)
    top.update(np.array([[0.1, 0.3]], np.float32), 0)
    assert top.best(0)[1].tolist() == [1, 0]


def test_rows_keep_their_number_up_to_the_last() -> None:
    top = TopK(1, 2, block=2)
    top.update(np.array([[0.5, 0.5]], np.float32), MAX_ROWS - 2)
    assert top.best(0)[1].tolist() == [MAX_ROWS - 2, MAX_ROWS - 1]
    with pytest.raises(InputError, match="curate it in parts"):
        top.update(np.zeros((1, 1), np.float32), MAX_ROWS)


def test_rows_seen_twice_are_refused() -> None:
    top = TopK(1, 2, block=8)
    top.update(np.zeros((1, 8), np.float32), 8)
    with pytest.raises(InputError, match="seen twice"):
        top.update(np.zeros((1, 3), np.float32), 15)
    other = TopK(1, 2, block=8)
    other.update(np.zeros((1, 8), np.float32), 4)
    with pytest.raises(InputError, match="rows 8 to 11"):
        top.merge(other)
    with pytest.raises(UsageError, match="same K"):
        top.merge(TopK(1, 3))


def test_a_saved_state_goes_on_where_it_was(tmp_path: Path) -> None:
    scores = np.random.default_rng(2).standard_normal((3, 200)).astype(np.float32)
    path = tmp_path / "state.topk"
    streamed(scores, 20, [(0, 104)]).save(path, {"pool": "a"})
    top = TopK.load(path, {"pool": "a"})
    assert top.covered == [(0, 104)]
    for start in range(104, 200, 8):
        top.update(scores[:, start : start + 8], start)
    assert found(top) == brute_force(scores, 20)


def test_damaged_and_foreign_states_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.topk"
    streamed(np.zeros((2, 40), np.float32), 20, [(0, 40)]).save(path, {"pool": "a", "keep": 20})
    with pytest.raises(InputError, match="another run \\(pool differ"):
        TopK.load(path, {"pool": "b", "keep": 20})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="truncated"):
        TopK.load(path, {"pool": "a", "keep": 20})
    path.write_bytes(b"\x00\x01")
    with pytest.raises(InputError, match="not a checkpoint"):
        TopK.load(path, {})


MEMORY = """
import numpy as np
from isthmus.curation.topk import TopK, buffer_bytes
def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) * 1024
rng = np.random.default_rng(0)
scores = rng.random((256, 1024), dtype=np.float32)
before = anonymous()
top, peak = TopK(256, 20_000, block=1024), 0
for start in range(0, 300 * 1024, 1024):
    top.update(scores, start)
    peak = max(peak, anonymous())
print(peak - before, buffer_bytes(256, 20_000, 1024))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_the_buffers_and_one_tile() -> None:
    shown = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout
    used, buffers = map(int, shown.split())
    assert used < buffers + 64 * 2**20
    assert buffers < 1.3 * 256 * 20_000 * 8  # 300 × 1024 scores for each concept would take 315 MB
