"""The features of one encoder on their way to disk: buffered, deduplicated, cut into shards."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.files import writing
from isthmus.store.keys import as_bytes
from isthmus.store.shards import DamagedShard, check_owner, open_shard, shard_folder, shard_paths, write_shard

SHARD_BYTES = 64 * 2**20
_FP16_MAX = float(np.finfo(np.float16).max)


class Stream:
    """Appends to one encoder's shards. A damaged shard is removed with a warning, and so computed again.

    Where shards are cut, and in which type each is, depends on the rows alone: never on time or on the shards
    before. known: the keys (16 bytes each) that are on disk or wait in memory. buffered: bytes that wait.
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

    def _clear(self) -> None:
        self._keys: list[np.ndarray] = []
        self._features: list[np.ndarray] = []
        self.buffered = 0

    def add(self, keys: np.ndarray, features: np.ndarray) -> None:
        """Buffer the rows (uint8 [n, 16], floats [n, D]) that are new; write a shard whenever one is full."""
        fresh = []
        for row, key in enumerate(as_bytes(keys)):
            if key not in self.known:
                self.known.add(key)
                fresh.append(row)
        if not fresh:
            return
        keys, features = keys[fresh], self._as_stored(features[fresh])
        if self._features and self._features[0].dtype != features.dtype:
            self.flush()
        row_bytes = features[0].nbytes
        capacity = max(1, SHARD_BYTES // row_bytes)
        while len(keys):
            room = capacity - self.buffered // row_bytes
            self._buffer(keys[:room], features[:room])
            if self.buffered >= capacity * row_bytes:
                self.flush()
            keys, features = keys[room:], features[room:]

    def _buffer(self, keys: np.ndarray, features: np.ndarray) -> None:
        self._keys.append(keys)
        self._features.append(features)
        self.buffered += features.nbytes

    def _as_stored(self, features: np.ndarray) -> np.ndarray:
        """Float16, or float32 where a value overflows it."""
        largest = float(np.abs(features).max())
        if largest <= _FP16_MAX:
            return features.astype(np.float16)
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.record['uri']}: values up to {largest:.3g} overflow float16; shards that hold such "
                "values are stored in float32 (twice the disk).",
                stacklevel=5,
            )
        return features.astype(np.float32)

    def flush(self) -> None:
        """Write what waits as one shard."""
        if self._keys:
            keys, features = np.concatenate(self._keys), np.concatenate(self._features)
            write_shard(self.folder, self.record["modality"], self.record["fingerprint"], keys, features)
            self._clear()
