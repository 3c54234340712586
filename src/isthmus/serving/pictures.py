"""Pictures in requests and answers: data URIs, never addresses or paths."""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
from PIL import Image

from isthmus.data.images import BadImage, check_size, open_image
from isthmus.serving.contract import RequestRefused

DATA_URI = "a data URI (data:image/png;base64,…)"
MAX_PIXELS = 40_000_000  # of a picture in a request
KINDS = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png", b"RIFF": "image/webp"}


def picture_bytes(uri: str, param: str = "image") -> bytes:
    """The bytes in a data URI, whose header says that it is a picture within `MAX_PIXELS`. Raises `RequestRefused`."""
    head, comma, coded = uri.partition(",")
    if not comma or not head.lower().startswith("data:image/") or not head.lower().endswith(";base64"):
        raise RequestRefused(f"a picture is {DATA_URI}; addresses are not fetched", param=param)
    try:
        data = base64.b64decode(coded, validate=True)
    except (binascii.Error, ValueError):
        raise RequestRefused("this is not base64", param=param) from None
    try:
        check_size(open_image(data), data, MAX_PIXELS)
    except BadImage as error:
        raise RequestRefused(error.reason, param=param) from None
    except Exception:  # on hostile bytes, Pillow's parsers raise nearly anything
        raise RequestRefused("not a picture that can be read", param=param) from None
    return data


def kind_of_picture(data: bytes) -> str | None:
    """The media type of a small picture of an index; None for anything else."""
    return next((kind for magic, kind in KINDS.items() if data.startswith(magic)), None)


def png_uri(labels: np.ndarray) -> str:
    """uint8 [H, W] as a data URI of a grey PNG."""
    file = io.BytesIO()
    Image.fromarray(labels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
