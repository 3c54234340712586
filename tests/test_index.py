"""An index of pictures: built, brought up to date and searched by the commands, on pictures that need no weights."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
from PIL import Image

import isthmus as ist
from isthmus.cli import main
from isthmus.encoders import Encoder
from isthmus.encoders.callables import from_callable
from isthmus.errors import InputError, UsageError
from isthmus.index import ImageIndex, build_index, open_index
from isthmus.index.exact import exact_top
from isthmus.metrics.nearest import top_k
from isthmus.models.dual_encoder import DualEncoder
from isthmus.projectors import build_projector
from isthmus.projectors.blocks import set_linear

NAMES = ("red", "green", "blue", "yellow")
ENCODED: list[int] = []  # how many pictures each call of the encoder got


def mean_colour(pictures: list[Image.Image]) -> np.ndarray:
    ENCODED.append(len(pictures))
    return np.array([np.asarray(one.resize((4, 4)), np.float32).mean(axis=(0, 1)) / 255 - 0.5 for one in pictures])


def colour_words(texts: list[str]) -> np.ndarray:
    """The colour that a text names; of another text, one that its letters decide."""
    out = []
    for text in texts:
        named = [np.array(toys.COLOURS[name]) / 255 - 0.5 for name in NAMES if name in text.split()]
        out.append(sum(named) if named else np.random.default_rng(sum(map(ord, text))).normal(size=3))
    return np.array(out, np.float32)


def encoders() -> dict[str, list[Encoder]]:
    image = from_callable(mean_colour, "image", "colour-1", name="colour", width=3)
    text = from_callable(colour_words, "text", "words-1", name="words", width=3)
    return {"image": [image], "text": [text]}


def dual(scale: float = 1.0) -> DualEncoder:
    loaded = encoders()
    heads = {}
    for side in loaded:
        heads[side] = build_projector("linear", [3], 3, norm="none")
        set_linear(heads[side].blocks[0].get_submodule("linear"), scale * torch.eye(3), torch.zeros(3))
    records = {side: [one.record() for one in listed] for side, listed in loaded.items()}
    return DualEncoder(heads["image"], heads["text"], scale=1.0, records=records, encoders=loaded)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A model whose encoders are functions, which only Python can give."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    monkeypatch.setattr(DualEncoder, "from_pretrained", classmethod(lambda cls, path, **options: dual()))
    ENCODED.clear()
    return "model"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, (colour, shade) in enumerate((c, s) for c in NAMES for s in toys.SHADES):
        folder = tmp_path / "photos" / colour
        folder.mkdir(parents=True, exist_ok=True)
        toys.picture(colour, shade, "left", seed=number).resize((240, 180)).save(folder / f"{shade}.png")
    return tmp_path / "photos"


def index(*words: object) -> tuple[int, dict[str, Any]]:
    """The exit code of `isthmus index`, and what it reports."""
    Path("report.json").unlink(missing_ok=True)
    code = main(["index", *map(str, words), "--json", "report.json", "--debug"])
    return code, json.loads(Path("report.json").read_text()) if Path("report.json").exists() else {}


def search(*words: object) -> tuple[int, dict[str, Any]]:
    code = main(["search", *map(str, words), "--json", "found.json"])
    return code, json.loads(Path("found.json").read_text())


def test_a_folder_is_indexed_and_answers_by_text_and_picture(model, photos, capsys) -> None:
    code, report = index(model, photos, "--out", "p.index")
    assert (code, report["pictures"], report["distinct"], report["encoded"]) == (0, 16, 16, 16)
    assert "16 pictures, 16 of them distinct, 16 newly encoded" in capsys.readouterr().out
    ENCODED.clear()
    code, found = search(model, "p.index", "something green", "--k", 4)
    assert code == 0 and ENCODED == []
    assert {hit["label"] for hit in found["hits"]} == {"green"}
    first = found["hits"][0]
    assert Path(first["path"]).is_file() and (first["width"], first["height"]) == (240, 180)
    told = capsys.readouterr().out
    assert "green" in told and "contact sheet: sheet.png" in told
    assert search(model, "p.index", photos / "blue" / "plain.png", "--k", 1)[1]["hits"][0]["id"] == "blue/plain.png"
    assert ENCODED == [1]
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 380  # the picture that was searched by, and the one that was found
