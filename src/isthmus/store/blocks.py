"""The basis of both kinds of shards: arrays in a safetensors file that describes itself, named by its keys."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from safetensors import safe_open

from isthmus.errors import InputError
from isthmus.files import atomic_path
from isthmus.store.keys import KEY_BYTES
from isthmus.weights import read_header


class DamagedShard(InputError):
    """A shard whose header, size or digest is wrong: its rows are lost and must be computed again."""


@dataclass(frozen=True)
class MappedArray:
    """A [rows, width] array inside a file, at a byte offset."""

    path: Path
    offset: int
    shape: tuple[int, int]
    dtype: np.dtype

    def map(self) -> np.ndarray:
        """The array, memory-mapped; nothing is read yet."""
        if not self.shape[0]:
            return np.empty(self.shape, self.dtype)
        try:
            return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: changed while it was open ({error}). Open the store again.") from None

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def storage(self) -> Any:
        """The file up to the array's end as a mapped `torch.UntypedStorage`; unlike with `map`, no file stays open."""
        end = self.offset + self.nbytes
        try:
            if self.path.stat().st_size < end:
                raise OSError("it is shorter now")
            return torch.UntypedStorage.from_file(str(self.path), shared=False, nbytes=end)
        except (OSError, RuntimeError) as error:
            raise InputError(f"{self.path}: changed while it was open ({error}). Open the store again.") from None


def read_described(path: Path) -> tuple[dict[str, Any], int, dict[str, Any]]:
    """A shard's tensors by name, the byte at which their data begin, and its own description.

    Raises the errors of safetensors, JSON and dictionaries for a file that is not such a shard.
    """
    header, start = read_header(path)
    with safe_open(path, framework="numpy") as file:  # checks offsets, overlaps and the size of the file
        described = json.loads(file.metadata()["isthmus"])
    return header, start, described


def read_keys(path: Path, offset: int, rows: int) -> np.ndarray:
    """uint8 [rows, 16], read into memory."""
    return np.fromfile(path, np.uint8, rows * KEY_BYTES, offset=offset).reshape(rows, KEY_BYTES)


def save_shard(folder: Path, arrays: dict[str, np.ndarray], described: dict[str, Any]) -> Path:
    """Write arrays, `keys` (uint8 [n, 16]) among them, as one shard, atomically."""
    # One metadata entry: safetensors writes several in any order, but equal shards must be equal files.
    data = safetensors.numpy.save(arrays, {"isthmus": json.dumps(described)})
    name = hashlib.blake2b(arrays["keys"].tobytes(), digest_size=8).hexdigest()
    path = folder / f"shard-{name}.safetensors"
    with atomic_path(path) as aside:
        aside.write_bytes(data)
    return path


def digest(*arrays: np.ndarray) -> str:
    """A digest of the bytes of all arrays in order; 32 hex digits."""
    found = hashlib.blake2b(digest_size=KEY_BYTES)
    for array in arrays:
        found.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return found.hexdigest()
