"""Any picture becomes upright 8-bit RGB on white; what cannot is refused with a reason."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from isthmus.data.images import BadImage, content_hash, decode


def encode(image: Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def tiff(bands: int, bits: int = 8, sample_format: int = 1) -> bytes:
    """A 2 × 2 uncompressed little-endian TIFF of any number of bands, all values 7."""
    data = bytes([7]) * (4 * bands * bits // 8)
    entries = [
        (256, 4, 1, 2),  # width
        (257, 4, 1, 2),  # height
        (258, 3, 1, bits),
        (259, 3, 1, 1),  # no compression
        (262, 3, 1, 1),  # black is zero
        (273, 4, 1, 8),  # offset of the only strip
        (277, 3, 1, bands),
        (278, 4, 1, 2),
        (279, 4, 1, len(data)),
        (339, 3, 1, sample_format),
    ]
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(entries)) + table + bytes(4)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_lossless_formats_keep_every_pixel(format: str) -> None:
    image = Image.new("RGB", (5, 3), (255, 0, 0))
    image.putpixel((4, 0), (0, 0, 255))
    got = pixels(encode(image, format, **({"lossless": True} if format == "WEBP" else {})))
    assert np.array_equal(got, np.asarray(image))


def test_jpeg_keeps_colours_nearly() -> None:
    got = pixels(encode(Image.new("RGB", (16, 16), (200, 30, 60)), "JPEG", quality=95))
    assert np.abs(got.astype(int) - [200, 30, 60]).max() <= 3


def corner_of(orientation: int, format: str) -> np.ndarray:
    """Where the red top-left corner of a stored 4 × 2 picture ends up, as (height, width, row, column)."""
    image = Image.new("RGB", (4, 2), "white")
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    got = pixels(encode(image, format, exif=exif, **options))
    (row,), (column,) = np.nonzero((got == [255, 0, 0]).all(axis=2))
    return np.array([*got.shape[:2], row, column])


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, (2, 4, 0, 0)),
        (2, (2, 4, 0, 3)),
        (3, (2, 4, 1, 3)),
        (4, (2, 4, 1, 0)),
        (5, (4, 2, 0, 0)),
        (6, (4, 2, 0, 1)),
        (7, (4, 2, 3, 1)),
        (8, (4, 2, 3, 0)),
        (77, (2, 4, 0, 0)),
    ],
)
def test_exif_orientation_is_applied_once(format: str, orientation: int, expected: tuple[int, ...]) -> None:
    assert corner_of(orientation, format).tolist() == list(expected)


def test_jpeg_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encode(Image.new("RGB", (32, 16)), "JPEG", exif=exif)).size == (16, 32)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_lose_the_picture() -> None:
    data = encode(Image.new("RGB", (4, 2), "red"), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode(data).size == (4, 2)


def test_sixteen_bits_are_divided_by_257() -> None:
    values = np.array([[0, 257, 128, 129], [65_535, 32_896, 514, 65_407]], dtype=np.uint16)
    expected = np.array([[0, 1, 0, 1], [255, 128, 2, 255]])  # round(v / 257), by hand
    for data in (encode(Image.fromarray(values)), encode(Image.fromarray(values), "TIFF")):
        assert np.array_equal(pixels(data)[..., 0], expected)


def test_big_endian_sixteen_bit_tiff() -> None:
    image = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 257 * 9, 257 * 200))
    assert pixels(encode(image, "TIFF"))[0, :, 1].tolist() == [9, 200]


def test_integers_beyond_sixteen_bits_are_refused() -> None:
    wide = Image.fromarray(np.array([[0, 70_000]], dtype=np.int32))
    with pytest.raises(BadImage, match=r"0 to 70000 exceed 16 bits.*from_callable"):
        decode(encode(wide, "TIFF"))


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 51)])
    assert pixels(encode(image))[0].tolist() == [[255, 0, 0], [255, 255, 255], [204, 204, 204]]


def test_grey_with_alpha_is_laid_on_white() -> None:
    image = Image.new("LA", (2, 1))
    image.putdata([(10, 255), (10, 0)])
    assert pixels(encode(image))[0].tolist() == [[10, 10, 10], [255, 255, 255]]


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_palette_transparency_is_laid_on_white(transparency: int | bytes) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    got = pixels(encode(image, transparency=transparency))
    assert got[0].tolist() == [[10, 20, 30], [255, 255, 255], [70, 80, 90]]


def test_transparent_colour_of_rgb_and_grey() -> None:
    image = Image.new("RGB", (2, 1))
    image.putdata([(1, 2, 3), (4, 5, 6)])
    assert pixels(encode(image, transparency=(1, 2, 3)))[0].tolist() == [[255] * 3, [4, 5, 6]]
    grey = Image.new("L", (2, 1))
    grey.putdata([9, 8])
    assert pixels(encode(grey, transparency=9))[0].tolist() == [[255] * 3, [8] * 3]


def test_transparent_value_of_sixteen_bit_grey() -> None:
    values = Image.fromarray(np.array([[257 * 5, 257 * 6]], dtype=np.uint16))
    assert pixels(encode(values, transparency=257 * 5))[0, :, 0].tolist() == [255, 6]


def test_cmyk_jpeg_is_not_inverted() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    got = pixels(encode(red, "JPEG", quality=95))  # written the way Adobe does, inverted
    assert np.abs(got.astype(int) - [255, 0, 0]).max() <= 12


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr"])
def test_other_modes_are_converted(mode: str) -> None:
    image = Image.new("RGB", (8, 8), "white").convert(mode)
    data = encode(image, "JPEG" if mode == "YCbCr" else "PNG")
    assert (pixels(data) == 255).all()


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for format, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("PNG", {})):
        data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert pixels(data)[0, 0].tolist() == [255, 0, 0], format


def test_five_bands_name_the_callable_route() -> None:
    with pytest.raises(BadImage, match=r"TIFF of 5 bands .*isthmus\.encoders\.from_callable"):
        decode(tiff(bands=5))


def test_one_band_of_the_same_builder_is_read() -> None:
    assert (pixels(tiff(bands=1)) == 7).all()


def test_floating_point_names_the_callable_route() -> None:
    image = Image.fromarray(np.ones((2, 2), dtype=np.float32))
    with pytest.raises(BadImage, match=r"floating-point.*isthmus\.encoders\.from_callable"):
        decode(encode(image, "TIFF"))


def test_other_formats_are_not_opened() -> None:
    for format in ("PPM", "ICO", "JPEG2000", "TGA"):
        with pytest.raises(BadImage, match=r"not a JPEG, PNG|JPEG 2000 is not a format that is read"):
            decode(encode(Image.new("RGB", (16, 16)), format))


def test_pixel_cap_is_inclusive_and_adjustable() -> None:
    data = encode(Image.new("RGB", (10, 10)))
    assert decode(data, max_pixels=100).size == (10, 10)
    with pytest.raises(BadImage, match=r"10 × 10 pixels are more than 99"):
        decode(data, max_pixels=99)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("cap", [10, 60])  # Pillow raises above twice its cap, and warns below that
def test_pillows_own_cap_neither_interferes_nor_changes(monkeypatch: pytest.MonkeyPatch, cap: int) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", cap)
    assert decode(encode(Image.new("RGB", (10, 10)))).size == (10, 10)
    assert cap == Image.MAX_IMAGE_PIXELS


def test_reason_is_one_sentence_and_an_input_error() -> None:
    with pytest.raises(ValueError) as raised:
        decode(b"")
    assert isinstance(raised.value, BadImage)
    assert raised.value.reason == str(raised.value) == "empty file."


def test_content_hash_is_blake2b_128() -> None:
    assert content_hash(b"") == "cae66941d9efbd404e4d88758ea67670"
    assert content_hash(b"a") != content_hash(b"b")
