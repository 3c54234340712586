"""One picture is one input, whichever way it comes in; and what a user should know of odd ones is said."""

from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

import isthmus as ist
from isthmus.data.images import BadImage, decode, parse_range
from isthmus.data.pairs import Pairs, pairs_from_lists, read_pairs
from isthmus.encoders.images import to_pil
from isthmus.errors import InputError, UsageError
from test_data_folders import tar
from toys import pixel_encoder, word_encoder

RNG = np.random.default_rng(0)
COLOUR = Image.fromarray(RNG.integers(0, 255, (24, 36, 3), dtype=np.uint8))
ALPHA = Image.fromarray(RNG.integers(0, 255, (24, 36, 4), dtype=np.uint8))
WIDE = Image.fromarray(RNG.integers(0, 65_535, (24, 36), dtype=np.uint16))


def written(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


PICTURES = {
    "rgb": written(COLOUR, "PNG"),
    "orientation": written(COLOUR, "JPEG", exif=orientation(6), quality=95),
    "orientation of a tiff": written(COLOUR, "TIFF", tiffinfo={0x0112: 6}),
    "orientation of a png": written(COLOUR, "PNG", exif=orientation(8)),
    "orientation of 16 bit": written(WIDE, "PNG", exif=orientation(6)),
    "grey": written(COLOUR.convert("L"), "JPEG"),
    "grey with alpha": written(ALPHA.convert("LA"), "PNG"),
    "alpha": written(ALPHA, "PNG"),
    "palette": written(COLOUR.quantize(16), "PNG"),
    "transparent palette": written(COLOUR.quantize(16), "PNG", transparency=3),
    "one bit": written(COLOUR.convert("1"), "PNG"),
    "cmyk": written(COLOUR.convert("CMYK"), "JPEG", quality=95),
    "16 bit": written(WIDE, "PNG"),
    "16 bit tiff": written(WIDE, "TIFF"),
    "gif": written(COLOUR.quantize(8), "GIF"),
    "webp": written(ALPHA, "WEBP", lossless=True),
    "bmp": written(COLOUR, "BMP"),
}


def through_pairs(folder: Path, data: bytes) -> dict[str, Pairs]:
    """The picture as pairs, in every form that pairs have."""
    (folder / "set").mkdir()
    file = folder / "set" / "a.png"
    file.write_bytes(data)
    (folder / "t.csv").write_text("image,caption\nset/a.png,x\n")
    (folder / "t.jsonl").write_text(json.dumps({"image": "set/a.png", "caption": "x"}))
    (folder / "t.json").write_text(json.dumps([{"image": "set/a.png", "caption": "x"}]))
    (folder / "b.tsv").write_text(f"image\tcaption\n{base64.b64encode(data).decode()}\tx\n")
    (folder / "t.tar").write_bytes(tar({"a.png": data, "a.txt": "x"}))
    pq.write_table(pa.table({"image": [data], "caption": ["x"]}), folder / "bytes.parquet")
    pq.write_table(pa.table({"image": ["set/a.png"], "caption": ["x"]}), folder / "paths.parquet")
    paths = ["t.csv", "t.jsonl", "t.json", "b.tsv", "t.tar", "bytes.parquet", "paths.parquet"]
    found = {name: read_pairs(folder / name) for name in paths}
    found["folder"] = read_pairs(folder / "set", captions="optional")
    items = {
        "path": file,
        "bytes": data,
        "opened": Image.open(io.BytesIO(data)),
        "struct": {"bytes": data, "path": None},
    }
    found |= {f"list of {name}": pairs_from_lists([item], ["x"]) for name, item in items.items()}
    found |= {
        f"frame of {name}": read_pairs(pd.DataFrame({"image": [item], "caption": ["x"]}))
        for name, item in items.items()
    }
    return found


@pytest.mark.parametrize("name", PICTURES)
def test_every_way_in_gives_the_same_picture(tmp_path: Path, name: str) -> None:
    data = PICTURES[name]
    expected = decode(data)
    if name.startswith("orientation"):
        assert expected.size == (24, 36)
    for way, pairs in through_pairs(tmp_path, data).items():
        assert pairs.decode(0).tobytes() == expected.tobytes(), way
    assert to_pil(Image.open(io.BytesIO(data))).tobytes() == expected.tobytes()
    assert to_pil(np.asarray(expected)).tobytes() == expected.tobytes()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ist.DualEncoder:
    from toys import write_pairs

    table = write_pairs(tmp_path_factory.mktemp("pairs"))
    store = ist.embed(table, pixel_encoder(), word_encoder(), out=tmp_path_factory.mktemp("store"))
    trained = ist.train(store, recipe="cca")
    trained.encoders = {"image": [pixel_encoder()], "text": [word_encoder()]}
    return trained


@pytest.mark.parametrize("name", PICTURES)
def test_a_model_sees_the_same_picture_in_every_form(tmp_path: Path, model: ist.DualEncoder, name: str) -> None:
    data = PICTURES[name]
    (tmp_path / "a.png").write_bytes(data)
    opened = Image.open(io.BytesIO(data))
    pixels = np.asarray(decode(data))
    items = [tmp_path / "a.png", str(tmp_path / "a.png"), data, bytearray(data), opened, pixels]
    found = model.encode_image(items)
    assert np.abs(found - found[0]).max() < 1e-6
    for item in items:  # one alone is no list
        assert np.allclose(model.encode_image(item), found[:1], atol=1e-6)


def test_arrays_of_every_kind_are_those_of_files() -> None:
    for array in (np.asarray(WIDE), np.asarray(ALPHA), np.asarray(COLOUR.convert("L"))[:, :, None]):
        image = Image.fromarray(array if array.shape[2:] != (1,) else array[:, :, 0])
        assert to_pil(array).tobytes() == decode(written(image, "PNG")).tobytes()
    assert to_pil(np.array([[True, False]])).getpixel((0, 0)) == (255, 255, 255)
    for array in (np.zeros((2, 2)), np.zeros((3, 4, 4), np.uint16), np.zeros((3, 8, 8), np.uint8)):
        with pytest.raises(BadImage, match=r"is not a picture"):
            to_pil(array)


def test_twelve_bits_in_sixteen_are_said_and_can_be_ranged(tmp_path: Path) -> None:
    dark = np.array([[0, 2048], [4095, 1024]], np.uint16)
    (tmp_path / "a.png").write_bytes(written(Image.fromarray(dark), "PNG"))
    pairs = read_pairs(tmp_path, captions="optional")
    assert np.asarray(pairs.decode(0))[1, 0, 0] == 16
    assert "nothing exceeds 4,095" in pairs.notes[-1] and "a.png" in pairs.notes[-1]
    for given in ("0:4095", 4095, (0, 4095)):
        pairs = read_pairs(tmp_path, captions="optional", range=given)
        assert np.asarray(pairs.decode(0))[:, :, 0].tolist() == [[0, 128], [255, 64]]
        assert pairs.notes == []
    floats = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert np.asarray(decode(written(floats, "TIFF"), range=(0, 1)))[0, :, 0].tolist() == [0, 128, 255]
    for wrong in ("x", "5:5", "9:1", "1:2:3"):
        with pytest.raises(UsageError, match=r"write LOW:HIGH"):
            parse_range(wrong)


def test_another_range_is_another_picture_in_a_store(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(
        written(Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)), "PNG")
    )
    (tmp_path / "set" / "a.txt").write_text("x")
    found = []
    for values in (None, "0:600"):
        store = ist.embed(tmp_path / "set", pixel_encoder(), word_encoder(), out=tmp_path / "store", range=values)
        found.append(store.features("image").gather(np.array([0])))
    assert found[1].mean() > 10 * found[0].mean()


def test_pages_of_a_tiff_are_said_and_can_be_taken(tmp_path: Path) -> None:
    shades = [Image.fromarray(np.full((4, 4), 10 * number, np.uint8)) for number in range(1, 4)]
    (tmp_path / "a.tif").write_bytes(written(shades[0], "TIFF", save_all=True, append_images=shades[1:]))
    (tmp_path / "b.png").write_bytes(written(COLOUR, "PNG"))
    (tmp_path / "t.csv").write_text("image,caption\na.tif,of a\nb.png,of b\n")
    pairs = read_pairs(tmp_path / "t.csv")
    assert pairs.decode(0).getpixel((0, 0)) == (10, 10, 10)
    assert any("several pages" in note and "a.tif" in note for note in pairs.notes)
    every = read_pairs(tmp_path / "t.csv", pages="all")
    assert every.images["id"].to_pylist() == ["a.tif[1]", "a.tif[2]", "a.tif[3]", "b.png"]
    assert [every.decode(row).getpixel((0, 0))[0] for row in range(3)] == [10, 20, 30]
    assert every.captions["caption_id"].to_pylist() == ["a.tif[1]#0", "a.tif[2]#0", "a.tif[3]#0", "b.png#0"]
    assert len({every.content_hash(every.read_bytes(row), row) for row in range(4)}) == 4
    second = read_pairs(tmp_path / "t.csv", pages=2)
    assert second.images["id"].to_pylist() == ["a.tif", "b.png"]
    assert second.decode(0).getpixel((0, 0)) == (20, 20, 20)
    with pytest.raises(BadImage, match=r"no page 9"):
        read_pairs(tmp_path / "t.csv", pages=9).decode(0)
    with pytest.raises(UsageError, match=r"write all, first"):
        read_pairs(tmp_path / "t.csv", pages="some")


def test_texts_and_profiles_of_a_png_are_no_part_of_its_pixels() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("long", "x" * 5_000_000, zip=True)
    for data in (written(COLOUR, "PNG", pnginfo=info), written(COLOUR, "PNG", icc_profile=b"x" * 5_000_000)):
        assert decode(data).tobytes() == COLOUR.tobytes()
    chunk = b"tEXt" + b"a\0b"
    damaged = len(b"a\0b").to_bytes(4, "big") + chunk + (zlib.crc32(chunk) ^ 1).to_bytes(4, "big")
    plain = written(COLOUR, "PNG")
    assert decode(plain[:33] + damaged + plain[33:]).tobytes() == COLOUR.tobytes()


REASONS = {
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0": r"a Git LFS pointer",
    b"<!DOCTYPE html><html>404": r"a web page",
    b"<svg xmlns=''></svg>": r"SVG",
    b"": r"empty file",
    b"\0\0\0\x18ftypheic\0\0\0\0": r"HEIC is read with pip install",
}


@pytest.mark.parametrize("data", REASONS)
def test_what_is_no_picture_is_called_what_it_is(data: bytes) -> None:
    with pytest.raises(BadImage, match=REASONS[data]):
        decode(data)


def test_a_query_with_half_a_character_is_refused(model: ist.DualEncoder) -> None:
    with pytest.raises(InputError, match=r"half a character"):
        pixel = word_encoder()
        pixel.encode(["half \ud83d"])


def test_a_turned_picture_is_not_turned_again() -> None:
    for name in PICTURES:
        if name.startswith("orientation"):
            assert to_pil(to_pil(decode(PICTURES[name]))).size == (24, 36)


def test_a_picture_that_cannot_be_loaded_is_a_bad_image() -> None:
    opened = Image.open(io.BytesIO(PICTURES["bmp"][:300]))
    for read in (to_pil, lambda image: pairs_from_lists([image], ["x"]).decode(0)):
        with pytest.raises(BadImage, match=r"damaged image"):
            read(opened)
