"""Hostile image files end as a reason, quickly and in little memory; they never escape as another error."""

from __future__ import annotations

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from isthmus.data.images import BadImage, decode


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, body: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


def small(format: str) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, format)
    return file.getvalue()


BOMBS = {
    "png": png(60_000, 60_000, zlib.compress(bytes(10_000_000), 9)),
    "png-huge-sides": png(2**31 - 1, 2**31 - 1, b""),
    "gif": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\0;",
    "bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**30, 2**20, 1, 24, 0, 0, 0, 0, 0, 0),
    "webp": b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\xff" * 2 + bytes(4),
}


@pytest.mark.parametrize("name", BOMBS)
def test_decompression_bombs_are_refused_on_the_header(name: str) -> None:
    start = time.perf_counter()
    with pytest.raises(BadImage):
        decode(BOMBS[name])
    assert time.perf_counter() - start < 0.5


def test_bomb_names_its_size_even_where_pillow_would_only_warn() -> None:
    with pytest.raises(BadImage, match=r"11000 × 10000 pixels are more than 100,000,000"):
        decode(png(11_000, 10_000, b""))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_truncated_files_are_refused(format: str) -> None:
    data = small(format)
    for length in (1, 10, 30, len(data) // 2):
        with pytest.raises(BadImage):
            decode(data[:length])


def test_png_with_a_bomb_in_its_text_is_refused_or_read_without_it() -> None:
    data = small("PNG")
    text = png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(70_000_000), 9))
    try:
        assert decode(data[:33] + text + data[33:]).size == (32, 32)
    except BadImage as error:
        assert "damaged" in error.reason


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.filterwarnings("ignore")
def test_flipped_bytes_end_as_a_picture_or_a_reason(format: str) -> None:
    data = small(format)
    random = np.random.default_rng(1)
    for _ in range(150):
        damaged = bytearray(data)
        for place in random.integers(0, min(len(data), 400), 4):
            damaged[place] = random.integers(0, 256)
        try:
            assert decode(bytes(damaged), max_pixels=1_000_000).mode == "RGB"
        except BadImage as error:
            assert error.reason
