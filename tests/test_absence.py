"""What is not there: its best match is told from that of what is there, by curate's floor and by search."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import isthmus as ist
from isthmus.cli import main
from isthmus.encoders.callables import from_callable
from isthmus.errors import UsageError
from isthmus.image_search.run import SearchResult
from isthmus.metrics.absence import NullBest, absent, nouns, null_best, null_of

WIDTH = 64


def directions(texts: list[str]) -> np.ndarray:
    """A text encoder of sorts: the sum of a random direction for each of its words."""
    seeds = [[sum(map(ord, word)) * 31 + len(word) for word in text.lower().split()] for text in texts]
    return np.array([sum(np.random.default_rng(seed).normal(size=WIDTH) for seed in one) for one in seeds], np.float32)


def test_the_distribution_is_that_of_the_best_of_many() -> None:
    rng = np.random.default_rng(0)
    best = rng.normal(size=(4000, 500)).max(axis=1)
    null = null_best(best[:2000], np.ones(2000, bool))
    fresh = null.p_value(best[2000:])
    for share in (0.05, 0.1, 0.5):
        assert np.mean(fresh <= share) == pytest.approx(share, abs=0.03)
    assert np.mean(best[2000:] > null.quantile(0.9)) == pytest.approx(0.1, abs=0.03)
    twice = rng.normal(size=(4000, 1000)).max(axis=1)
    assert np.mean(twice > null.grown(2).quantile(0.9)) == pytest.approx(0.1, abs=0.03)


def test_a_probability_rises_with_the_score_and_is_low_where_absent_texts_score_as_much() -> None:
    null = NullBest(0.3, 0.05, 100, True)
    probability = null.probability(np.linspace(0, 1, 50))
    assert (np.diff(probability) >= 0).all() and probability[0] < 0.35 and probability[-1] > 0.99
    assert null.probability(null.quantile(0.5)) < 0.45


def test_where_the_model_cannot_tell_what_is_there_no_probability_is_far_from_even() -> None:
    rng = np.random.default_rng(0)
    missing = np.arange(200) < 100
    for lift, low, high in ((0.0, 0.75, 1.0), (1.0, 0.2, 0.5), (4.0, 0.0, 0.2)):
        best = rng.normal(size=(200, 300)).max(axis=1) + lift * ~missing
        null = null_best(best, missing)
        assert low < null.alternative < high
        if lift == 0.0:
            assert null.probability(null.quantile(0.99)) < 0.7  # by a fixed a = 0.5 it is 0.83
    assert null_best(best).alternative == NullBest(0, 1, 1, False).alternative


def test_captions_tell_which_nouns_are_not_there_unless_they_hold_too_few() -> None:
    names = nouns()
    assert len(set(names)) == len(names) > 100
    missing = absent(names, [f"A {name}, drawn" for name in names[:60]] + [None])
    assert missing is not None and not missing[:60].any() and missing[60:].mean() > 0.9
    assert absent(names, ["ein Hund"] * 50) is None and absent(names, []) is None


def test_an_encoder_that_tells_no_nouns_apart_gives_no_distribution() -> None:
    assert null_of(lambda texts: np.ones((len(texts), 3), np.float32), np.eye(3, dtype=np.float32)) is None


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 240 captioned pictures: 60 nouns, four times each."""
    folder = tmp_path_factory.mktemp("drawn")
    rows = []
    for place, name in enumerate([name for name in nouns()[:60] for _ in range(4)]):
        Image.new("RGB", (8, 8), (place, 0, 0)).save(folder / f"{place:03d}.png")
        rows.append({"image": f"{place:03d}.png", "caption": f"{name} number{place}"})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    see = from_callable(lambda pictures: np.array([[p.getpixel((0, 0))[0], 1] for p in pictures]), "image", "pixel")
    ist.embed(folder / "pairs.jsonl", see, from_callable(directions, "text", "directions"), out=folder / "store")
    return folder


def test_a_concept_that_is_not_there_gets_no_pair_and_one_that_is_gets_its_own(drawn: Path, tmp_path: Path) -> None:
    options = {"encoder": from_callable(directions, "text", "directions"), "per_concept": 10, "templates": ["{}"]}
    there, missing = nouns()[:5], ["zorglub", "quuxify"]
    chosen = ist.curate(drawn / "store", [*there, *missing], out=tmp_path, images=drawn / "pairs.jsonl", **options)
    assert all(chosen.per_concept[name] == 0 for name in missing)
    assert all(1 <= chosen.per_concept[name] <= 4 for name in there)
    assert set(chosen.short) == {*there, *missing}
    floor = json.loads((tmp_path / "manifest.json").read_text())["floor"]
    assert floor["kind"] == "auto" and "that no caption of the pool holds" in floor["reason"]
    assert "Least score" in str(chosen) and "--floor none" in str(chosen)
    page = (tmp_path / "report.html").read_text()
    assert "The weakest pair of each concept" in page and "nine in ten concepts" in page
    both = ist.curate(drawn / "store", [*there, *missing], sides="both", **options)
    assert both.manifest["floor"]["kind"] == "auto" and all(both.per_concept[name] == 0 for name in missing)
    assert all(1 <= both.per_concept[name] <= 4 for name in there)
    filled = ist.curate(drawn / "store", [*there, *missing], floor=None, **options)
    assert set(filled.per_concept.values()) == {10}  # as before there was a floor


def test_the_floor_is_named_on_the_command_line(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = drawn / "out"
    command = ["curate", str(drawn / "store"), "--concepts", "auto:3", "--per-concept", "5", "--out", str(out)]
    assert main(command) == 0
    assert "these concepts are no texts" in capsys.readouterr().out
    assert main([*command, "--floor", "none"]) == 0 and "Least score: none, as asked" in capsys.readouterr().out
    assert main([*command, "--floor", "0.1"]) == 0 and "Least score" not in capsys.readouterr().out
    assert main([*command, "--floor", "2"]) == 1 and "name another (--floor)" in capsys.readouterr().err
    with pytest.raises(UsageError, match="a number, 'auto' or None"):
        ist.curate(drawn / "store", "auto:3", floor="much")


def test_a_search_in_which_nothing_is_probable_says_so_and_shows_the_nearest_all_the_same() -> None:
    hits = [{"score": 0.24, "id": "hands.png", "probability": 0.31}, {"score": 0.2, "id": "b.png", "probability": 0.27}]
    found = SearchResult("zorglub quux", hits)
    assert found.fits is False and found.to_dict()["fits"] is False and found.title == "nothing fits: zorglub quux"
    assert str(found).startswith("Nothing fits 'zorglub quux': less than 50 % probable.") and "31 %" in str(found)
    assert SearchResult("zorglub quux", hits, least=0.3).fits is True
    alike = SearchResult("image", [hits[0] | {"probability": None}])
    assert alike.fits is None and "probability" not in str(alike)
