"""`curate` with cleaning, from pairs to files: nothing leaves silently, and the report shows what left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

import isthmus as ist
from isthmus.cli import main
from isthmus.curation.cleaning import Cleaning
from isthmus.curation.filters import Filters
from isthmus.errors import UsageError
from toys import pixel_encoder, word_encoder, write_pairs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """192 pictures, 64 of them test; 1-005 repeats 0-003, 0-007 repeats the test picture 2-010, 1-020 is damaged."""
    folder = tmp_path_factory.mktemp("cleaned")
    table = write_pairs(folder / "data")
    for target, source in (("1-005", "0-003"), ("0-007", "2-010")):
        (table.parent / f"{target}.png").write_bytes((table.parent / f"{source}.png").read_bytes())
    ist.embed(table, pixel_encoder(), word_encoder(), out=folder / "store")
    (table.parent / "1-020.png").write_bytes(b"damaged later")
    return folder


def table(folder: Path, name: str) -> list[dict]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def test_a_store_is_cleaned_against_its_own_test_split(data: Path, tmp_path: Path) -> None:
    cleaning = Cleaning(Filters(min_words=3), dedup=["exact"], against=[data / "store"], near=1.0)
    chosen = ist.curate(data / "store", out=tmp_path, cleaning=cleaning, images=data / "data/pairs.jsonl")
    leaks, duplicates, rejected = (table(tmp_path, name) for name in ("leaks", "duplicates", "rejected"))
    assert {(row["id"], row["match"], row["how"]) for row in leaks} == {
        ("0-007.png", "2-010.png", "exact"),
        ("0-007.png", "2-010.png", "embedding"),
    }
    assert [(row["id"], row["kept"]) for row in duplicates] == [("0-003.png", True), ("1-005.png", False)]
    assert [row["id"] for row in rejected] == ["1-020.png"] and "not a JPEG" in rejected[0]["reason"]
    gone = {"0-007.png", "1-005.png", "1-020.png"}
    expected = {f"{copy}-{n:03d}.png" for copy in range(2) for n in range(64)} - gone
    assert {row["id"] for row in table(tmp_path, "selected")} == expected == set(chosen.ids)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["cleaning"]["leaks"] == {str(data / "store"): {"exact": 1, "embedding": 1}}
    assert manifest["cleaning"]["config"]["dedup"] == ["exact"] and manifest["cleaning"]["duplicates"] == 1
    assert "1 duplicates in 1 groups" in str(chosen)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/webp") == 3  # a group of two, and a leak; the store has no picture of its match
    pairs = ist.open_store(data / "store").pairs(only=tmp_path / "selected.parquet")
    assert len(pairs) == len(expected)


def test_what_cleaning_leaves_out_is_no_candidate_for_a_concept(data: Path, tmp_path: Path) -> None:
    options = {"encoder": word_encoder(), "floor": None, "per_concept": 40, "images": data / "data/pairs.jsonl"}
    everything = ist.curate(data / "store", ["red", "blue"], **options)
    cleaning = Cleaning(dedup=["exact"], against=[data / "data/pairs.jsonl"])
    chosen = ist.curate(data / "store", ["red", "blue"], out=tmp_path, cleaning=cleaning, **options)
    assert {"0-007.png", "1-005.png"} & set(everything.ids)
    assert not {"0-007.png", "1-005.png", "1-020.png"} & set(chosen.ids)
    assert chosen.per_concept == {"red": 40, "blue": 40} or set(chosen.short)  # quotas fill up from what is left
    again = ist.curate(data / "store", ["red", "blue"], out=tmp_path, cleaning=cleaning, **options)
    assert again.ids == chosen.ids
    plain = ist.curate(data / "store", ["red", "blue"], out=tmp_path, **options)  # not from the other's candidates
    assert plain.ids == everything.ids


def test_balance_alone_chooses_and_says_why(data: Path, tmp_path: Path) -> None:
    (tmp_path / "entries.txt").write_text("red\ndark\nsquare\n")
    arguments = ["curate", str(data / "store"), "--balance", str(tmp_path / "entries.txt"), "--t", "12", "--seed", "5"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    selected, rejected = table(tmp_path / "out", "selected"), table(tmp_path / "out", "rejected")
    assert len(selected) + len(rejected) == 128 and 0 < len(selected) < 100
    captions = {row["image"]: row["caption"] for row in map(json.loads, (data / "data/pairs.jsonl").open())}
    for row in selected:
        assert row["reason"].removeprefix("kept for '").removesuffix("'") in captions[row["id"]]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["cleaning"]["balance"]["most_frequent"] == {"square": 128, "red": 32, "dark": 32}


def test_the_command_line_cleans(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = ["--images", str(data / "data/pairs.jsonl")]
    arguments = ["curate", str(data / "store"), *images, "--dedup", "exact", "phash", "--min-side", "20"]
    arguments += ["--against", str(data / "data/pairs.jsonl"), "--keep-leaks", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert "pairs that are also in evaluation sets" in capsys.readouterr().out
    assert "0-007.png" in {row["id"] for row in table(tmp_path / "out", "leaks")}
    assert main(["curate", str(data / "store"), "--out", str(tmp_path / "none")]) == 2
    assert "Nothing to choose by" in capsys.readouterr().err
    with pytest.raises(UsageError, match="Unknown engine"):
        ist.curate(data / "store", ["red"], encoder=word_encoder(), engine="rai")


@pytest.mark.slow
def test_duplicates_of_the_demo_are_those_its_makers_grouped() -> None:
    """The pack's own groups (look, colours, captions, series; thresholds set by eye) are the truth."""
    isthmus_demo = pytest.importorskip("isthmus_demo")
    from isthmus.curation.collection import Collection
    from isthmus.curation.duplicates import find_duplicates

    pairs = ist.read_pairs(isthmus_demo.PAIRS)
    pairs = pairs.subset(pairs.images["id"].to_pylist()[:2500])
    ids, group = (pairs.images[name].to_pylist() for name in ("id", "group"))
    collection = Collection("demo", ids, np.arange(len(ids)), ids, pictures=pairs)

    loose, strict = (
        find_duplicates(collection, np.arange(len(ids)), ["exact", how]) for how in ("phash-loose", "phash")
    )
    for found in (loose, strict):
        links = [(part[0], row) for part in found.members() for row in part[1:]]
        assert np.mean([group[a] == group[b] for a, b in links]) > 0.98
    # What the strict rule keeps apart is listed: with these doubtful pairs its groups hold the loose ones.
    edges = [(part[0], row) for part in strict.members() for row in part[1:]] + [pair[:2] for pair in strict.doubtful]
    joined = csr_array((np.ones(len(edges)), np.array(edges).T), shape=(len(ids), len(ids)))
    whole = connected_components(joined, directed=False)[1]
    together = [(part[0], row) for part in loose.members() for row in part[1:]]
    assert len(together) > 100 and all(whole[a] == whole[b] for a, b in together)
