"""Cleaning: what is planted is found, what is clean is not, nothing vanishes, and no order matters."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from isthmus.curation.balance import balance, read_entries, tail_limit
from isthmus.curation.cleaning import Cleaning, clean
from isthmus.curation.collection import Collection, of_evaluation
from isthmus.curation.duplicates import EDGES_HELD, find_duplicates
from isthmus.curation.filters import Filters
from isthmus.curation.leaks import find_leaks, normalised
from isthmus.data.pairs import Pairs, pairs_from_lists
from isthmus.errors import InputError, UsageError
from isthmus.metrics.nearest import pairs_above


def scene(seed: int, size: int = 160) -> Image.Image:
    """A drawing of random discs on a random ground."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, radius = rng.integers(0, size, 3) * (1, 1, 0.25)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), tuple(rng.integers(0, 256, 3).tolist()))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def collection(pictures: list[bytes], captions: list[str] | None = None, **known) -> Collection:
    captions = captions or [f"a caption of picture {n}" for n in range(len(pictures))]
    pairs = pairs_from_lists(pictures, captions, ids=known.pop("ids", [f"{n:03d}" for n in range(len(pictures))]))
    ids = pairs.images["id"].to_pylist()
    return Collection("pool", ids, np.arange(len(ids)), captions, pictures=pairs, **known)


def abstract(features: np.ndarray, captions: list[str] | None = None, ids: list[str] | None = None) -> Collection:
    captions = captions or ["one two three"] * len(features)
    ids = ids or [f"{n:03d}" for n in range(len(features))]
    return Collection("pool", ids, np.arange(len(features)), captions, features=features)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 30), st.floats(-0.9, 0.99), st.integers(1, 17), st.integers(0, 10**6))
def test_pairs_above_are_those_of_the_whole_matrix(n: int, m: int, least: float, tile: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, 5)).astype(np.float32), rng.normal(size=(m, 5)).astype(np.float32)
    a[rng.random(n) < 0.1] = 0
    b[rng.random(m) < 0.1] = np.nan
    for right in (b, None):
        other = a if right is None else b
        with np.errstate(invalid="ignore"):
            unit = [x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True) for x in (a, other)]
        scores = (unit[0] @ unit[1].T).astype(np.float32)
        expected = {
            (i, j) for i, j in zip(*np.nonzero(scores >= least + 1e-6), strict=True) if right is not None or i < j
        }
        borderline = {(i, j) for i, j in zip(*np.nonzero(np.abs(scores - least) < 2e-6), strict=True)}
        found = [
            (int(i), int(j), s) for part in pairs_above(a, right, least, tile) for i, j, s in zip(*part, strict=True)
        ]
        places = [(i, j) for i, j, _ in found]
        assert len(set(places)) == len(places)
        assert expected <= set(places) <= expected | borderline
        for i, j, score in found:
            assert score == pytest.approx(scores[i, j], abs=1e-6)


def test_planted_duplicates_are_grouped_and_others_are_not() -> None:
    drawings = [scene(seed) for seed in range(30)]
    pictures = [encoded(drawing) for drawing in drawings]
    pictures += [pictures[3]]  # 30: the same bytes
    pictures += [encoded(drawings[7].resize((90, 90)), "JPEG", quality=60)]  # 31: smaller, and lossy
    pictures += [encoded(drawings[3], "WEBP", quality=70)]  # 32: lossy, of 3
    recoloured = Image.merge("RGB", drawings[9].split()[::-1])
    pictures += [encoded(recoloured)]  # 33: the same shapes in other colours are another picture
    pairs = collection(pictures)
    groups = find_duplicates(pairs, np.arange(len(pairs)), ["exact", "phash"])
    assert [part.tolist() for part in groups.members()] == [[3, 30, 32], [7, 31]]
    table = groups.table(pairs.ids).to_pylist()
    assert [(row["id"], row["group"], row["kept"], row["how"]) for row in table] == [
        ("003", "003", True, "exact"),
        ("030", "003", False, "exact"),
        ("032", "003", False, "phash"),
        ("007", "007", True, "phash"),
        ("031", "007", False, "phash"),
    ]
    assert table[0]["similarity"] == 1 and 0.89 < table[2]["similarity"] <= 1
    assert [part.tolist() for part in find_duplicates(pairs, np.arange(34), ["exact"]).members()] == [[3, 30]]


def brute_force_groups(features: np.ndarray, near: float) -> list[list[int]]:
    unit = features.astype(float) / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    linked = unit @ unit.T >= near
    groups = []
    left = set(range(len(features)))
    while left:
        group, new = set(), {min(left)}
        while new:
            group |= new
            new = {j for i in new for j in np.flatnonzero(linked[i]).tolist()} - group
        left -= group
        groups.append(sorted(group))
    return [group for group in groups if len(group) > 1]


@pytest.mark.parametrize("held", [EDGES_HELD, 1])
def test_embedding_groups_are_the_components_of_the_whole_matrix(held: int, monkeypatch) -> None:
    monkeypatch.setattr("isthmus.curation.duplicates.EDGES_HELD", held)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 16))
    features = (centres[rng.integers(0, 40, 300)] + 0.25 * rng.normal(size=(300, 16))).astype(np.float32)
    expected = brute_force_groups(features, 0.95)
    assert any(len(group) > 4 for group in expected) and len(expected) > 10
    groups = find_duplicates(abstract(features), np.arange(300), ["embedding"], near=0.95)
    assert sorted(sorted(part.tolist()) for part in groups.members()) == expected
    assert groups.kept.sum() == 300 - sum(len(group) - 1 for group in expected)


def test_the_one_kept_and_the_groups_do_not_depend_on_order() -> None:
    rng = np.random.default_rng(1)
    features = np.repeat(rng.normal(size=(20, 8)), 3, axis=0).astype(np.float32)
    captions = ["word " * int(n) for n in rng.integers(1, 5, 60)]
    ids = [f"id {n}" for n in rng.permutation(60)]
    seen = []
    for order in (np.arange(60), rng.permutation(60)):
        pairs = abstract(features[order], [captions[n] for n in order], [ids[n] for n in order])
        rows = find_duplicates(pairs, np.arange(60), ["embedding"]).table(pairs.ids).to_pylist()
        seen.append(sorted((row["id"], row["group"], row["kept"], row["how"]) for row in rows))
    assert seen[0] == seen[1] and len(seen[0]) == 60
    words = dict(zip(ids, (len(text.split()) for text in captions), strict=True))
    for name, group, kept, _ in seen[0]:
        assert (words[group], group) >= (words[name], group) and kept == (name == group)


def test_filters_reject_with_their_reason_and_no_other() -> None:
    pictures = [encoded(scene(1)), encoded(scene(2, 40)), b"not a picture", encoded(scene(3).resize((300, 60)))]
    captions = ["a good long caption", "a good long caption", "a good long caption", "short"]
    pairs = collection(pictures, captions, lang=["en", "en", "en", None])
    found = clean(
        pairs, Cleaning(Filters(min_words=2, max_words=9, min_side=50, max_aspect=4, lang="en"), dedup=["exact"])
    )
    reasons = {name: reason for name, _, reason in found.rejected}
    assert found.out.tolist() == [False, True, True, True]
    assert reasons["001"] == "40 × 40 pixels, a side below 50"
    assert "not a JPEG" in reasons["002"]
    assert [row["reason"] for row in found.tables()["rejected"].to_pylist() if row["id"] == "003"] == [
        "300 × 60 pixels, longer than 4 to 1",
        "caption of 1 words, fewer than 2",
    ]
    other = Filters(lang="en", max_words=2)
    assert other.caption("ein Hund", "de") == "language de, not en"
    assert other.caption("a dog", "EN") is None and other.caption("a dog") is None
    assert other.caption("one two three") == "caption of 3 words, more than 2"
    with pytest.raises(UsageError, match="min_side=0"):
        Filters(min_side=0)


def test_everything_is_either_left_or_listed() -> None:
    pictures = [encoded(scene(seed % 17)) for seed in range(40)]
    captions = [f"{'a dog' if n % 3 else 'a heron'} in scene {n}" for n in range(40)]
    pairs = collection(pictures, captions)
    test = pairs_from_lists([encoded(scene(4))], ["something else entirely here"], ids=["test 4"])
    found = clean(
        pairs, Cleaning(Filters(max_words=5), dedup=["exact"], against=[test], balance=["dog", "heron"], t=3), seed=3
    )
    tables = {name: table.to_pylist() for name, table in found.tables().items()}
    listed = {row["id"] for name in ("rejected", "leaks") for row in tables[name]}
    listed |= {row["id"] for row in tables["duplicates"] if not row["kept"]}
    left = {pairs.ids[row] for row in np.flatnonzero(~found.out)}
    assert left and not left & listed and left | listed == set(pairs.ids)


def evaluation(drawing: Image.Image, caption: str) -> Pairs:
    others = [encoded(scene(seed)) for seed in range(100, 106)]
    captions = [f"nothing of this kind, number {n}" for n in range(6)]
    return pairs_from_lists([*others, encoded(drawing)], [*captions, caption], ids=[f"test {n}" for n in range(7)])


def test_planted_leaks_are_found_by_bytes_look_and_caption_and_clean_pairs_are_not() -> None:
    drawings = [scene(seed) for seed in range(20)]
    pictures = [encoded(drawing) for drawing in drawings]
    pictures[11] = encoded(drawings[5].resize((100, 100)), "JPEG")
    captions = [f"drawing number {n} of a series" for n in range(20)]
    captions[17] = "A Très  beautiful drawing, of DISCS!"
    test = evaluation(drawings[5], "a très beautiful drawing of discs")
    found = clean(collection(pictures, captions), Cleaning(against=[test]))
    rows = [(leak.row, leak.match, leak.how) for leak in found.leaks or []]
    assert rows == [(5, "test 6", "exact"), (5, "test 6", "phash"), (11, "test 6", "phash"), (17, "test 6", "caption")]
    assert np.flatnonzero(found.out).tolist() == [5, 11, 17]
    assert found.counts["leaked"] == 3 and any("not compared by embedding" in note for note in found.notes)
    kept = clean(collection(pictures, captions), Cleaning(against=[test], keep_leaks=True))
    assert not kept.out.any() and len(kept.leaks or []) == 4


def test_leaks_by_features_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(2)
    pool, test = rng.normal(size=(200, 12)), rng.normal(size=(9, 12))
    pool[::20] = test[np.arange(10) % 9] + 0.05 * rng.normal(size=(10, 12))
    other = Collection("test", [f"t{n}" for n in range(9)], np.arange(9), ["w"] * 9, features=test.astype(np.float32))
    leaks, _ = find_leaks(abstract(pool.astype(np.float32)), np.arange(200), [other], near=0.97)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (pool, test)]
    scores = unit[0] @ unit[1].T
    assert [leak.row for leak in leaks] == np.flatnonzero(scores.max(1) >= 0.97).tolist() == list(range(0, 200, 20))
    assert [leak.match for leak in leaks] == [f"t{scores[leak.row].argmax()}" for leak in leaks]


def test_only_the_test_split_of_an_evaluation_set_counts(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(encoded(scene(number)))
    (tmp_path / "pairs.csv").write_text("image,caption,split\n0.png,first,train\n1.png,second,test\n")
    found = of_evaluation(tmp_path / "pairs.csv")
    assert found.usable is not None and found.usable.tolist() == [False, True]
    pairs = collection([encoded(scene(0)), encoded(scene(1))])
    leaks = clean(pairs, Cleaning(against=[tmp_path / "pairs.csv"])).leaks or []
    assert {(leak.row, leak.match) for leak in leaks} == {(1, "1.png")}


def test_short_captions_are_equal_by_chance() -> None:
    assert normalised("  A DOG, ﬁne") == "a dog fine"
    test = pairs_from_lists([encoded(scene(50))], ["a dog"])
    assert not clean(collection([encoded(scene(1))], ["a dog"]), Cleaning(against=[test])).leaks


def naive_matches(text: str, entries: list[str]) -> set[str]:
    words = "".join(f" {c} " if c in ",.;:?!`" else c for c in text.casefold()).split()
    joined = f" {' '.join(words)} "
    return {entry for entry in entries if f" {entry} " in joined}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("abC ,.\t", max_size=14), min_size=1, max_size=30), st.integers(1, 6), st.integers(0, 99))
def test_balance_counts_and_keeps_as_the_naive_algorithm(captions: list[str], t: int, seed: int) -> None:
    entries = ["a", "b", "a b", "abc", "b a c", "zz"]
    matched = [naive_matches(text, entries) for text in captions]
    if not any(matched):
        return
    names = [str(n) for n in range(len(captions))]
    found = balance(captions, names, entries, t=t, seed=seed)
    counts = {entry: sum(entry in one for one in matched) for entry in entries}
    assert dict(zip(found.entries, found.counts.tolist(), strict=True)) == counts
    for one, kept, because in zip(matched, found.kept.tolist(), found.because, strict=True):
        assert kept == (because is not None) and (because in one or not kept)
        if any(counts[entry] <= t for entry in one):
            assert kept
        if not one:
            assert not kept


def test_balance_keeps_as_often_as_the_paper_says_whatever_the_order() -> None:
    captions = ["a dog"] * 4000 + ["a dog with a cat"] * 2000 + ["a heron"] * 50 + ["nothing"] * 10
    names = [f"id {n}" for n in range(len(captions))]
    found = balance(captions, names, ["dog", "cat", "heron"], t=400)
    dog, cat = 400 / 6000, 400 / 2000
    for part, expected in ((slice(0, 4000), dog), (slice(4000, 6000), 1 - (1 - dog) * (1 - cat))):
        share, n = found.kept[part].mean(), found.kept[part].size
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / n)
    assert found.kept[6000:6050].all() and not found.kept[6050:].any()
    order = np.random.default_rng(0).permutation(len(captions))
    again = balance([captions[n] for n in order], [names[n] for n in order], ["heron", "cat", "dog"], t=400)
    assert (again.kept == found.kept[order]).all()
    assert (balance(captions, names, ["dog", "cat", "heron"], t=400, seed=1).kept != found.kept).any()


def test_the_default_limit_leaves_six_percent_to_the_tail() -> None:
    counts = np.array([1] * 30 + [10] * 3 + [400, 600, 0])
    assert tail_limit(counts) == 400
    assert tail_limit(np.array([1] * 60 + [940])) == 1
    for counts in (np.arange(1, 200), np.array([5])):
        t = tail_limit(counts)
        assert counts[counts < t].sum() < 0.06 * counts.sum() <= counts[counts <= t].sum()


def test_bad_input_is_told(tmp_path: Path) -> None:
    pairs = abstract(np.eye(4, dtype=np.float32))
    for cleaning, message in (
        (Cleaning(dedup=["phash"]), r"no pictures to compare.*--images"),
        (Cleaning(dedup=["exact"]), r"neither content hashes nor pictures"),
        (Cleaning(Filters(min_side=9)), r"no pictures to measure"),
        (Cleaning(Filters(min_words=9)), r"left no pair; most often: caption of 3 words"),
        (Cleaning(balance=["heron"]), r"None of the 4 captions holds any of the 1 metadata entries"),
    ):
        with pytest.raises(InputError, match=message):
            clean(pairs, cleaning)
    with pytest.raises(UsageError, match=r"'fash'.*Did you mean 'phash'"):
        Cleaning(dedup=["fash"])
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match=r"empty\.txt: no metadata entries"):
        read_entries(tmp_path / "empty.txt")


def test_rows_without_features_are_near_nothing() -> None:
    features = np.ones((4, 3), np.float32)
    features[1], features[3] = 0, np.nan
    groups = find_duplicates(abstract(features), np.arange(4), ["embedding"])
    assert [part.tolist() for part in groups.members()] == [[0, 2]]
    assert groups.kept.tolist() == [True, True, False, True]
    assert list(itertools.compress(range(4), [how is None for how in groups.how])) == [1, 3]
