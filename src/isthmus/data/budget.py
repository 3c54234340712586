"""Limits on decoding pictures: memory of all threads together, and computing time.

A file's size says nothing: 50 kB of JPEG can hold thousands of scans, a TIFF one tile of gigabytes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

PICTURE_BYTES = 2**30  # of all pictures that this process is decoding
BATCH_BYTES = 2**28  # of the decoded pictures of one batch, before they are resized
PIXEL_BYTES = 12  # bytes per pixel at most: decoded, with transparency, on white, as RGB
MAX_SCANS = 16  # of a progressive JPEG of any size
MAX_SCANNED = 10**9  # pixels times scans
MAX_ASPECT = 200  # of a picture that is resized by its shorter side
USUAL_SIDE = 224  # pixels of an encoder's input


class Budget:
    """A number of bytes that threads take and return. A thread that needs more than are left waits."""

    def __init__(self, size: int) -> None:
        self.size, self.taken = size, 0
        self._changed = threading.Condition()

    @contextmanager
    def taking(self, nbytes: int) -> Iterator[None]:
        """Hold `nbytes` for a while. A request for more than the total waits until it is alone."""
        nbytes = min(nbytes, self.size)
        with self._changed:
            self._changed.wait_for(lambda: self.taken + nbytes <= self.size)
            self.taken += nbytes
        try:
            yield
        finally:
            with self._changed:
                self.taken -= nbytes
                self._changed.notify_all()


PICTURES = Budget(PICTURE_BYTES)


def decoding_bytes(image: Image.Image) -> int:
    """The most bytes that decoding an opened picture takes."""
    return PIXEL_BYTES * image.width * image.height


def resized_bytes(image: Image.Image) -> int:
    """Bytes of a decoded picture on its way into an encoder: as decoded, and resized in floats by its shorter side."""
    aspect = max(image.size) / max(1, min(image.size))
    return 3 * image.width * image.height + int(PIXEL_BYTES * aspect * USUAL_SIDE**2)


def excess(image: Image.Image, data: bytes, max_pixels: int) -> str | None:
    """Why an opened picture of few bytes and pixels would still take too much work; None if it would not."""
    scans = data.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 0
    if scans > MAX_SCANS and scans * image.width * image.height > MAX_SCANNED:
        return f"{scans:,} scans of {image.width} × {image.height} pixels take too long to decode."
    tags: Any = getattr(image, "tag_v2", None)
    if tags is not None:
        width, length = (_number(tags.get(tag)) for tag in (322, 323))  # TileWidth, TileLength
        if width * length > max_pixels:
            return f"its tiles of {width:,} × {length:,} pixels are larger than {max_pixels:,} pixels."
    return None


def too_long(image: Image.Image) -> str | None:
    """Why a picture is too long for an encoder that resizes its shorter side; None if it is not."""
    if max(image.size) <= MAX_ASPECT * min(image.size):
        return None
    return f"{image.width} × {image.height} pixels: one side is more than {MAX_ASPECT} times the other."


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
