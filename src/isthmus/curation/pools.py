"""Pools: the pairs to choose from, behind one small protocol.

A row of a pool is a caption with its image. Rows are read by number, in ranges. Any process can read any part again in
any order, which is all that resuming and sharding need.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from isthmus.data.encoder_record import EncoderRecord
from isthmus.data.matrix import Computed, Matrix, evenly, rows
from isthmus.data.pairs import Pairs
from isthmus.encoders.pictures import encode_each
from isthmus.errors import InputError, UsageError

PoolSide = Literal["caption", "image"]
SIDES: tuple[PoolSide, ...] = ("caption", "image")
MODALITY = {"caption": "text", "image": "image"}


class Pool(Protocol):
    """Rows 0 … len − 1. All methods may be called for any rows, in any order, by several processes.

    name: for messages. pairs: how many pairs the rows belong to. widths: width of the features of each side that
    has any. fingerprint: changes with the content, so that the checkpoint of another pool is refused.
    """

    name: str
    pairs: int
    widths: dict[PoolSide, int]
    fingerprint: str

    def __len__(self) -> int: ...

    def features(self, side: PoolSide, start: int, stop: int) -> np.ndarray:
        """Float [stop − start, width]; a row of NaN or zeros has no features and is never chosen."""

    def captions(self, index: np.ndarray) -> list[str | None]:
        """Captions of rows int64 [n]."""

    def ids(self, index: np.ndarray) -> list[str]:
        """Ids of the pairs that rows int64 [n] belong to."""

    def units(self, index: np.ndarray) -> np.ndarray:
        """int64 [n], 0 … pairs − 1: equal for rows of one pair (captions of one image), of which one is chosen."""


@dataclass
class MatrixPool:
    """A pool whose ids are in memory: a store, arrays, or pairs that an encoder reads as they are scored.

    matrices: by side, features [n, width]. places: by side, int64 [rows], the row of `matrices` for each row; None: the
    same row. names [U]: ids of the pairs. unit int64 [rows]: the pair of each row; None: row i is pair i.
    texts: captions by row. usable: bool [rows], True where a row may be chosen; None: all.
    records: of the encoders of a store, by modality. opened: the store, pairs or `FeaturePairs` behind it, if any.
    notes: remarks on the data, for the user. skipped: (id, reason) of what was left out while reading.
    """

    name: str
    matrices: dict[PoolSide, Matrix]
    names: Sequence[str]
    places: dict[PoolSide, np.ndarray] = field(default_factory=dict)
    unit: np.ndarray | None = None
    texts: Sequence[str | None] | None = None
    usable: np.ndarray | None = None
    records: dict[str, list[EncoderRecord]] = field(default_factory=dict)
    fingerprint: str = ""
    opened: Any = None
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pairs = len(self.names)
        self.widths = {side: matrix.shape[1] for side, matrix in self.matrices.items()}
        self.fingerprint = self.fingerprint or digest(self.names, self.matrices)

    def __len__(self) -> int:
        return len(self.names) if self.unit is None else len(self.unit)

    def features(self, side: PoolSide, start: int, stop: int) -> np.ndarray:
        place = self.places.get(side)
        found = rows(self.matrices[side], slice(start, stop) if place is None else place[start:stop])
        if self.usable is not None and not self.usable[start:stop].all():
            found = np.where(self.usable[start:stop, None], found, np.nan)
        return found

    def captions(self, index: np.ndarray) -> list[str | None]:
        return [None] * len(index) if self.texts is None else [self.texts[row] for row in index.tolist()]

    def ids(self, index: np.ndarray) -> list[str]:
        return [self.names[pair] for pair in self.units(index).tolist()]

    def units(self, index: np.ndarray) -> np.ndarray:
        return index if self.unit is None else self.unit[index]


def side_names(pool: Pool, sides: str) -> tuple[PoolSide, ...]:
    """`--sides` as sides of the pool; UsageError for another word, InputError for a side without features."""
    if sides not in (*SIDES, "both"):
        raise UsageError(f"sides={sides!r}: it is caption, image or both.")
    wanted: tuple[PoolSide, ...] = SIDES if sides == "both" else tuple(side for side in SIDES if side == sides)
    for side in wanted:
        if side not in pool.widths:
            raise InputError(
                f"{pool.name}: has no {side} features, only {' and '.join(pool.widths) or 'none'}. Choose --sides, or "
                "embed the pairs first (isthmus embed)."
            )
    return wanted


def reading_notes(pairs: Pairs) -> list[str]:
    """Remarks on pairs, with one on the rows left out while reading."""
    if not pairs.skipped:
        return pairs.notes
    first = ": ".join(pairs.skipped[0])
    return [*pairs.notes, f"{pairs.path}: {len(pairs.skipped):,} were left out while reading; the first: {first}"]


class RowNumbers(Sequence[str]):
    """Row numbers "0", "1", … as ids, computed on demand to save memory."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: Any) -> Any:
        return str(row)


def encoded(
    items: Sequence[Any] | Pairs, encode: Any, refuse: Callable[[int, Exception], Any] = lambda row, error: None
) -> Computed:
    """Features [n, width] of texts or pictures, encoded when they are read; NaN for a picture that cannot be used.

    refuse: gets the row and the error of such a picture, each time it is read.
    """

    def gather(index: np.ndarray) -> np.ndarray:
        out = np.full((len(index), encode.width), np.nan, np.float32)
        if not isinstance(items, Pairs):
            return encode([items[row] for row in index.tolist()]) if len(index) else out
        rows = index.tolist()
        some = encode_each(
            len(rows), lambda place: items.decode(rows[place]), encode, lambda place, error: refuse(rows[place], error)
        )
        for places, features in some:
            out[places] = features
        return out

    return Computed((len(items), encode.width), gather)


def digest(names: Sequence[str], matrices: dict[PoolSide, Matrix]) -> str:
    """A quick hash of the ids and of some rows of each matrix, to recognise a pool."""
    named = f"{len(names)} rows" if isinstance(names, RowNumbers) else "\n".join(names)
    digest = hashlib.blake2b(named.encode(), digest_size=16)
    for side, matrix in matrices.items():
        some = evenly(matrix.shape[0], 64)
        digest.update(f"{side}{list(matrix.shape)}".encode() + np.ascontiguousarray(rows(matrix, some)).tobytes())
    return digest.hexdigest()
