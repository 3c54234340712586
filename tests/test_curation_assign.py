"""Rarest concept first, each pair once, quotas, floors and mixed sources."""

from __future__ import annotations

import numpy as np
import pytest

from isthmus.curation.assign import Assignment, assign
from isthmus.curation.mixing import MixedSource, drawn
from isthmus.curation.topk import TopK
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.errors import UsageError

SCORES = np.array(
    [
        [0.9, 0.8, 0.7, 0.6, 0.5],  # common
        [0.3, 0.2, 0.6, 0.1, 0.0],  # rare: takes row 2 first
    ],
    np.float32,
)


def top_of(scores: np.ndarray, keep: int = 5) -> TopK:
    top = TopK(len(scores), keep, block=16)
    top.update(scores.astype(np.float32), 0)
    return top


def chosen(selection: Assignment) -> dict[int, list[int]]:
    return {c: selection.rows[selection.concept == c].tolist() for c in selection.order.tolist()}


def test_the_rarest_concept_chooses_first_and_each_row_once() -> None:
    selection = assign(top_of(SCORES), 2)
    assert selection.order.tolist() == [1, 0]
    assert chosen(selection) == {1: [2, 0], 0: [1, 3]}
    assert selection.rank.tolist() == [1, 2, 2, 4]
    assert selection.score.tolist() == pytest.approx([0.6, 0.3, 0.8, 0.6])


def test_the_order_follows_the_rank_asked_for() -> None:
    scores = np.array([[0.9, 0.1, 0.1], [0.5, 0.5, 0.5]], np.float32)
    assert assign(top_of(scores, 3), 1, rank=1).order.tolist() == [1, 0]
    assert assign(top_of(scores, 3), 1, rank=3).order.tolist() == [0, 1]
    assert assign(top_of(scores, 3), 1, rank="mean").order.tolist() == [0, 1]
    assert assign(top_of(scores, 2), 1).order.tolist() == [0, 1]  # the K-th best, K = 2 of 3
    assert assign(top_of(scores, 3), 1).order.tolist() == [1, 0]  # K is the whole pool: the quota's last


def test_equally_rare_concepts_keep_their_order() -> None:
    assert assign(top_of(np.full((3, 4), 0.5)), 1).order.tolist() == [0, 1, 2]


def test_below_the_floor_nothing_is_chosen() -> None:
    selection = assign(top_of(SCORES), 5, floor=0.55)
    assert chosen(selection) == {1: [2], 0: [0, 1, 3]}
    assert selection.available.tolist() == [4, 1]


def test_a_concept_without_a_match_falls_short_and_nothing_crashes() -> None:
    selection = assign(top_of(np.array([[0.9, 0.8], [np.nan, np.nan]])), 2, floor=0.5)
    assert selection.counts().tolist() == [2, 0] or selection.counts().sum() == 0
    selection = assign(top_of(np.array([[0.9, 0.8], [0.1, 0.2]])), 2, floor=0.5)
    assert selection.counts().tolist() == [2, 0]
    assert np.isneginf(assign(top_of(SCORES), 2, rank=6).reference).all()  # more than there is


def test_of_the_captions_of_one_image_one_is_chosen() -> None:
    owner = np.array([7, 7, 8, 8, 9])
    taken = np.zeros(10, bool)
    assert chosen(assign(top_of(SCORES[:1]), 5, units=owner.take, taken=taken)) == {0: [0, 2, 4]}
    assert np.flatnonzero(taken).tolist() == [7, 8, 9]
    taken[[8, 9]] = False
    assert chosen(assign(top_of(SCORES[:1]), 5, units=owner.take, taken=taken)) == {0: [2, 4]}


@pytest.mark.parametrize(
    "options", [{"per_concept": 0}, {"per_concept": 1, "rank": 0}, {"per_concept": 1, "rank": "x"}]
)
def test_impossible_quotas_and_ranks_are_refused(options: dict) -> None:
    with pytest.raises(UsageError):
        assign(top_of(SCORES), **options)


def source(count: int | None, order: list[int]) -> MixedSource:
    pairs = FeaturePairs.from_arrays(
        np.ones((30, 2)),
        np.ones((30, 2)),
        ids=[f"id{i}" for i in order],
        splits=["test" if i < 3 else None for i in order],
    )
    return MixedSource("extra", pairs, count)


def test_a_source_gives_the_same_pairs_whatever_their_order() -> None:
    one, other = drawn(source(10, list(range(30)))), drawn(source(10, list(range(30))[::-1]))
    assert one == other and len(one) == 10 and not {"id0", "id1", "id2"} & set(one)
    assert drawn(source(10, list(range(30))), seed=1) != one
    assert len(drawn(source(100, list(range(30))))) == len(drawn(source(None, list(range(30))))) == 27


def test_sources_are_written_name_folder_number() -> None:
    assert MixedSource.parse("cc3m=some/folder:2000") == MixedSource("cc3m", "some/folder", 2000)
    assert MixedSource.parse("cc3m=C:/store") == MixedSource("cc3m", "C:/store", None)
    for wrong in ("cc3m", "=x:3", "a b=x:3", "cc3m=:3", "cc3m=x:0"):
        with pytest.raises(UsageError, match="NAME=FOLDER:N"):
            MixedSource.parse(wrong)
