"""Captions and ids that would command a terminal, a page or a plot are shown as what they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import isthmus as ist
from isthmus.cli import common, main
from toys import picture

EVIL = "\x1b]0;owned\x07\x1b[2J<script>alert(1)</script>\u202etxt.exe\u2066\x9b31m$\\frac{$ \u05e9\u05dc\u05d5\u05dd"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def test_say_shows_what_would_act(capsys: pytest.CaptureFixture) -> None:
    common.say(EVIL + "\udc80")
    shown = capsys.readouterr().out
    assert not RAW.search(shown) and "\\u001b]0;owned" in shown and "\\u202etxt.exe" in shown and "שלום" in shown
    common.say(json.dumps({"caption": EVIL}, ensure_ascii=False))
    shown = capsys.readouterr().out
    assert not RAW.search(shown) and json.loads(shown) == {"caption": EVIL}


def evil_pairs(folder: Path, images: int = 12) -> Path:
    rows = []
    for number in range(images):
        picture("red", "dark", "left", number).save(folder / f"{number}.png")
        rows.append({"id": f"{EVIL} {number}", "image": f"{number}.png", "caption": f"{EVIL} number {number}"})
    rows.append({"id": f"{EVIL} bad", "image": f"none{EVIL.replace('/', '')}.png", "caption": EVIL})
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "t.jsonl"


def test_errors_show_ids_as_what_they_are(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = evil_pairs(tmp_path)
    encoders = ["--image-encoder", "hf:never/loaded", "--text-encoder", "hf:never/loaded"]
    table.write_text(table.read_text() + table.read_text().splitlines()[0].replace("0.png", "1.png"))
    assert main(["embed", str(table), *encoders, "--out", str(tmp_path / "store")]) == 1
    common.print_skipped([(EVIL, EVIL)] * 9, EVIL)
    told = capsys.readouterr().err
    assert "is in" in told and told.count("owned") > 9 and not RAW.search(told)


@pytest.mark.slow
def test_no_command_prints_control_characters(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table, store = evil_pairs(tmp_path), tmp_path / "store"
    encoders = ["--image-encoder", "wheel:efficientnet-lite1", "--text-encoder", "wheel:minilm-l6"]
    assert main(["embed", str(table), *encoders, "--out", str(store), "--max-skip", "0.5", "--json", "-"]) == 3
    assert main(["embed", str(table), *encoders, "--out", str(store)]) == 1  # too many skipped: an error with an id
    (tmp_path / "only.jsonl").write_text(table.read_text() + table.read_text().splitlines()[0])
    assert main(["embed", str(tmp_path / "only.jsonl"), *encoders, "--out", str(store)]) == 1  # a repeated id
    settings = ["--set", "head.width=4", "--set", "loss.scale=10", "--out", str(tmp_path / "model")]
    assert main(["train", str(store), "--recipe", "cca", *settings]) in (0, 1)
    main(["doctor", str(store)])
    told = capsys.readouterr()
    for text in (told.out, told.err):
        assert "owned" in text or text is told.out
        assert not RAW.search(text.replace("\r", "")), RAW.findall(text)


def test_a_page_escapes_captions_and_concepts(tmp_path: Path) -> None:
    """Both as text and as the labels of a plot, where a dollar sign begins a formula."""
    features = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    ids = [f"{EVIL} {row}" for row in range(30)]
    pool = ist.FeaturePairs.from_arrays(features, features, ids=ids, captions=ids, labels=[EVIL, "b", "c"] * 10)
    from isthmus.curation.prototypes import Prototypes

    concepts = Prototypes(names=[EVIL, "$\\frac{$", "c"], sides={"caption": features[:3]}, source="test")
    ist.curate(pool, concepts, out=tmp_path / "out", per_concept=4)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
