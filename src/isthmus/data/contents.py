"""Eight bytes that stand for an item's content: what it is remembered by, whatever it is called and wherever it lies.

They are the first half of the content keys that a store has (`isthmus.store.keys`), so that a picture is the same item
in a store, in a table and in a folder. Features without pictures have the hash of their numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from isthmus.data.images import content_hash
from isthmus.data.matrix import Matrix, rows, rows_at_once

ITEM_BYTES, KEY_BYTES = 8, 16
LEAST_WORDS = 4  # captions of fewer words are equal by chance ("a dog")


def items_of_keys(keys: np.ndarray) -> np.ndarray:
    """Content keys, uint8 [n, 16], as items, uint64 [n]."""
    return np.ascontiguousarray(keys[:, :ITEM_BYTES]).view("<u8").ravel().astype(np.uint64)


def items_of_hashes(hashes: Sequence[str]) -> np.ndarray:
    """Content hashes, 32 hex digits each, as items, uint64 [n]."""
    data = bytes.fromhex("".join(one[: 2 * ITEM_BYTES] for one in hashes))
    return np.frombuffer(data, "<u8").astype(np.uint64)


def items_of_texts(texts: Sequence[str]) -> np.ndarray:
    """Captions as items, uint64 [n]: equal ones, letter for letter, are the same."""
    return items_of_hashes([content_hash(text.encode("utf-8", "surrogatepass")) for text in texts])


def items_of_rows(matrix: Matrix) -> np.ndarray:
    """Features [n, width] as items, uint64 [n]: equal rows are the same, compared as float32. Reads all of them."""
    found = np.empty(matrix.shape[0], "<u8")
    height = rows_at_once(matrix.shape[1])
    for start in range(0, len(found), height):
        for row, values in enumerate(rows(matrix, slice(start, start + height)), start):
            digest = hashlib.blake2b(np.ascontiguousarray(values, "<f4").tobytes(), digest_size=ITEM_BYTES).digest()
            found[row] = int.from_bytes(digest, "little")
    return found.astype(np.uint64)
