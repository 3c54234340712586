"""Writes the features of one encoder: buffered, deduplicated, cut into shards."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.matrix import LARGEST
from isthmus.data.ragged import Ragged, join_ragged
from isthmus.errors import InputError
from isthmus.files import writing
from isthmus.store.blocks import DamagedShard
from isthmus.store.keys import as_bytes
from isthmus.store.ragged import write_ragged
from isthmus.store.shards import check_owner, holds_states, open_shard, shard_folder, shard_paths, write_shard

SHARD_BYTES = 64 * 2**20
_FP16_MAX = float(np.finfo(np.float16).max)


class Stream:
    """Appends to one encoder's shards. A damaged shard is removed with a warning, so that its rows are computed again.

    Where shards are cut, and their type, depends on the rows alone, not on time or earlier shards. known: the keys (16
    bytes each) that are on disk or wait in memory. buffered: bytes that wait.
    """

    def __init__(self, root: Path, record: dict[str, Any]) -> None:
        self.record = record
        self.folder = shard_folder(root, record["modality"], record["fingerprint"])
        self.known: set[bytes] = set()
        self._warned = False
        self._clear()
        for path in shard_paths(self.folder):
            self._resume(path)

    def _resume(self, path: Path) -> None:
        try:
            shard = open_shard(path)
        except DamagedShard as error:
            warnings.warn(f"{error} Removed; its rows are computed again.", stacklevel=5)
            with writing(path):
                path.unlink()
            return
        check_owner(shard, self.record)
        self.known.update(as_bytes(shard.keys()))

    def checked(self, keys: np.ndarray, features: Any) -> Any:
        """The rows as an array; `InputError` where their shapes are not the encoder's."""
        features = np.asarray(features)
        if keys.shape != (len(features), 16) or features.shape[1:] != (self.record["width"],):
            raise InputError(
                f"{self.record['uri']}: features {features.shape} and keys {keys.shape}; expected "
                f"[n, {self.record['width']}] and [n, 16]."
            )
        return features

    def unusable(self, features: Any) -> np.ndarray:
        """Which items hold NaN, infinity or values too large to compute with, int64."""
        return np.flatnonzero(~_usable(features).all(axis=1))

    def add(self, keys: np.ndarray, features: Any) -> None:
        """Buffer the items (uint8 [n, 16], features) that are new; write a shard whenever no more fits into one."""
        fresh = []
        for row, key in enumerate(as_bytes(keys)):
            if key not in self.known:
                self.known.add(key)
                fresh.append(row)
        if not fresh:
            return
        keys, features = keys[fresh], self._as_stored(self._take(features, np.array(fresh)))
        if self._features and self._kind(self._features[0]) != self._kind(features):
            self.flush()
        ends = np.cumsum(self._item_bytes(features))
        start = 0
        while start < len(keys):
            gone = int(ends[start - 1]) if start else 0
            stop = int(np.searchsorted(ends, SHARD_BYTES - self.buffered + gone, side="right"))
            if stop <= start and self._keys:
                self.flush()
                continue
            stop = max(stop, start + 1)
            self._keys.append(keys[start:stop])
            self._features.append(self._take(features, slice(start, stop)))
            self.buffered += int(ends[stop - 1]) - gone
            start = stop

    def flush(self) -> None:
        """Write the buffered rows as one shard."""
        if self._keys:
            self._write(np.concatenate(self._keys), self._features)
            self._clear()

    def _clear(self) -> None:
        self._keys: list[np.ndarray] = []
        self._features: list[Any] = []
        self.buffered = 0

    def _as_stored(self, features: Any) -> Any:
        return self._narrowed(features)

    def _take(self, features: Any, rows: np.ndarray | slice) -> Any:
        return features[rows]

    def _kind(self, features: Any) -> np.dtype:
        return features.dtype

    def _item_bytes(self, features: Any) -> np.ndarray:
        return np.full(len(features), features[0].nbytes)

    def _write(self, keys: np.ndarray, features: list[Any]) -> None:
        owner = self.record["modality"], self.record["fingerprint"]
        write_shard(self.folder, *owner, keys, np.concatenate(features))

    def _narrowed(self, values: np.ndarray) -> np.ndarray:
        """Float16, or float32 if a value overflows."""
        largest = float(np.abs(values).max(initial=0))
        if largest <= _FP16_MAX:
            return values.astype(np.float16)
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.record['uri']}: values up to {largest:.3g} overflow float16; shards that hold such "
                "values are stored in float32 (twice the disk).",
                stacklevel=6,
            )
        return values.astype(np.float32)


class RaggedStream(Stream):
    """The same for the states of a layer: items of different lengths."""

    def checked(self, keys: np.ndarray, features: Any) -> Any:
        if not isinstance(features, Ragged):
            raise InputError(f"{self.record['uri']}: gives states, not one row of features for each item.")
        shape = features.values.shape
        if keys.shape != (len(features), 16) or shape[1:] != (self.record["width"],):
            raise InputError(
                f"{self.record['uri']}: states {shape} of {len(features)} items and keys {keys.shape}; expected "
                f"[tokens, {self.record['width']}] and [items, 16]."
            )
        return features

    def unusable(self, features: Any) -> np.ndarray:
        tokens = np.flatnonzero(~_usable(features.values).all(axis=1))
        return np.unique(np.searchsorted(features.offsets, tokens, side="right") - 1)

    def _as_stored(self, features: Any) -> Any:
        if self.record.get("stored") == "int8":
            return features.to_int8()
        return replace(features, values=self._narrowed(features.values))

    def _take(self, features: Any, rows: np.ndarray | slice) -> Any:
        return features.take(np.arange(len(features))[rows])

    def _kind(self, features: Any) -> np.dtype:
        return features.values.dtype

    def _item_bytes(self, features: Any) -> np.ndarray:
        return features.item_bytes

    def _write(self, keys: np.ndarray, features: list[Any]) -> None:
        owner = self.record["modality"], self.record["fingerprint"]
        write_ragged(self.folder, *owner, keys, join_ragged(features))


def stream_of(root: Path, record: dict[str, Any]) -> Stream:
    """The stream of what the encoder of `record` gives: pooled features or states."""
    return (RaggedStream if holds_states(record) else Stream)(root, record)


def _usable(values: np.ndarray) -> np.ndarray:
    """Which numbers are usable: finite and not too large; no finite float16 is too large."""
    finite = np.isfinite(values)
    return finite if values.dtype.itemsize <= 2 else finite & (np.abs(values) <= LARGEST)
