"""Decode pictures of any kind to 8-bit RGB, safely: a pixel limit checked on the header, one kind of error."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, features
from PIL.ExifTags import Base

from isthmus.data.budget import PICTURES, decoding_bytes, excess
from isthmus.errors import InputError, UsageError

# The file endings of each format that is read. AVIF and HEIC only if this machine can read them.
ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    **({"AVIF": (".avif", ".avifs")} if features.check("avif") else {}),
    **({"HEIF": (".heic", ".heif", ".hif")} if find_spec("pillow_heif") else {}),
}
FORMATS = tuple(ENDINGS)
EXTENSIONS = tuple(ending for endings in ENDINGS.values() for ending in endings)
NAMED = ", ".join({"WEBP": "WebP", "HEIF": "HEIC"}.get(name, name) for name in FORMATS)
CONVERT = "Convert it to PNG or JPEG first"
# Pictures and arrays that are not read, by ending, each with advice.
FOREIGN = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC is read with pip install 'isthmus[heif]'."),
    **dict.fromkeys((".avif", ".avifs"), "AVIF is not read by this Pillow; a newer one can."),
    **dict.fromkeys(
        (".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc", ".jpm"), f"JPEG 2000 is not a format that is read. {CONVERT}."
    ),
    ".jxl": f"JPEG XL is not a format that is read. {CONVERT}.",
    **dict.fromkeys(
        (
            ".raw",
            ".dng",
            ".cr2",
            ".cr3",
            ".nef",
            ".nrw",
            ".arw",
            ".orf",
            ".rw2",
            ".raf",
            ".pef",
            ".srw",
            ".3fr",
            ".erf",
        ),
        f"a camera's raw data is not a picture yet. {CONVERT}.",
    ),
    **dict.fromkeys((".npy", ".npz"), "an array: give it to isthmus.data.pairs.pairs_from_lists (uint8 [H, W, 3])."),
    **dict.fromkeys(
        (
            *(".svg", ".psd", ".ico", ".tga", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".exr", ".hdr", ".pcx", ".dds"),
            ".dib",
        ),
        f"a picture in a format that is not read. {CONVERT}.",
    ),
}
FOREIGN = {ending: why for ending, why in FOREIGN.items() if ending not in EXTENSIONS}
MAGIC = (
    (b"version https://git-lfs", "a Git LFS pointer and not the picture: git lfs pull fetches it."),
    (b"\0\0\0\x0cjP  ", FOREIGN[".jp2"]),
    (b"\xff\x4f\xff\x51", FOREIGN[".jp2"]),
    (b"\xff\x0a", FOREIGN[".jxl"]),
    (b"\0\0\0\x0cJXL ", FOREIGN[".jxl"]),
    (b"\x93NUMPY", FOREIGN[".npy"]),
    (b"8BPS", "a Photoshop file. " + CONVERT + "."),
    (b"<?xml", "XML or SVG, and no image of pixels."),
    (b"<svg", "SVG, and no image of pixels."),
    (b"<!DOCTYPE", "a web page and not a picture: the download went wrong."),
    (b"<html", "a web page and not a picture: the download went wrong."),
)
MAX_PIXELS = 100_000_000
MAX_BYTES = 256 * 1024**2
OUT_OF_MEMORY = "it takes more memory than there is."

TWELVE_BITS = 4_095
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
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
    """One image cannot be used. `reason` is one sentence for the table of skipped images."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def content_hash(data: bytes) -> str:
    """BLAKE2b-128 of `data` as 32 hex digits: equal bytes are the same content."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def parse_range(given: Any) -> tuple[float, float] | None:
    """`"0:4095"`, `"4095"`, 4095 or (0, 4095) as (black, white). Raises `UsageError`."""
    if given is None:
        return None
    low, colon, high = given.rpartition(":") if isinstance(given, str) else ("", "", given)
    parts = given if isinstance(given, tuple | list) else (low if colon else 0, high)
    try:
        black, white = (float(part) for part in parts)
    except (TypeError, ValueError):
        black, white = 0.0, 0.0
    if not -np.inf < black < white < np.inf:
        raise UsageError(f"--range {given!r}: write LOW:HIGH, as in 0:4095 for 12 bits, the lower value first.")
    return black, white


def decode(
    data: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    range: tuple[float, float] | None = None,
    remark: Callable[[str], Any] = lambda remark: None,
) -> Image.Image:
    """The picture in `data` as upright 8-bit RGB; the first frame of an animation, the first page of a TIFF.

    The number of pixels is checked on the header, before anything is decompressed; what follows is `to_rgb`.
    `data`: JPEG, PNG, WebP, GIF, TIFF, BMP; AVIF and HEIC where Pillow can. remark: called with remarks for the user,
    such as pages that are left out. Raises `BadImage`.
    """
    try:
        return _decoded(data, max_pixels, range, remark)
    except BadImage:
        raise
    except MemoryError:
        raise BadImage(OUT_OF_MEMORY) from None
    except UnidentifiedImageError as error:
        problem: Exception = error
    except Exception as error:  # on hostile bytes, Pillow's parsers raise nearly anything
        problem = error
    bare = _without_texts(data)
    if bare is not None:  # texts and profiles of a PNG, too long or damaged, are no part of its pixels
        return decode(bare, max_pixels=max_pixels, range=range, remark=remark)
    if isinstance(problem, UnidentifiedImageError):
        raise BadImage(_why_unidentified(data)) from None
    raise BadImage(f"damaged image: {problem or type(problem).__name__}.") from problem


def _decoded(data: bytes, max_pixels: int, range: Any, remark: Callable[[str], Any]) -> Image.Image:
    image = open_image(data)
    check_size(image, data, max_pixels)
    if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
        remark("a TIFF of several pages, of which the first is taken (--pages)")
    return to_rgb(image, range=range, remark=remark)


def to_rgb(
    image: Image.Image, *, range: tuple[float, float] | None = None, remark: Callable[[str], Any] = lambda remark: None
) -> Image.Image:
    """An opened picture as upright 8-bit RGB: all readers use this function, so that equal pictures give equal inputs.

    Orientation (EXIF) is applied, transparency laid on white, CMYK and palettes are converted; colour profiles are
    not applied. 16-bit grey is divided by 257, unless `range` (black, white) says which values count; with it, grey of
    32 bits and of floating point is read too. Raises `BadImage`.
    """
    with PICTURES.taking(decoding_bytes(image)):
        return _converted(upright(image), range, remark)


def upright(image: Image.Image) -> Image.Image:
    """An opened picture turned as its EXIF says. Raises `BadImage` for one that cannot be loaded."""
    try:
        image.load()  # first, as Pillow itself turns a TIFF when it is loaded
    except MemoryError:
        raise BadImage(OUT_OF_MEMORY) from None
    except Exception as error:  # as in `decode`; also a picture whose file is closed
        raise BadImage(f"damaged image: {error or type(error).__name__}.") from error
    turn = _orientation(image)
    if turn is None:
        return image
    turned = image.transpose(turn)
    for name in ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"):
        turned.info.pop(name, None)  # otherwise the next reader would turn it again
    return turned


def from_array(array: np.ndarray) -> Image.Image:
    """A picture from uint8 [H, W], [H, W, 1 to 4] (grey, with alpha, RGB, RGBA), uint16 [H, W] or bool [H, W]."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16, np.bool_)
    colour = array.ndim == 3 and array.dtype == np.uint8 and array.shape[2] in (2, 3, 4)
    if not (grey or colour) or not array.size:
        raise BadImage(f"an array of {array.dtype} {list(array.shape)} is not a picture: uint8 [H, W, 3].")
    return Image.fromarray(np.ascontiguousarray(array * np.uint8(255) if array.dtype == np.bool_ else array))


def decode_mask(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The numbers in a mask's pixels, int [H, W]: grey values of 8 or 16 bits, or indices of a palette, as they are.

    Raises `BadImage`, also for a picture with several bands, whose pixels are colours and no numbers.
    """
    try:
        image = open_image(data)
        check_size(image, data, max_pixels)
        if len(image.getbands()) > 1 or image.mode == "F":
            raise BadImage(
                f"its pixels are colours ({image.mode}), not numbers of classes: save it as grey or palette."
            )
        with PICTURES.taking(decoding_bytes(image)):
            return np.asarray(image).astype(np.int32)
    except BadImage:
        raise
    except MemoryError:
        raise BadImage(OUT_OF_MEMORY) from None
    except UnidentifiedImageError:
        raise BadImage(_why_unidentified(data)) from None
    except Exception as error:  # as in `decode`
        raise BadImage(f"damaged image: {error or type(error).__name__}.") from error


def open_image(data: bytes) -> Image.Image:
    """Parse the header. Pillow's pixel limit is a global variable; ours is an argument, checked right afterwards."""
    with _opening:
        if "HEIF" in FORMATS and "HEIF" not in Image.OPEN:
            import pillow_heif

            pillow_heif.register_heif_opener()
        cap, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = cap


def check_size(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Raises `BadImage` for an opened picture that takes too much to decode, whatever the size of its file."""
    width, height = image.size
    if width < 1 or height < 1:
        raise BadImage(f"empty image of {width} × {height} pixels.")
    if width * height > max_pixels:
        raise BadImage(f"{width} × {height} pixels are more than {max_pixels:,} (raise max_pixels, --max-pixels).")
    if reason := excess(image, data, max_pixels):
        raise BadImage(reason)


def _orientation(image: Image.Image) -> Image.Transpose | None:
    """How to turn the loaded image upright. Damaged EXIF is no reason to lose a picture."""
    try:
        return UPRIGHT.get(image.getexif().get(Base.Orientation, 1))
    except Exception:
        return None


def _converted(image: Image.Image, range: Any, remark: Callable[[str], Any]) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image if type(image) is Image.Image else image.copy()
    if image.mode == "F" and range is None:
        raise BadImage(f"floating-point pixels have no fixed range: name it (--range), or {CALLABLE_ROUTE}.")
    if image.mode == "F" or image.mode.startswith("I"):
        return _eight_bits(image, range, remark).convert("RGB")
    if image.mode == "LAB":
        raise BadImage(f"its pixels are in the LAB colour space, which is not read. {CONVERT}.")
    if not image.has_transparency_data:
        return image.convert("RGB")
    picture = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def _eight_bits(image: Image.Image, range: Any, remark: Callable[[str], Any]) -> Image.Image:
    """16-bit grey v to round(v / 257), which sends 65,535 to 255 and every 8-bit value to itself; or by `range`."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if range is not None:
        black, white = range
        scaled = (np.nan_to_num(values.astype(np.float64)).clip(black, white) - black) / (white - black)
        grey = np.floor(255 * scaled + 0.5).astype(np.uint8)
    elif low < 0 or high > 65_535:
        raise BadImage(
            f"integer pixels from {low} to {high} exceed 16 bits: name their range (--range), or {CALLABLE_ROUTE}."
        )
    else:
        if high <= TWELVE_BITS:
            remark("grey of 16 bits in which nothing exceeds 4,095: if it holds 12 bits, give --range 0:4095")
        grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    transparent: Any = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey)


def _without_texts(data: bytes) -> bytes | None:
    """A PNG without its texts and colour profile; None if it has none or is no PNG."""
    if data[:8] != PNG_MAGIC:
        return None
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(data[at:end])
        at = end
    bare = b"".join([*kept, data[at:]])
    return bare if len(bare) < len(data) else None


def _why_unidentified(data: bytes) -> str:
    if not data:
        return "empty file."
    if data[:4] in TIFF_MAGIC:
        bands = _tiff_bands(data)
        what = f"a TIFF of {bands} bands" if bands else "a TIFF with an unusual or damaged layout"
        return f"{what} cannot be read as RGB: {CALLABLE_ROUTE}."
    begins = data[:64].lstrip()
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
        return FOREIGN.get(".heic", "damaged HEIC image.")
    for magic, what in MAGIC:
        if begins[: len(magic)].lower() == magic.lower() or data.startswith(magic):
            return what
    return f"not a {NAMED} image, or its header is damaged."


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
