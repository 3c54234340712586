"""Items that a user hands to a model, as its encoders take them: paths and encoded bytes are decoded as pairs are."""

from __future__ import annotations

import os
from typing import Any

from PIL import Image

from isthmus.data.feature_pairs import SIDES
from isthmus.data.images import decode
from isthmus.data.sources import cell_bytes
from isthmus.errors import InputError
from isthmus.modality import Modality, spec_of

FILES = (str, os.PathLike, bytes, bytearray, memoryview, dict)  # what is decoded; anything else is an item already


def listed_items(modality: Modality, items: Any) -> list[Any]:
    """Items as a list; an array is one picture, or one item of a further modality."""
    if modality not in SIDES and getattr(items, "ndim", None):
        return [items]
    single = isinstance(items, (str, bytes, bytearray, os.PathLike, Image.Image, dict))
    if single or getattr(items, "ndim", 0) in (2, 3):  # an array or tensor of one picture
        return [items]
    return list(items)


def decode_item(modality: Modality, item: Any) -> Any:
    """An item as the encoders of a modality take it. Raises what decoding raises."""
    read: Any = decode if modality == SIDES[0] else spec_of(modality).decode
    return read(cell_bytes(item)) if isinstance(item, FILES) and read is not None else item


def read_item(modality: Modality, item: Any) -> Any:
    """`decode_item`; an `InputError` names a file that is bad."""
    try:
        return decode_item(modality, item)
    except (InputError, ValueError, OSError) as error:
        name = os.fsdecode(item) if isinstance(item, str | os.PathLike) else ""
        raise InputError(f"{name}: {error}" if name not in str(error) else str(error)) from None
