"""The packaged demo data keeps its promises: honest captions, sound images, and splits that leak nothing."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

DATA = Path(__file__).parents[1] / "demo/src/isthmus_demo/data"
SERIES_NAMES = [
    "gramastar",
    "lemon svg theme",
    "flat icon collection",
    "etiquette icons",
    "aiga_symbol_signs",
    "various cliparts",
    "clipart by",
    "icon theme",
    "iconset",
    "hash(0x",
]


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return pq.read_table(DATA / "pairs.parquet").to_pylist()


@pytest.fixture(scope="module")
def pictures(rows: list[dict]) -> list[Image.Image]:
    opened = [Image.open(io.BytesIO(row["image"])) for row in rows]
    for picture in opened:
        picture.load()
    return opened


def on_white(picture: Image.Image) -> bytes:
    rgba = picture.convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return hashlib.sha256(repr(flat.size).encode() + flat.tobytes()).digest()


def test_the_pack_is_compact() -> None:
    assert (DATA / "pairs.parquet").stat().st_size <= 40_000_000


def test_ids_are_unique(rows: list[dict]) -> None:
    assert len({row["id"] for row in rows}) == len(rows)


def test_every_caption_says_something(rows: list[dict]) -> None:
    assert all(re.search(r"[^\W\d_]{2}", row["caption"]) for row in rows)


def test_no_caption_holds_an_email_or_a_link(rows: list[dict]) -> None:
    assert [row["caption"] for row in rows if re.search(r"@|http|www\.", row["caption"])] == []


@pytest.mark.parametrize("name", SERIES_NAMES)
def test_no_series_name_poses_as_a_caption(rows: list[dict], name: str) -> None:
    assert [row["caption"] for row in rows if name in row["caption"].lower()] == []


def test_no_group_spans_two_splits(rows: list[dict]) -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        found[row["group"]].add(row["split"])
    assert all(len(splits) == 1 for splits in found.values())
    assert {row["split"] for row in rows} == {"train", "val", "test"}


def test_the_test_split_has_1500_groups_and_no_giant_one(rows: list[dict]) -> None:
    sizes = Counter(row["group"] for row in rows if row["split"] == "test")
    assert len(sizes) >= 1500
    assert max(sizes.values()) <= 10


def test_equal_captions_share_a_group(rows: list[dict]) -> None:
    groups: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        groups[row["caption"].lower()].add(row["group"])
    assert [caption for caption, found in groups.items() if len(found) > 1] == []


def test_equal_pictures_share_a_group(rows: list[dict], pictures: list[Image.Image]) -> None:
    groups: dict[bytes, set[str]] = defaultdict(set)
    for row, picture in zip(rows, pictures, strict=True):
        groups[on_white(picture)].add(row["group"])
    assert all(len(found) == 1 for found in groups.values())


def test_every_picture_decodes_at_256_pixels_or_fewer(pictures: list[Image.Image]) -> None:
    assert all(picture.format == "WEBP" and 1 <= max(picture.size) <= 256 for picture in pictures)


def test_transparency_is_kept(rows: list[dict], pictures: list[Image.Image]) -> None:
    summary = json.loads((DATA / "summary.json").read_text())
    masks = [picture.getchannel("A") for picture in pictures if picture.mode == "RGBA"]
    transparent = sum(mask.getextrema()[0] < 255 for mask in masks)
    assert transparent == summary["with_transparency"]
    assert transparent > 0.8 * len(rows)
    assert all(mask.getextrema()[1] > 0 for mask in masks)


def test_the_summary_counts_what_is_in_the_pack(rows: list[dict]) -> None:
    summary = json.loads((DATA / "summary.json").read_text())
    assert summary["drawings"] == len(rows)
    assert summary["groups"] == len({row["group"] for row in rows})
    assert summary["distinct_drawings"] == len(rows) + sum(summary["left_out"].values())
    for split, counts in summary["splits"].items():
        assert counts["drawings"] == sum(row["split"] == split for row in rows)
