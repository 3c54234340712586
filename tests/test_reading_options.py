"""How pairs are read is told to every verb and command in the same words, and what reading says is shown by each."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import isthmus as ist
from isthmus.cli import embed as embed_command
from isthmus.cli import main
from isthmus.cli import select as select_command
from isthmus.curation.cleaning import Cleaning
from isthmus.errors import UsageError
from toys import pixel_encoder, word_encoder, write_pairs

NOTE = "columns not used: shelf"
READING: dict[str, Any] = {"columns": "image=where,caption=words,label=kind"}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of names that nobody knows, its pictures elsewhere, and a column that is not used."""
    folder = tmp_path_factory.mktemp("odd")
    rows = [json.loads(line) for line in write_pairs(folder / "data", copies=2).read_text().splitlines()]
    with (folder / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["where", "words", "kind", "split", "shelf"])
        writer.writerows([row["image"], row["caption"], row["label"], row["split"], "top"] for row in rows)
    return folder / "t.csv"


@pytest.fixture(scope="module")
def store(table: Path) -> Path:
    reading = {**READING, "images": table.parent / "data"}
    ist.embed(table, pixel_encoder(), word_encoder(), out=table.parent / "store", **reading)
    return table.parent / "store"


@pytest.fixture(scope="module")
def model(store: Path) -> ist.DualEncoder:
    found = ist.train(store, recipe="cca")
    found.encoders = {"image": [pixel_encoder()], "text": [word_encoder()]}
    return found


def test_embed_reads_as_it_is_told(table: Path, store: Path, tmp_path: Path) -> None:
    assert len(ist.open_store(store)) == 128
    reading = {**READING, "images": table.parent / "data"}
    some = ist.embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "s", split="test", **reading)
    assert len(some) == 64
    pairs = ist.read_pairs(table, **reading)  # pairs that are read are cut down to the split too
    assert len(ist.embed(pairs, pixel_encoder(), word_encoder(), out=tmp_path / "t", split="test")) == 64


def test_select_reads_as_it_is_told(table: Path, store: Path, tmp_path: Path) -> None:
    reading = {**READING, "images": table.parent / "data", "split": "train"}
    options: dict[str, Any] = {"seeds": 0, "bootstrap": 0}
    found = ist.select(table, pixel_encoder(), word_encoder(), out=tmp_path, **options, **reading)
    assert len(found.candidates.frame) == 64
    with pytest.raises(UsageError, match="columns are for reading pairs"):
        ist.select(store, out=tmp_path / "s", **options, columns="image=where")


def test_curate_reads_as_it_is_told(table: Path, store: Path, tmp_path: Path) -> None:
    shutil.copytree(table.parent / "data", tmp_path / "there")
    shutil.copy(table, tmp_path / "there" / "t.csv")
    beside = tmp_path / "there" / "t.csv"  # its pictures are beside it: `images` has another meaning here
    cleaning = Cleaning(dedup=("exact",))
    found = ist.curate(beside, cleaning=cleaning, encoder=word_encoder(), **READING)
    assert set(found.ids) == set(ist.open_store(store).images["id"].to_pylist()[:64])  # test pairs are none to choose
    assert any(NOTE in note for note in found.manifest["notes"])
    only = ist.curate(beside, cleaning=cleaning, encoder=word_encoder(), split="train", **READING)
    assert only.ids == found.ids and only.manifest["pool"]["rows"] == 64
    of_store = ist.curate(store, cleaning=cleaning, images=beside, **READING)  # then it is told of the pictures
    assert sorted(of_store.ids) == sorted(found.ids)
    with pytest.raises(UsageError, match="columns are for reading pairs"):
        ist.curate(store, cleaning=cleaning, **READING)


def test_search_reads_as_it_is_told(table: Path, store: Path, model: ist.DualEncoder) -> None:
    reading = {**READING, "image_folder": table.parent / "data"}
    found = ist.search(model, table, "a dark red square", k=500, split="test", **reading)
    assert len(found.hits) == 64 and any(NOTE in note for note in found.notes)
    with pytest.raises(UsageError, match="columns are for reading pairs"):
        ist.search(model, store, "a dark red square", columns="image=where")


@pytest.mark.parametrize(
    "task", ["retrieval", "zeroshot", "knn", "linear_probe", "fewshot", "diagnose", "longtext", "multilingual"]
)
def test_every_task_shows_what_reading_says(
    table: Path, model: ist.DualEncoder, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = {**READING, "images": table.parent / "data"}
    options: dict[str, Any] = {}
    if task == "longtext":  # needs to count tokens
        encoder: Any = model.encoders["text"][0]
        encoder.token_ids, encoder.max_tokens = lambda texts: [text.split() for text in texts], 77
        monkeypatch.setattr("isthmus.evaluation.longtext.cut_at", lambda model, *_, **__: model)
    found = ist.evaluate(model, task, table, bootstrap=0, **options, **reading)
    results = found if isinstance(found, list) else [found]
    told = [note for one in results for note in one.get("notes", [])]
    assert len([note for note in told if NOTE in note]) == 1


def test_probes_of_a_folder_show_what_reading_says(table: Path, model: ist.DualEncoder, tmp_path: Path) -> None:
    for row in csv.DictReader(table.open()):
        place = tmp_path / "set" / row["split"] / row["kind"]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(table.parent / "data" / row["where"], place / row["where"])
    (tmp_path / "set" / "train" / "red" / "notes.doc").write_text("x")
    told = ist.evaluate(model, "knn", tmp_path / "set", bootstrap=0)[0]["notes"]
    assert any("files that are not read: 1 .doc" in note for note in told)


@pytest.mark.parametrize("command", [embed_command, select_command])
def test_image_alone_names_the_encoders_as_it_did_before_there_was_images(command: Any) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    found = vars(parser.parse_args(["t.csv", "--out", "s", "--image", "hf:a", "--images", "folder", "--text", "st:b"]))
    assert found.get("image_encoder", found.get("image_encoders")) == ["hf:a"] and found["image_folder"] == "folder"


def test_select_refuses_options_of_reading_for_a_store(store: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["select", str(store), "--out", str(tmp_path), "--columns", "image=where"]) == 2
    assert "columns are for reading pairs" in capsys.readouterr().err


def test_curate_takes_them_on_the_command_line(table: Path, store: Path, tmp_path: Path, capsys: Any) -> None:
    images = table.parent / "data" / "t.csv"
    shutil.copy(table, images)
    arguments = ["curate", store, "--dedup", "exact", "--images", images, "--columns", READING["columns"]]
    assert main([str(one) for one in [*arguments, "--split", "train", "--out", tmp_path / "out"]]) == 0
    assert "64 pairs" in capsys.readouterr().out
    images.unlink()
