"""Drawings that differ by a digit or a colour are other drawings; their copies are duplicates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageFont

import isthmus as ist
from isthmus.cli import main
from isthmus.curation.collection import Collection, is_drawing
from isthmus.curation.duplicates import DuplicateGroups, find_duplicates
from isthmus.data.pairs import Pairs
from toys import pixel_encoder, word_encoder

COLOURS = {"red": (221, 46, 68), "orange": (244, 144, 12), "brown": (193, 105, 79)}


def keycap(digit: str) -> Image.Image:
    image = Image.new("RGB", (128, 128), "white")
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((4, 4, 124, 124), 16, (59, 136, 195))
    draw.text((64, 64), digit, "white", ImageFont.load_default(72), anchor="mm")
    return image


def disc(colour: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(image).ellipse((8, 8, 120, 120), colour)
    return image


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of ten keycaps, three discs, and a smaller JPEG of the 7."""
    folder = tmp_path_factory.mktemp("drawings")
    pictures = {f"keycap {n}": keycap(str(n)) for n in range(10)}
    pictures |= {f"{name} circle": disc(colour) for name, colour in COLOURS.items()}
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")
    keycap("7").resize((72, 72)).save(folder / "keycap 7 again.jpg", quality=75)
    lines = [{"id": path.stem, "image": path.name, "caption": path.stem} for path in sorted(folder.iterdir())]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "pairs.jsonl"


def found(pairs: Pairs, method: str) -> tuple[list[set[str]], DuplicateGroups]:
    ids = pairs.images["id"].to_pylist()
    groups = find_duplicates(
        Collection("some", ids, np.arange(len(ids)), ids, pictures=pairs), np.arange(len(ids)), [method]
    )
    return [{ids[row] for row in part} for part in groups.members()], groups


def test_a_digit_or_a_colour_makes_another_drawing_and_a_copy_does_not(drawings: Path) -> None:
    pairs = ist.read_pairs(drawings)
    strict, groups = found(pairs, "phash")
    assert strict == [{"keycap 7", "keycap 7 again"}]
    loose, _ = found(pairs, "phash-loose")
    assert {"red circle", "brown circle"} in loose  # what `phash` once merged
    listed = groups.doubtful_table(pairs.images["id"].to_pylist()).to_pylist()
    assert {"red circle", "brown circle"} in [{row["id"], row["other"]} for row in listed]


def test_clip_art_in_several_colours_is_kept_apart() -> None:
    isthmus_demo = pytest.importorskip("isthmus_demo")
    pairs = ist.read_pairs(isthmus_demo.PAIRS)
    ids = pairs.images["id"].to_pylist()
    arrows = [id for id in ids if id.startswith("computer/buttons/arrow-")]
    homes = ["buildings/homes/home0", "computer/icons/lemon-theme/filesystems/home0"]  # the same drawing twice
    strict, _ = found(pairs.subset([*arrows, *homes]), "phash")
    assert strict == [set(homes)] and len(arrows) > 15
    assert max(map(len, found(pairs.subset(arrows), "phash-loose")[0])) > 1


def test_a_photograph_is_no_drawing_and_its_cropped_copy_is_a_duplicate(tmp_path: Path) -> None:
    from sklearn.datasets import load_sample_image

    photograph = Image.fromarray(load_sample_image("china.jpg"))
    assert not is_drawing(photograph) and is_drawing(keycap("1"))
    photograph.save(tmp_path / "a.png")
    width, height = photograph.size
    photograph.crop((4, 4, width - 4, height - 4)).save(tmp_path / "b.jpg", quality=60)
    rows = "".join(json.dumps({"image": name, "caption": name}) + "\n" for name in ("a.png", "b.jpg"))
    (tmp_path / "pairs.jsonl").write_text(rows)
    assert found(ist.read_pairs(tmp_path / "pairs.jsonl"), "phash")[0] == [{"a.png", "b.jpg"}]


def test_the_command_lists_what_it_kept_apart(
    drawings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ist.embed(drawings, pixel_encoder(), word_encoder(), out=tmp_path / "store")
    out = tmp_path / "out"
    command = ["curate", str(tmp_path / "store"), "--images", str(drawings), "--out", str(out)]
    assert main([*command, "--dedup", "phash"]) == 0
    told = capsys.readouterr().out
    assert "1 duplicates in 1 groups" in told and "doubtful pairs kept apart (doubtful.parquet)" in told
    listed = pq.read_table(out / "doubtful.parquet").to_pylist()
    assert len(listed) == json.loads((out / "manifest.json").read_text())["cleaning"]["doubtful_pairs"] > 0
    assert "Alike, and kept apart" in (out / "report.html").read_text()
    assert main([*command, "--dedup", "phash-loose"]) == 0
    assert "doubtful pairs" not in capsys.readouterr().out and not pq.read_table(out / "doubtful.parquet").num_rows
