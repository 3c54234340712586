"""Many pictures through an encoder, few in memory at a time; one that fails is reported and spoils no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from isthmus.data.budget import BATCH_BYTES, resized_bytes
from isthmus.data.images import OUT_OF_MEMORY
from isthmus.errors import InputError, UsageError


def encode_each(
    count: int,
    read: Callable[[int], Any],
    encode: Callable[[list[Any]], np.ndarray],
    refuse: Callable[[int, Exception], Any],
    batch_size: int = 32,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """(rows, features [n, D]) of `count` pictures, in order, up to `batch_size` at a time.

    read: gives the picture of a row, None to leave it out. encode: takes pictures. refuse: gets the row and the error
    of one that cannot be read or encoded, whatever a library raises, MemoryError too (see `reason`); a batch that fails
    is gone through one by one. A `UsageError` passes: it is of no picture.
    """
    rows: list[int] = []
    pictures: list[Any] = []
    held = 0
    for row in range(count):
        try:
            picture = read(row)
        except UsageError:
            raise
        except Exception as error:
            refuse(row, error)
            continue
        if picture is None:
            continue
        rows.append(row)
        pictures.append(picture)
        held += resized_bytes(picture) if isinstance(picture, Image.Image) else getattr(picture, "nbytes", 0)
        if len(rows) == batch_size or held > BATCH_BYTES:
            yield from _encoded(rows, pictures, encode, refuse)
            rows, pictures, held = [], [], 0
    if rows:
        yield from _encoded(rows, pictures, encode, refuse)


def _encoded(rows: list[int], pictures: list[Any], encode: Any, refuse: Any) -> Iterator[tuple[list[int], np.ndarray]]:
    try:
        features = encode(pictures)
    except UsageError:
        raise
    except Exception as error:
        if len(rows) == 1:
            refuse(rows[0], error)
            return
        for row, picture in zip(rows, pictures, strict=True):
            yield from _encoded([row], [picture], encode, refuse)
        return
    yield rows, features


def reason(error: Exception) -> str:
    """Why a picture cannot be used, in a sentence."""
    if isinstance(error, MemoryError):
        return OUT_OF_MEMORY
    message = " ".join(str(error).split()) or type(error).__name__
    return message if isinstance(error, InputError) else f"cannot be encoded: {message[:1000]}"
