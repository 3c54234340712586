"""`curate` from a pool to its three files, in Python and on the command line."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import isthmus as ist
from isthmus.cli import main
from isthmus.curation.encoding import Encoding, load_encoding
from isthmus.curation.phrases import frequent_phrases
from isthmus.curation.prototypes import Prototypes, make_prototypes
from isthmus.curation.sources import open_pool
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.errors import InputError, UsageError
from toys import COLOURS, pixel_encoder, word_encoder, write_pairs

WORDS = ("ant", "bee", "cat", "dog", "eel")
NAMES = [f"a {colour} square" for colour in COLOURS]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("curate") / "data")


@pytest.fixture(scope="module")
def store(table: Path) -> Path:
    out = table.parent.parent / "store"
    ist.embed(table, pixel_encoder(), word_encoder(), out=out)
    return out


def encoders() -> list:
    return [word_encoder(), pixel_encoder()]


def colours(store: Path, ids: list[str]) -> list[str]:
    labels = dict(zip(*(ist.open_store(store).images[name].to_pylist() for name in ("id", "label")), strict=True))
    return [labels[id] for id in ids]


@pytest.mark.parametrize("sides", ["caption", "image", "both"])
def test_pairs_are_chosen_for_their_concept(store: Path, sides: str) -> None:
    chosen = ist.curate(store, NAMES, encoder=encoders(), sides=sides, floor=None, per_concept=20, templates=["{}"])
    assert len(chosen) == 80 == len(set(chosen.ids)) and set(chosen.per_concept.values()) == {20}
    hits = [colour in concept for colour, concept in zip(colours(store, chosen.ids), chosen.concept, strict=True)]
    assert np.mean(hits) > {"caption": 0.95, "image": 0.4, "both": 0.6}[sides]  # by chance 0.25
    assert not set(chosen.ids) & set(ist.open_store(store).pairs(split="test").image_ids)


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_without_the_packages_of_the_page_the_choice_stands(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.warns(UserWarning, match=r"No report was written.*isthmus\[report\]"):
        ist.curate(store, NAMES, encoder=encoders(), sides="caption", floor=None, per_concept=20, out=tmp_path / "out")
    assert (tmp_path / "out" / "selected.parquet").is_file() and not (tmp_path / "out" / "report.html").exists()


def test_a_mismatched_image_passes_on_captions_alone_but_not_on_both_sides() -> None:
    """The weakness of scoring captions only: shuffled captions still name their concept."""
    rng = np.random.default_rng(0)
    concept = np.arange(400) % 4
    seen = np.where(np.arange(400) % 5 == 0, (concept + 1) % 4, concept)  # every fifth image shows something else
    text, image = (rng.standard_normal((4, 16))[one] + 0.3 * rng.standard_normal((400, 16)) for one in (concept, seen))
    names = Prototypes(list("abcd"), {"caption": np.stack([text[concept == c].mean(axis=0) for c in range(4)])}, "test")
    pairs = FeaturePairs.from_arrays(image, text)

    def mismatches(sides: str) -> int:
        return sum(int(id) % 5 == 0 for id in ist.curate(pairs, names, sides=sides, per_concept=60).ids)

    assert mismatches("caption") > 30 and mismatches("both") == 0


def test_files_tell_what_was_chosen_and_train_takes_them(store: Path, table: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "out", {"encoder": encoders(), "per_concept": 20, "templates": ["{}"]}
    chosen = ist.curate(store, [*NAMES, "zebra"], out=out, floor=0.2, images=table, **options)
    selected = pq.read_table(out / "selected.parquet")
    assert selected.column_names == ["id", "concept", "score", "reason"]
    assert selected["id"].to_pylist() == chosen.ids and min(selected["score"].to_pylist()) >= 0.2
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["selected"] == len(chosen) and manifest["config"]["seed"] == 0
    assert {one["concept"]: one["selected"] for one in manifest["concepts"]} == chosen.per_concept
    assert manifest["fallen_short"] == list(chosen.short) and chosen.short["zebra"] == 0
    assert manifest["concepts"][0]["concept"] == "zebra"  # rarest first
    page = (out / "report.html").read_text()
    assert "zebra" in page and "data:image/webp" in page and "<svg" in page and "http" not in page.split("<svg")[0]
    narrowed = ist.train(store, recipe="cca", only=out / "selected.parquet")
    assert narrowed.summary["images"] == len(set(chosen.ids) & set(ist.open_store(store).pairs("train").image_ids))


def test_a_second_run_with_another_quota_reads_the_candidates(store: Path, tmp_path: Path, monkeypatch) -> None:
    options = {"encoder": encoders(), "out": tmp_path, "keep": 60, "templates": ["{}"]}
    first = ist.curate(store, NAMES, per_concept=20, **options)
    assert ist.curate(store, NAMES, per_concept=20, **options).ids == first.ids
    (candidates,) = tmp_path.glob("candidates-*.topk")
    stamp = candidates.stat().st_mtime_ns
    fewer = ist.curate(store, NAMES, per_concept=5, **options)
    assert len(fewer) == 20 and candidates.stat().st_mtime_ns == stamp
    ist.curate(store, NAMES[:3], per_concept=5, **options)
    assert len(list(tmp_path.glob("candidates-*.topk"))) == 1 and not candidates.exists()


def test_the_order_of_a_pool_changes_nothing(store: Path) -> None:
    """freeze-align: the result depends on the order of the parts. Here ids decide; only exact ties go by row."""
    pairs = ist.open_store(store).pairs(split="train")
    order = np.random.default_rng(0).permutation(len(pairs))
    options = {"encoder": encoders(), "floor": None, "per_concept": 10, "templates": ["{}"]}
    one, other = (ist.curate(pool, NAMES, **options) for pool in (pairs, pairs.subset(order)))
    assert len(set(one.score)) > 30
    tied = {score for score, n in Counter(one.score).items() if n > 1}
    assert one.concept == other.concept and one.score == other.score
    both = [{i for i, s in zip(c.ids, c.score, strict=True) if s not in tied} for c in (one, other)]
    assert both[0] == both[1]


def test_sources_are_mixed_in_with_quotas(store: Path, table: Path, tmp_path: Path) -> None:
    mix = [f"extra={store}:30", f"rest={table}"]
    chosen = ist.curate(store, NAMES, encoder=encoders(), floor=None, per_concept=5, mix=mix, out=tmp_path)
    counts = {name: source["selected"] for name, source in chosen.manifest["mix"].items()}
    assert counts == {"curated": 20, "extra": 30, "rest": 128} and len(chosen) == 178
    whole = pq.read_table(tmp_path / "selected.parquet")
    assert Counter(whole["source"].to_pylist()) == counts
    for name, count in counts.items():
        assert pq.read_table(tmp_path / "sources" / f"{name}.parquet").num_rows == count
    with pytest.raises(UsageError, match="names must differ"):
        ist.curate(store, NAMES, encoder=encoders(), floor=None, per_concept=5, mix=[mix[0], mix[0]])


def test_labelled_images_are_means_of_their_first_shots(store: Path, table: Path) -> None:
    pool, encoding = open_pool(store), load_encoding([pixel_encoder()])
    by_store = make_prototypes(store, pool, Encoding(), shots=1000)
    by_table = make_prototypes(table, pool, encoding, shots=1000)
    assert by_store.names == by_table.names == sorted(COLOURS)
    pairs = ist.open_store(store).pairs()
    pairs = pairs.subset(np.array(pairs.splits) != "test")
    features = pairs.image.gather(np.arange(len(pairs)))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    means = np.stack([unit[np.array(pairs.labels) == name].mean(axis=0) for name in by_store.names])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert np.abs(by_store.sides["image"] - means).max() < 1e-5  # test images are not among them
    assert np.abs(by_table.sides["image"] - means).max() < 2e-3  # the store holds float16
    few = make_prototypes(store, pool, Encoding(), shots=3, seed=1)
    assert np.abs(few.sides["image"] - means).max() > 1e-3
    assert np.array_equal(few.sides["image"], make_prototypes(store, pool, Encoding(), shots=3, seed=1).sides["image"])


def test_clusters_find_the_groups_that_are_there() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((5, 16))
    member = np.repeat(np.arange(5), 40)
    features = centres[member] + 0.1 * rng.standard_normal((200, 16))
    pairs = FeaturePairs.from_arrays(features, features[:, :9], captions=[f"{WORDS[m]} picture" for m in member])
    found = make_prototypes("auto:5", open_pool(pairs), Encoding())
    assert len(found) == 5 and found.sides["caption"].shape == (5, 9) and found.sides["image"].shape == (5, 16)
    assert sorted(name.split()[1] for name in found.names) == sorted(WORDS)
    chosen = ist.curate(pairs, "auto:5", per_concept=40)
    assert len(chosen) == 200
    with pytest.raises(InputError, match="only 200 rows"):
        make_prototypes("auto:201", open_pool(pairs), Encoding())


def test_phrases_are_counted_once_a_caption_and_not_across_stop_words() -> None:
    captions = ["New York at night", "new york, new york", "a hat of york", "The man in the hat", "man, hat", "x"]
    assert frequent_phrases(captions, 10) == ["hat", "york", "man", "new york"]
    assert "york" not in frequent_phrases(["new york"] * 5, 10)  # never without "new"
    with pytest.raises(InputError, match="no phrase occurs in two"):
        frequent_phrases(["one", "two"], 3)


def test_the_command_line_goes_all_the_way(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out, result = tmp_path / "out", tmp_path / "result.json"
    arguments = [store, "--concepts", "auto:4", "--out", out, "--per-concept", "10", "--sides", "both"]
    assert main(["curate", *map(str, arguments), "--dry-run"]) == 0
    assert "most_pairs: 40" in capsys.readouterr().out and not out.exists()
    assert main(["curate", *map(str, arguments), "--json", str(result)]) == 0
    assert "40 pairs of a pool of 192 rows" in capsys.readouterr().out
    assert json.loads(result.read_text())["selected"] == 40
    assert sorted(path.name for path in out.iterdir() if path.suffix != ".topk") == [
        "manifest.json",
        "report.html",
        "selected.parquet",
    ]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--concepts", "auto:x"], 2, "auto:200"),
        (["--concepts", "auto:1000"], 1, "only 128 rows"),
        (["--concepts", "missing.csv"], 1, "missing.csv"),
        (["--concepts", "empty.txt"], 1, "array:|callable:"),
        (["--concepts", "auto:3", "--per-concept", "0"], 2, "per_concept=0"),
        (["--concepts", "auto:3", "--floor", "2"], 1, "no pair was chosen"),
        (["--concepts", "auto:3", "--rank", "best"], 2, "a number from 1 on"),
        (["--concepts", "auto:3", "--mix", "x"], 2, "NAME=FOLDER:N"),
    ],
)
def test_mistakes_end_in_a_message(store: Path, tmp_path: Path, capsys, monkeypatch, options, code, message) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n")
    assert main(["curate", str(store), "--out", str(tmp_path / "out"), *options]) == code
    error = capsys.readouterr().err
    assert any(part in error for part in message.split("|")) and "Traceback" not in error


def test_constant_features_and_missing_ones(tmp_path: Path) -> None:
    concepts = Prototypes(["one", "other"], {"caption": np.eye(2, 4)}, "test")
    np.save(tmp_path / "text.npy", np.ones((50, 4), np.float32))
    chosen = ist.curate(tmp_path, concepts, per_concept=5)
    assert chosen.ids == [str(row) for row in range(10)]  # ties: by row, each once
    np.save(tmp_path / "text.npy", np.zeros((50, 4), np.float32))
    with pytest.raises(InputError, match="50 of them without features"):
        ist.curate(tmp_path, concepts, per_concept=5)


def test_an_id_on_several_rows_is_chosen_once(tmp_path: Path) -> None:
    """clip-retrieval's folders may name an image on several rows, once for each caption."""
    features = np.eye(4, dtype=np.float16)[[0, 0, 0, 1, 1]] + np.linspace(0, 0.1, 5, dtype=np.float16)[:, None]
    for folder in ("text_emb", "metadata"):
        (tmp_path / folder).mkdir()
    np.save(tmp_path / "text_emb" / "text_emb_0.npy", features)
    metadata = pa.table({"image_path": ["a", "b", "a", "c", "a"], "caption": list("vwxyz")})
    pq.write_table(metadata, tmp_path / "metadata" / "metadata_0.parquet")
    chosen = ist.curate(tmp_path, Prototypes(["one", "two"], {"caption": np.eye(2, 4)}, "test"), per_concept=5)
    assert sorted(chosen.ids) == ["a", "b", "c"]
    assert any("rows repeat an id" in note for note in chosen.manifest["notes"])
