"""Smaller embeddings: fewer dimensions, one byte or one bit per dimension; and how to compare them.

docs/outputs.md measures what each costs.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from isthmus.data.matrix import OnDemand
from isthmus.errors import InputError, UsageError, did_you_mean

Precision = Literal["float32", "int8", "binary"]
PRECISIONS = ("float32", "int8", "binary")


def shorten(emb: np.ndarray, width: int | None) -> np.ndarray:
    """The first `width` dimensions of [N, d], L2-normalised again; None keeps all. Float32.

    Of a model trained with `loss.matryoshka`, or of CCA, whose directions fall in weight, the first dimensions carry
    most.
    Raises `UsageError` for a width that is not within 1 … d.
    """
    if width is None or width == emb.shape[1]:
        return emb
    if not 1 <= width <= emb.shape[1]:
        raise UsageError(f"width={width}: these embeddings have 1 to {emb.shape[1]} dimensions.")
    short = np.asarray(emb[:, :width], np.float32)
    return short / np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-12)


def quantize(emb: np.ndarray, precision: str) -> np.ndarray:
    """Embeddings, float [N, d], in fewer bytes.

    "float32": as they are. "int8": [N, d], each row times 127 / its greatest magnitude, rounded; a row's scale does
    not change its cosines, so none is kept. "binary": uint8 [N, ⌈d / 8⌉], a bit per dimension, set where it is
    positive, first dimension in the highest bit. Raises `UsageError` for another name.
    """
    if precision == "float32":
        return np.asarray(emb, np.float32)
    if precision == "int8":
        largest = np.abs(emb).max(axis=1, keepdims=True)
        return np.rint(emb * (127 / np.maximum(largest, 1e-30))).astype(np.int8)
    if precision == "binary":
        return np.packbits(np.asarray(emb) > 0, axis=1)
    raise UsageError(f"precision={precision!r}: float32, int8 or binary." + did_you_mean(str(precision), PRECISIONS))


class Decoded(OnDemand):
    """Codes of `quantize` as rows [N, d] of float32, decoded as they are sliced.

    `top_k`, `retrieval` and the rest take it in place of embeddings; `top_k` holds no more than a tile decoded. Bits
    decode to ±1: the cosine of two such rows is 1 − 2 · Hamming distance / d, and that of a float query with one is the
    asymmetric comparison, which keeps the query's precision at no cost in storage.

    codes: int8 [N, d], or uint8 [N, ⌈d / 8⌉] with `width` d (default: 8 bits of every byte).
    Raises `InputError` for codes of another type or too few bits.
    """

    def __init__(self, codes: np.ndarray, width: int | None = None) -> None:
        if codes.ndim != 2 or codes.dtype not in (np.dtype(np.int8), np.dtype(np.uint8)):
            raise InputError(f"Codes are int8 [N, d] or packed bits uint8 [N, d / 8], not {codes.dtype} {codes.shape}.")
        self.codes, self.bits = codes, codes.dtype == np.uint8
        held = 8 * codes.shape[1] if self.bits else codes.shape[1]
        if not held - (7 if self.bits else 0) <= (width or held) <= held:
            raise InputError(f"Codes of {codes.shape[1]} bytes hold {held} dimensions, not {width}.")
        self.shape = (len(codes), width or held)

    def gather(self, index: np.ndarray) -> np.ndarray:
        return self[index]

    def __getitem__(self, some: Any) -> np.ndarray:
        codes = self.codes[some]
        if not self.bits:
            return codes.astype(np.float32)
        return np.unpackbits(codes, axis=-1, count=self.shape[1]).astype(np.float32) * 2 - 1

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows decoded."""
        return self[:] if dtype is None else self[:].astype(dtype)
