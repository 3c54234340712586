"""The values of table cells in the forms that libraries write: captions, short texts, pictures as text."""

from __future__ import annotations

import ast
import base64
import binascii
import json
import re
from typing import Any

import numpy as np

MAX_NESTED = 8  # lists and objects inside each other around a caption
MAX_EXACT = 2.0**53  # beyond, a float64 no longer holds every whole number
TEXT_KEYS = ("raw", "caption", "captions", "text", "sentence", "sentences", "value")  # of captions that are objects
QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|None|nan)"""
# Possessive quantifiers, so that a hostile cell with much white space cannot take quadratic time.
LITERAL = re.compile(rf"(?:array\()?[\[(]\s*{QUOTED}(?:\s*,\s*{QUOTED}|\s+{QUOTED})*+\s*+,?\s*+[\])](?:, dtype=\w+\))?")
# How pictures begin in base64: JPEG, PNG, WebP, GIF, TIFF, BMP.
BASE64_STARTS = ("/9j/", "iVBORw0KGgo", "UklGR", "R0lGOD", "SUkqA", "TU0AK", "Qk")
BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
LEAST_BASE64 = 48  # characters: pictures are longer, file names that look like base64 hardly ever
FETCH = (
    "its image is a URL, and pictures are not fetched: fetch them with img2dataset (or another tool) and give its tars."
)
URL = re.compile(r"[a-z][a-z0-9+.-]{1,9}://", re.IGNORECASE)


def plain(value: Any) -> Any:
    """NumPy's scalars and arrays, and objects that hold bytes, as Python's own."""
    if isinstance(value, np.ndarray):
        return [plain(one) for one in value.tolist()] if value.ndim else value.item()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    return tuple(value) if isinstance(value, set | frozenset) else value


def as_captions(value: Any, depth: int = 0) -> list[Any]:
    """A cell as a list of captions, each as it is: text, or whatever else is there.

    Lists (also NumPy's, and lists of objects such as Karpathy's sentences) are lists; a text that is a list written
    out, by Python, NumPy or as JSON, is one too; bytes are UTF-8 where they can be. depth: of lists around this one;
    what is nested deeper than `MAX_NESTED` is left as it is.
    """
    value = plain(value)
    if value is None or is_nan(value):
        return [] if value is None else [value]
    if isinstance(value, bytes):
        value = _utf8(value)
    if isinstance(value, str):
        return written_list(value) or [value]
    if isinstance(value, dict):
        key = next((key for key in TEXT_KEYS if key in value), None)
        return [value] if key is None or depth > MAX_NESTED else as_captions(value[key], depth + 1)
    if not isinstance(value, list | tuple) or depth > MAX_NESTED:
        return [value]
    return [caption for one in value for caption in _element(plain(one), depth + 1)]


def _element(value: Any, depth: int) -> list[Any]:
    if isinstance(value, bytes):
        return [_utf8(value)]
    return as_captions(value, depth) if isinstance(value, dict | list | tuple) else [value]


def _utf8(value: bytes) -> str | bytes:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def written_list(text: str) -> list[Any] | None:
    """The elements of a list of texts that was written out as text (`['a', 'b']`, `["a"]`, NumPy's `['a' 'b']`)."""
    text = text.strip()
    if text[:1] not in ("[", "(", "a") or text[-1:] not in ("]", ")"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        if not LITERAL.fullmatch(text):
            return None
        inside = text[text.index("array(") + 6 if text.startswith("array(") else 0 :]
        quoted = re.findall(QUOTED, inside.rpartition(", dtype=")[0] or inside)
        return [None if one in ("None", "nan") else ast.literal_eval(one) for one in quoted]
    texts = isinstance(found, list) and all(one is None or isinstance(one, str | dict) for one in found)
    return [text for one in found for text in _element(one, 1)] if texts and found else None


def is_nan(value: Any) -> bool:
    """Whether this is NaN, or pandas' NaT or NA: a missing value."""
    try:
        return bool(value != value)
    except (TypeError, ValueError):  # pandas' NA has no truth value
        return True


def is_url(cell: str) -> bool:
    """Whether a path is the address of something that is not on this machine."""
    return URL.match(cell) is not None


def base64_picture(cell: str) -> bytes | None:
    """The bytes of a picture written in base64, alone or as a data URI; None for any other text, such as a path."""
    if cell.startswith("data:"):
        cell = cell.partition(",")[2]
    elif not cell.startswith(BASE64_STARTS) or len(cell) < LEAST_BASE64 or not BASE64.fullmatch(cell):
        return None
    try:
        return base64.b64decode(cell, validate=False)
    except (binascii.Error, ValueError):
        return None


def is_inline(cell: Any) -> bool:
    """Whether a cell is the picture itself and not the path of one; looks at its beginning only."""
    if not isinstance(cell, str):
        return not isinstance(cell, dict) or cell.get("bytes") is not None
    return cell.startswith("data:") or (
        cell.startswith(BASE64_STARTS) and len(cell) >= LEAST_BASE64 and BASE64.fullmatch(cell[:4096]) is not None
    )
