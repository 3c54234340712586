"""Content keys: 16 bytes of BLAKE2b that identify an image's bytes or a caption's text.

In tables a key is written as 32 hex digits (`content_hash`), in shards and in memory as 16 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from isthmus.data.contents import KEY_BYTES
from isthmus.data.images import content_hash

HASH_PATTERN = r"^[0-9a-f]{32}$"


def text_hash(text: str) -> str:
    """The content hash of a caption: BLAKE2b-128 of its UTF-8 bytes, 32 hex digits."""
    return content_hash(text.encode())


def to_keys(hashes: Iterable[str]) -> np.ndarray:
    """Content hashes (32 hex digits each) as keys, uint8 [n, 16]."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(-1, KEY_BYTES)


def to_hashes(keys: np.ndarray) -> list[str]:
    """Keys, uint8 [n, 16], as content hashes."""
    return [key.tobytes().hex() for key in keys]


def as_bytes(keys: np.ndarray) -> Sequence[bytes]:
    """Keys, uint8 [n, 16], as Python bytes: for sets."""
    return [key.tobytes() for key in keys]


class KeyIndex:
    """Finds keys among many: the row of each, by binary search over a sorted copy (24 bytes a key).

    A repeated key is found at its first row.
    """

    def __init__(self, keys: np.ndarray) -> None:
        flat = _comparable(keys)
        self._order = np.argsort(flat, kind="stable")
        self._sorted = flat[self._order]

    def find(self, keys: np.ndarray) -> np.ndarray:
        """int64 [m]: the row of each of `keys` (uint8 [m, 16]), -1 where it is absent."""
        if not len(self._sorted):
            return np.full(len(keys), -1, np.int64)
        flat = _comparable(keys)
        place = np.searchsorted(self._sorted, flat).clip(max=len(self._sorted) - 1)
        return np.where(self._sorted[place] == flat, self._order[place], -1)


def _comparable(keys: np.ndarray) -> np.ndarray:
    """Keys as NumPy byte strings of one width, which sort and compare exactly."""
    return np.ascontiguousarray(keys, np.uint8).reshape(-1, KEY_BYTES).view(f"S{KEY_BYTES}").ravel()
