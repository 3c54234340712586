"""A shard: the features of some contents by one encoder, in one safetensors file that describes itself.

`features` [n, D] float16 (float32 where values overflow), `keys` [n, 16] uint8 (the content each row belongs
to), and in the header the encoder's fingerprint, the modality and a digest of the payload. A key that is
present is done: resume, append, delete and several writers need no other book-keeping. A shard is named by
its keys, so that the same rows give the same name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from safetensors import SafetensorError, safe_open

from isthmus.errors import InputError
from isthmus.files import atomic_path
from isthmus.store.keys import KEY_BYTES
from isthmus.weights import read_header

FORMAT = "isthmus-shard/1"
NAME = re.compile(r"shard-[0-9a-f]{16}\.safetensors")
MODALITIES = ("image", "text")
_DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}


class DamagedShard(InputError):
    """A shard whose header, size or digest is wrong: its rows are lost and must be computed again."""


@dataclass(frozen=True)
class Block:
    """A [rows, width] array inside a file, at a byte offset."""

    path: Path
    offset: int
    shape: tuple[int, int]
    dtype: np.dtype

    def map(self) -> np.ndarray:
        """The array, memory-mapped; nothing is read yet."""
        try:
            return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: changed while it was open ({error}). Open the store again.") from None

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def storage(self) -> Any:
        """The file up to the array's end as a mapped `torch.UntypedStorage`; unlike `map`, it keeps no file open."""
        end = self.offset + self.nbytes
        try:
            if self.path.stat().st_size < end:
                raise OSError("it is shorter now")
            return torch.UntypedStorage.from_file(str(self.path), shared=False, nbytes=end)
        except (OSError, RuntimeError) as error:
            raise InputError(f"{self.path}: changed while it was open ({error}). Open the store again.") from None


@dataclass(frozen=True)
class Shard:
    """The header of a shard: where its arrays lie and whose they are."""

    features: Block
    keys_offset: int
    modality: str
    fingerprint: str
    digest: str

    @property
    def path(self) -> Path:
        return self.features.path

    def keys(self) -> np.ndarray:
        """uint8 [n, 16], read into memory."""
        rows = self.features.shape[0]
        try:
            flat = np.fromfile(self.path, np.uint8, rows * KEY_BYTES, offset=self.keys_offset)
            return flat.reshape(rows, KEY_BYTES)
        except (OSError, ValueError) as error:
            raise DamagedShard(f"{self.path}: cannot be read ({error}).") from None

    def verify(self) -> None:
        """Read the whole payload; a `DamagedShard` error if it is not what was written."""
        if _digest(self.keys(), self.features.map()) != self.digest:
            raise DamagedShard(f"{self.path}: damaged, its content does not match its digest.")


def shard_folder(root: Path, modality: str, fingerprint: str) -> Path:
    """`features/<modality>/<first 12 digits of the fingerprint>`."""
    return root / "features" / modality / fingerprint[:12]


def shard_paths(folder: Path) -> list[Path]:
    """The shards of one encoder, by name; unfinished and foreign files are left out."""
    return sorted(path for path in folder.glob("shard-*") if NAME.fullmatch(path.name))


def write_shard(folder: Path, modality: str, fingerprint: str, keys: np.ndarray, features: np.ndarray) -> Path:
    """Write keys (uint8 [n, 16]) and features (float16 or float32 [n, D]) as one shard, atomically."""
    described = {
        "digest": _digest(keys, features),
        "fingerprint": fingerprint,
        "format": FORMAT,
        "modality": modality,
    }
    # One metadata entry: safetensors writes several in any order, and equal shards shall be equal files.
    data = safetensors.numpy.save({"features": features, "keys": keys}, {"isthmus": json.dumps(described)})
    name = hashlib.blake2b(keys.tobytes(), digest_size=8).hexdigest()
    path = folder / f"shard-{name}.safetensors"
    with atomic_path(path) as aside:
        aside.write_bytes(data)
    return path


def open_shard(path: Path) -> Shard:
    """Read a shard's header and check it against the file's size.

    Raises:
        DamagedShard: truncated, or not a shard.
    """
    try:
        header, start = read_header(path)
        with safe_open(path, framework="numpy") as file:  # checks offsets, overlaps and the size of the file
            described = json.loads(file.metadata()["isthmus"])
        features, keys = header["features"], header["keys"]
        rows, width = features["shape"]
        if keys["dtype"] != "U8" or keys["shape"] != [rows, KEY_BYTES] or described["format"] != FORMAT:
            raise ValueError("not a shard of this format")
        block = Block(path, start + features["data_offsets"][0], (rows, width), _DTYPES[features["dtype"]])
        keys_offset = start + keys["data_offsets"][0]
        owner = [str(described[name]) for name in ("modality", "fingerprint", "digest")]
        return Shard(block, keys_offset, *owner)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise DamagedShard(f"{path}: damaged or not a shard ({error}).") from None


def open_shards(root: Path, record: Mapping[str, Any]) -> list[Shard]:
    """Every shard of one encoder, checked to be that encoder's.

    Raises:
        DamagedShard: one is truncated or not a shard.
        InputError: one was written by another encoder.
    """
    folder = shard_folder(root, record["modality"], record["fingerprint"])
    shards = [open_shard(path) for path in shard_paths(folder)]
    for shard in shards:
        check_owner(shard, record)
    return shards


def check_owner(shard: Shard, record: Mapping[str, Any]) -> None:
    """An `InputError` if the shard is not of the encoder that `record` describes."""
    wanted = (record["modality"], record["fingerprint"], record["width"])
    found = (shard.modality, shard.fingerprint, shard.features.shape[1])
    if wanted != found:
        raise InputError(
            f"{shard.path}: written by another encoder than {record['uri']} (modality, fingerprint, width "
            f"{found}, not {wanted}). Move this file away and run the same `isthmus embed` again."
        )


def _digest(keys: np.ndarray, features: np.ndarray) -> str:
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for array in (keys, features):
        digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return digest.hexdigest()
