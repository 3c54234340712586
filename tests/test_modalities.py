"""A modality of another package goes the whole way: read, embed, select, curate, train, eval, search."""

from __future__ import annotations

import json
import tarfile
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import isthmus as ist
from isthmus.cli import main
from isthmus.data.pairs import pairs_from_lists, read_pairs
from isthmus.embedding import run as embedding_run
from isthmus.embedding import work_plan
from isthmus.encoders import load_encoder
from isthmus.encoders.sources import SOURCES
from isthmus.errors import InputError, UsageError
from isthmus.modality import MODALITIES
from isthmus.store import open_store
from store_cases import snapshot
from toy_signal import write_signals

CLOSED = ["--recipe", "cca", "--set", "head.width=16"]
TRAINED = ["--recipe", "linear", "--set", "head.width=16", "--set", "optim.batch=32", "--set", "optim.lr=0.01",
           "--set", "optim.epochs=20"]  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def registered():
    """What the entry points of another package do."""
    with pytest.MonkeyPatch.context() as patch:
        for registry, name, value in ((MODALITIES, "signal", "SIGNAL"), (SOURCES, "toy", "load")):
            entry = EntryPoint(name, f"toy_signal:{value}", registry.group)
            patch.setattr(registry, "_entries", {**registry._entries, name: entry})
        yield


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """Pairs of signals and texts, their store, and a model."""
    folder = tmp_path_factory.mktemp("signals")
    table = write_signals(folder / "data")
    run("embed", table, "--encoder", "toy:frames?pool=mean+max", "toy:words", "--out", folder / "store")
    run("train", folder / "store", "--modalities", "signal", "text", *TRAINED, "--out", folder / "model")
    return folder


def run(*arguments: object, code: int = 0) -> None:
    assert main([str(one) for one in arguments]) == code


def result(tmp_path: Path, *arguments: object, code: int = 0) -> dict:
    run(*arguments, "--json", tmp_path / "result.json", code=code)
    return json.loads((tmp_path / "result.json").read_text())


def labels_of(here: Path) -> dict[str, str]:
    return {row["id"]: row["label"] for row in open_store(here / "store").table("signal").to_pylist()}


def test_a_store_holds_signals_and_texts_and_no_image(here):
    store = open_store(here / "store", verify=True)
    assert len(store) == 0 and store.captions.num_rows == 160
    assert store.table("signal").select(["item_id", "id", "split", "label"]).slice(0, 1).to_pylist() == [
        {"item_id": "000.npy", "id": "000.npy", "split": "test", "label": "low"}
    ]
    run("doctor", here / "store")
    frames = load_encoder("toy:frames?pool=mean+max")
    wanted = frames.encode([np.load(here / "data" / f"{k:03d}.npy") for k in (3, 77)])
    np.testing.assert_allclose(store.features("signal").gather([3, 77]), wanted, rtol=2e-3, atol=1e-3)


def test_embed_reports_counts_resumes_and_plans(here, tmp_path, capsys):
    named = ["--encoder", "toy:frames?layer=1&pool=states", "toy:words"]
    planned = result(tmp_path, "embed", here / "data/pairs.jsonl", *named, "--dry-run", "--out", tmp_path / "store")
    assert planned["others"] == {"signal": 160} and planned["images"] == 0
    told = result(tmp_path, "embed", here / "data/pairs.jsonl", *named, "--out", tmp_path / "store")
    assert told["others"] == {"signal": 160} and told["encoded"] == {"signal": 160, "text": 160}
    assert "160 signal, 160 captions; newly encoded: 160 signals, 160 texts" in capsys.readouterr().out
    again = result(tmp_path, "embed", here / "data/pairs.jsonl", *named, "--out", tmp_path / "store")
    assert again["encoded"] == {"signal": 0, "text": 0}
    states = open_store(tmp_path / "store").states("signal")
    assert states.rate_hz == 5.0 and set(states.lengths(range(160)).tolist()) == {8, 9, 10, 11}


@pytest.mark.parametrize("fail_at", [0, 1, 3])
def test_an_interrupted_run_reads_no_signal_twice_and_ends_in_the_same_bytes(here, tmp_path, monkeypatch, fail_at):
    monkeypatch.setattr(work_plan, "LEAST_ITEMS", 64)  # three units of each modality
    pairs = read_pairs(here / "data/pairs.jsonl")
    named = {"encoders": ["toy:frames?layer=1&pool=states", "toy:words"]}
    ist.embed(pairs, out=tmp_path / "whole", **named)
    real = embedding_run.encode_all

    def failing(*arguments):
        for encoded in real(*arguments):
            if not left.pop():
                raise KeyboardInterrupt
            yield encoded

    left = [True] * 9 + [False] + [True] * fail_at
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embedding_run, "encode_all", failing)
        ist.embed(pairs, out=tmp_path / "cut", **named)
    hashed = []
    real_hash = embedding_run.hash_all
    monkeypatch.setattr(embedding_run, "hash_all", lambda *given: hashed.extend(given[2]) or real_hash(*given))
    ist.embed(pairs, out=tmp_path / "cut", **named)
    assert not hashed and snapshot(tmp_path / "cut") == snapshot(tmp_path / "whole")
    with pytest.raises(InputError, match=r"No signal encoder can be used\. toy:none: toy:none: no such toy"):
        ist.select(pairs, ["toy:none"], ["toy:words"], modalities=("signal", "text"), out=tmp_path / "choice")


def test_a_model_of_signals_and_texts_is_evaluated_alike_on_its_store_and_on_files(here, tmp_path):
    stored = result(tmp_path, "eval", here / "model", "retrieval", here / "store", "--split", "test")
    files = result(tmp_path, "eval", here / "model", "retrieval", here / "data/pairs.jsonl", "--split", "test")
    assert stored["n"]["images"] == files["n"]["images"] == 16
    assert stored["metrics"]["mean_recall@5"] > 0.8  # by chance 0.31
    assert files["metrics"] == pytest.approx(stored["metrics"])
    zero = result(tmp_path, "eval", here / "model", "zeroshot", here / "data/pairs.jsonl", "--split", "test",
                  "--templates", "a {} tone")  # fmt: skip
    assert zero["metrics"]["acc1"] > 0.6
    card = (here / "model" / "README.md").read_text()
    assert "| signal | `toy:frames" in card and 'model.encode("signal"' in card


def test_search_finds_signals_by_a_text_and_by_a_file(here, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for where in (here / "data/pairs.jsonl", here / "store"):
        found = result(tmp_path, "search", here / "model", where, "a faint shrill tone", "--k", "5")
        label = labels_of(here)
        assert [label[hit["id"]] for hit in found["hits"]].count("shrill") >= 4
    found = result(tmp_path, "search", here / "model", here / "store", here / "data/005.npy")
    assert found["hits"][0] == {"id": "005.npy", "score": pytest.approx(1.0, abs=1e-3), "probability": None}
    assert not (tmp_path / "sheet.png").exists()  # there are no pictures
    run("search", here / "model", here / "data/pairs.jsonl", "tone", "--out", tmp_path / "sheet.png", code=2)
    assert "no pictures of signal" in capsys.readouterr().err
    run("search", here / "model", here / "store", "none.npy", code=1)
    assert "looks like a path" in capsys.readouterr().err


def test_select_ranks_encoders_of_the_pair_named_and_train_takes_the_choice(here, tmp_path, capsys):
    named = ["--modalities", "signal", "text", "--image-encoders", "toy:frames?pool=mean", "toy:frames?pool=mean+max",
             "toy:none", "--text-encoders", "toy:words"]  # fmt: skip
    few = ["--seeds", 1, "--bootstrap", 10, "--out", tmp_path / "choice"]
    planned = result(tmp_path, "select", here / "data/pairs.jsonl", *named, *few, "--dry-run")
    assert planned["encoder_pairs"] == 2
    found = result(tmp_path, "select", here / "data/pairs.jsonl", *named, *few, code=3)
    assert found["modalities"] == ["signal", "text"] and len(found["pairs"]) == 2
    assert "signal encoder" in capsys.readouterr().out
    run("train", tmp_path / "choice", *CLOSED, "--out", tmp_path / "model")
    model = ist.load_model(tmp_path / "model")
    assert model.modalities == ("signal", "text")
    assert str(model.encoders["image"][0].uri) == found["first_choice"]["image"]
    stored = result(tmp_path, "select", here / "store", "--modalities", "signal", "text", *few[:-1], tmp_path / "again")
    assert [row["image"] for row in stored["pairs"]] == ["toy:frames?pool=mean+max"]


def test_curate_takes_concepts_by_name_and_by_label_and_says_what_needs_texts_or_pictures(here, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("low\nshrill\n")
    pair = ["--modalities", "signal", "text"]
    chosen = ["--per-concept", 8, "--floor", "none", "--out", tmp_path / "out"]
    named = result(tmp_path, "curate", here / "store", "--concepts", tmp_path / "names.txt", *pair, *chosen)
    assert named["config"]["sides"] == ["caption"]
    ids = pq.read_table(tmp_path / "out/selected.parquet")["id"].to_pylist()
    labels = labels_of(here)
    assert len(ids) == 16 and {labels[id] for id in ids} <= {"low", "shrill"}
    labelled = ["--concepts", here / "data/pairs.jsonl", "--sides", "image", "--encoder", "toy:frames?pool=mean+max"]
    told = result(tmp_path, "curate", here / "data/pairs.jsonl", *labelled, *pair, *chosen)
    assert told["config"]["sides"] == ["image"]
    run(
        "train",
        here / "store",
        *pair,
        *CLOSED,
        "--only",
        tmp_path / "out/selected.parquet",
        "--out",
        tmp_path / "model",
    )
    run("curate", here / "store", *pair, "--dedup", "phash", "--out", tmp_path / "other", code=2)
    assert "look at pictures" in capsys.readouterr().err
    found = result(tmp_path, "curate", here / "store", *pair, "--dedup", "embedding", "--near", 0.9999, "--out",
                   tmp_path / "dedup")  # fmt: skip
    assert found["cleaning"]["left"] > 0


def test_images_and_signals_without_any_text_go_the_whole_way(here, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = write_signals(tmp_path / "data", image="image", caption="")
    store, model, pair = tmp_path / "store", tmp_path / "model", ["--modalities", "image", "signal"]
    run("embed", table, "--encoder", "toy:thumbnails", "toy:frames?pool=mean+max", "--out", store)
    opened = open_store(store)
    assert len(opened) == 160 and opened.captions.num_rows == 0
    assert opened.table("signal")["item_id"].to_pylist()[:2] == ["000.png#0", "001.png#0"]
    run("train", store, *pair, *CLOSED, "--out", model)
    stored = result(tmp_path, "eval", model, "retrieval", store, "--split", "test")
    files = result(tmp_path, "eval", model, "retrieval", table, "--split", "test")
    assert stored["metrics"]["mean_recall@5"] > 0.8 and files["metrics"] == pytest.approx(stored["metrics"])
    found = result(tmp_path, "search", model, table, tmp_path / "data/007.npy", "--k", 3)
    assert (tmp_path / "sheet.png").exists() and found["hits"][0]["score"] > 0.5
    run("search", model, table, "a faint tone", code=2)
    assert "no side for text: this model joins image and signal" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("low\nhigh\n")
    run("curate", store, *pair, "--concepts", tmp_path / "names.txt", "--out", tmp_path / "out", code=1)
    assert "need texts: these are pairs of image and signal" in capsys.readouterr().err
    run("curate", store, *pair, "--concepts", "auto:4", "--per-concept", 5, "--out", tmp_path / "out")
    assert len(pq.read_table(tmp_path / "out/selected.parquet")) == 20
    found = result(tmp_path, "select", store, *pair, "--seeds", 0, "--bootstrap", 0, "--out", tmp_path / "choice")
    assert found["first_choice"] == {"image": "toy:thumbnails", "text": "toy:frames?pool=mean+max"}


def test_a_folder_of_signals_with_texts_beside_them_is_read_and_a_damaged_one_never_shifts_captions(tmp_path):
    write_signals(tmp_path / "data", copies=1)
    folder = tmp_path / "folder"
    folder.mkdir()
    for k in range(6):
        (folder / f"{k}.npy").write_bytes((tmp_path / f"data/{k:03d}.npy").read_bytes())
        (folder / f"{k}.txt").write_text(f"tone {k}\n")
    (folder / "2.npy").write_bytes(b"no array")
    np.save(folder / "4.npy", np.zeros((2, 2), np.float32))
    pairs = read_pairs(folder)
    assert pairs.modality == "signal" and pairs.images["id"].to_pylist() == [f"{k}.npy" for k in range(6)]
    with pytest.raises(InputError, match="skipped"):
        ist.embed(pairs, encoders=["toy:frames", "toy:words"], out=tmp_path / "store")
    store = open_store(tmp_path / "store")
    reasons = {row["id"]: row["reason"] for row in store.skipped.to_pylist()}
    assert reasons["4.npy"].startswith("damaged signal: a signal is [samples]") and len(reasons) == 2
    found = store.pairs(modalities=("signal", "text"))
    assert [found.image_ids[k] for k in found.image_of] == [f"{text[-1]}.npy" for text in found.captions]
    assert found.captions == ["tone 0", "tone 1", "tone 3", "tone 5"]


def test_images_signals_and_texts_are_read_together_and_each_run_looks_at_what_it_encodes(tmp_path):
    table = write_signals(tmp_path, copies=1, image="image", signal="wave")
    pairs = read_pairs(table)
    assert pairs.modalities == ["image", "signal"] and any("'wave' as signal" in note for note in pairs.notes)
    (tmp_path / "003.npy").unlink()
    (tmp_path / "004.png").unlink()
    ist.embed(pairs, "toy:thumbnails", "toy:words", out=tmp_path / "store", max_skip=0.2)
    store = open_store(tmp_path / "store")
    assert len(store) == 15 and store.captions.num_rows == 15 and store.modalities == ["image", "text"]
    ist.embed(pairs, encoders="toy:frames", text="toy:words", out=tmp_path / "store", max_skip=0.2)
    store = open_store(tmp_path / "store", verify=True)
    assert len(store) == 15 and store.table("signal").num_rows == 15 and store.captions.num_rows == 16
    assert len(store.pairs(modalities=("signal", "image"))) == 14
    heard = store.pairs(modalities=("image", "signal"))
    assert [one.partition("#")[0] for one in heard.caption_ids] == heard.image_ids


def test_parts_of_one_file_are_items_of_their_own(tmp_path):
    np.save(tmp_path / "long.npy", np.sin(np.arange(1000, dtype=np.float32)))
    rows = ["recording,start,end,caption", "long.npy,0,2.0,one", "long.npy,2.0,4.0,two", "long.npy,2.0,4.0,again"]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    pairs = read_pairs(tmp_path / "pairs.csv")
    assert len(pairs) == 2 and pairs.captions["caption"].to_pylist() == ["one", "two", "again"]
    np.testing.assert_array_equal(pairs.decode(1), np.sin(np.arange(200, 400, dtype=np.float32)))
    store = ist.embed(pairs, encoders=["toy:frames", "toy:words"], out=tmp_path / "store")
    assert len(set(store.table("signal")["content_hash"].to_pylist())) == 2


def test_bytes_in_parquet_and_several_signals_of_an_image(tmp_path):
    write_signals(tmp_path / "data", copies=1)
    signals = [(tmp_path / f"data/{k:03d}.npy").read_bytes() for k in range(4)]
    pictures = [(tmp_path / f"data/{k:03d}.png").read_bytes() for k in range(4)]
    pq.write_table(pa.table({"signal": signals, "caption": list("abcd")}), tmp_path / "one.parquet")
    pairs = read_pairs(tmp_path / "one.parquet")
    assert pairs.images["id"].to_pylist() == list("0123") and len(pairs.decode(2)) >= 160
    pq.write_table(pa.table({"image": pictures, "signal": signals}), tmp_path / "two.parquet")
    beside = read_pairs(tmp_path / "two.parquet").side("signal")
    np.testing.assert_array_equal(beside.decode(3), pairs.decode(3))
    lines = [{"image": f"data/00{k // 2}.png", "signal": f"data/00{k}.npy", "id": str(k // 2)} for k in (0, 1, 2, 3, 3)]
    (tmp_path / "several.jsonl").write_text("\n".join(map(json.dumps, lines)))
    spoken = read_pairs(tmp_path / "several.jsonl")
    assert spoken.side("signal").images["id"].to_pylist() == ["0#0", "0#1", "1#0", "1#1"]
    store = ist.embed(spoken, encoders=["toy:thumbnails", "toy:frames"], out=tmp_path / "store")
    assert store.pairs(modalities=("image", "signal")).image_of.tolist() == [0, 0, 1, 1]


def test_tars_hold_signals_alone_or_beside_images(tmp_path):
    write_signals(tmp_path / "data", copies=1)
    for name, endings in (("one", ("npy",)), ("two", ("png", "npy"))):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for k in range(3):
                (tmp_path / f"data/{k:03d}.txt").write_text(f"tone {k}")
                for ending in ("txt", *endings):
                    tar.add(tmp_path / f"data/{k:03d}.{ending}", f"{k:03d}.{ending}")
    alone, both = (read_pairs(tmp_path / f"{name}.tar") for name in ("one", "two"))
    assert alone.modality == "signal" and alone.captions["caption"].to_pylist() == ["tone 0", "tone 1", "tone 2"]
    assert both.modalities == ["image", "signal"] and both.side("signal").samples == ["two/000", "two/001", "two/002"]
    for k in range(3):
        np.testing.assert_array_equal(alone.decode(k), np.load(tmp_path / f"data/{k:03d}.npy"))
        np.testing.assert_array_equal(both.side("signal").decode(k), alone.decode(k))


def test_what_pairs_lack_and_what_does_not_fit_is_said(here, tmp_path):
    table = here / "data/pairs.jsonl"
    with pytest.raises(UsageError, match="hold signal and captions, nothing of modality image"):
        ist.embed(table, encoders="toy:thumbnails", out=tmp_path / "store")
    with pytest.raises(UsageError, match="holds no image encoder"):
        ist.train(here / "store", recipe="linear")
    with pytest.raises(InputError, match="no column `caption`"):
        (tmp_path / "bare.csv").write_text("signal\na.npy\n")
        read_pairs(tmp_path / "bare.csv")
    with pytest.raises(InputError, match="no column `image`"):
        (tmp_path / "none.csv").write_text("caption\na tone\n")
        read_pairs(tmp_path / "none.csv")
    model = ist.load_model(here / "model")
    with pytest.raises(UsageError, match="no side for image: this model joins signal and text"):
        model.encode("image", ["a.png"])
    signal = np.load(here / "data/003.npy")
    rows = [model.encode("signal", given) for given in (signal, [signal], str(here / "data/003.npy"))]
    assert all(row.shape == (1, 16) and np.allclose(row, rows[0]) for row in rows)
    np.testing.assert_allclose(model.encode_image([signal]), rows[0])
    pairs = pairs_from_lists([str(here / "data/003.npy")], ["a tone"], modality="signal")
    np.testing.assert_array_equal(pairs.decode(0), signal)


def test_a_test_split_of_any_modality_is_whole_groups_of_samples(here, tmp_path, capsys):
    lines = [json.loads(line) for line in (here / "data/pairs.jsonl").read_text().splitlines()]
    rows = [
        {"signal": f"{here}/data/{row['signal']}", "image": f"{here}/data/{row['signal'][:3]}.png", "id": str(number),
         "caption": row["caption"].partition(" take")[0] + f" take {number // 32}"}  # two of each caption
        for number, row in enumerate(lines)
    ]  # fmt: skip
    for name, lacking in (("heard", "image"), ("both", "")):
        text = "\n".join(json.dumps({key: value for key, value in row.items() if key != lacking}) for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    heard = ["--encoder", "toy:frames", "toy:words"]
    run("embed", tmp_path / "heard.jsonl", *heard, "--test", 0.25, "--out", tmp_path / "store")
    assert "samples (25.0%) are held out" in capsys.readouterr().err
    store = open_store(tmp_path / "store")
    split = {row["id"]: row["split"] for row in store.table("signal").to_pylist()}
    told: dict[str, set[str | None]] = {}
    for row in store.captions.to_pylist():
        told.setdefault(row["caption"], set()).add(split[row["id"]])
    assert list(split.values()).count("test") == 40 and all(len(found) == 1 for found in told.values())
    run("embed", tmp_path / "heard.jsonl", *heard, "--out", tmp_path / "store")  # again, without it
    assert open_store(tmp_path / "store").table("signal")["split"].to_pylist() == list(split.values())
    seen = ["--encoder", "toy:thumbnails", "toy:words", "--out", tmp_path / "store"]
    run("embed", tmp_path / "both.jsonl", *seen, "--test", 0.25, code=1)
    assert "holds out 40 of these images already, by their items of signal" in capsys.readouterr().err
    run("embed", tmp_path / "both.jsonl", *seen)
    images = open_store(tmp_path / "store").images.to_pylist()
    assert {row["id"]: row["split"] for row in images} == split
