"""Bytes to 8-bit RGB pictures, safely: six formats, a pixel cap read from the header, one kind of error."""

from __future__ import annotations

import hashlib
import io
import threading
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError
from PIL.ExifTags import Base

from isthmus.data.budget import PICTURES, decoding_bytes, excess
from isthmus.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp")
MAX_PIXELS = 100_000_000
MAX_BYTES = 256 * 1024**2

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
CALLABLE_ROUTE = "turn it into an encoder's input yourself, with isthmus.encoders.from_callable"
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_opening = threading.Lock()


class BadImage(InputError):
    """One image cannot be used. `reason` is one sentence, fit for the table of skipped images."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def content_hash(data: bytes) -> str:
    """BLAKE2b-128 of `data` as 32 hex digits: equal bytes are the same content."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in `data` as upright 8-bit RGB; the first frame of an animation.

    The number of pixels is checked on the header, before anything is decompressed. Orientation (EXIF) is
    applied, transparency is laid on white, 16-bit grey is divided by 257, CMYK and palettes are converted;
    colour profiles are not applied. `data`: JPEG, PNG, WebP, GIF, TIFF or BMP. Raises `BadImage`.
    """
    try:
        image = _open(data)
        _check_size(image, max_pixels)
        _check_work(image, data, max_pixels)
        with PICTURES.taking(decoding_bytes(image)):
            image.load()
            turn = _orientation(image)
            picture = _to_rgb(image)
            return picture if turn is None else picture.transpose(turn)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage(_why_unidentified(data)) from None
    except Exception as error:  # hostile bytes reach Pillow's parsers, which raise nearly anything
        raise BadImage(f"damaged image: {error or type(error).__name__}.") from error


def decode_mask(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The numbers in a mask's pixels, int [H, W]: grey values of 8 or 16 bits, or indices of a palette, as they are.

    Raises `BadImage`, also for a picture with several bands, whose pixels are colours and no numbers.
    """
    try:
        image = _open(data)
        _check_size(image, max_pixels)
        _check_work(image, data, max_pixels)
        if len(image.getbands()) > 1 or image.mode == "F":
            raise BadImage(
                f"its pixels are colours ({image.mode}), not numbers of classes: save it as grey or palette."
            )
        return np.asarray(image).astype(np.int32)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage(_why_unidentified(data)) from None
    except Exception as error:  # as in `decode`
        raise BadImage(f"damaged image: {error or type(error).__name__}.") from error


def _open(data: bytes) -> Image.Image:
    """Parse the header. Pillow's own pixel cap is a global; ours is an argument, checked right after."""
    with _opening:
        cap, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = cap


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise BadImage(f"empty image of {width} × {height} pixels.")
    if width * height > max_pixels:
        raise BadImage(f"{width} × {height} pixels are more than {max_pixels:,} (raise max_pixels, --max-pixels).")


def _check_work(image: Image.Image, data: bytes, max_pixels: int) -> None:
    if reason := excess(image, data, max_pixels):
        raise BadImage(reason)


def _orientation(image: Image.Image) -> Image.Transpose | None:
    """How to turn the loaded image upright. Damaged EXIF is no reason to lose a picture."""
    try:
        return UPRIGHT.get(image.getexif().get(Base.Orientation, 1))
    except Exception:
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadImage(f"floating-point pixels have no fixed range: {CALLABLE_ROUTE}.")
    if image.mode.startswith("I"):
        return _eight_bits(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    picture = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey v to round(v / 257), which sends 65,535 to 255 and every 8-bit value to itself."""
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65_535:
        raise BadImage(f"integer pixels from {low} to {high} exceed 16 bits: {CALLABLE_ROUTE}.")
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    transparent: Any = image.info.get("transparency")
    if transparent is not None:
        grey[values == transparent] = 255
    return Image.fromarray(grey)


def _why_unidentified(data: bytes) -> str:
    if not data:
        return "empty file."
    if data[:4] in TIFF_MAGIC:
        bands = _tiff_bands(data)
        what = f"a TIFF of {bands} bands" if bands else "a TIFF with an unusual or damaged layout"
        return f"{what} cannot be read as RGB: {CALLABLE_ROUTE}."
    return "not a JPEG, PNG, WebP, GIF, TIFF or BMP image, or its header is damaged."


def _tiff_bands(data: bytes) -> int | None:
    """SamplesPerPixel of the first page, if the header can be read."""
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        return int(directory[TiffImagePlugin.SAMPLESPERPIXEL])
    except Exception:
        return None
