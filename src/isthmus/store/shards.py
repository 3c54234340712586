"""A shard: the features of some contents by one encoder, in one safetensors file that describes itself.

`features` [n, D] float16 (float32 where values overflow), `keys` [n, 16] uint8 (the content each row belongs
to), and in the header the encoder's fingerprint, the modality and a digest of the payload. A present key is done;
resuming, appending, deleting and several writers need no other book-keeping. A shard is named by its keys, so that the
same rows give the same name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from isthmus.encoders.uri import STATES
from isthmus.errors import InputError
from isthmus.store.blocks import DamagedShard, MappedArray, digest, read_described, read_keys, save_shard
from isthmus.store.keys import KEY_BYTES
from isthmus.store.ragged import RAGGED, RaggedShard, ragged_shard

FORMAT = "isthmus-shard/1"
NAME = re.compile(r"shard-[0-9a-f]{16}\.safetensors")
_DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}
_ROWS = 8192


@dataclass(frozen=True)
class Shard:
    """The header of a shard: where its arrays lie and which contents they belong to."""

    features: MappedArray
    keys_offset: int
    modality: str
    fingerprint: str
    digest: str

    @property
    def path(self) -> Path:
        return self.features.path

    @property
    def width(self) -> int:
        return self.features.shape[1]

    def keys(self) -> np.ndarray:
        """uint8 [n, 16], read into memory."""
        return read_keys(self.path, self.keys_offset, self.features.shape[0])

    def verify(self) -> None:
        """Read the whole payload; a `DamagedShard` error if it is not what was written."""
        if digest(self.keys(), self.features.map()) != self.digest:
            raise DamagedShard(f"{self.path}: damaged, its content does not match its digest.")

    def not_finite(self) -> int:
        """How many rows hold NaN or infinity."""
        features = self.features.map()
        parts = (features[start : start + _ROWS] for start in range(0, len(features), _ROWS))
        return sum(int((~np.isfinite(part).all(axis=1)).sum()) for part in parts)

    def keep(self, rows: np.ndarray) -> None:
        """Write these rows as a shard of their own."""
        features = np.asarray(self.features.map()[rows])
        write_shard(self.path.parent, self.modality, self.fingerprint, self.keys()[rows], features)


AnyShard = Shard | RaggedShard


def shard_folder(root: Path, modality: str, fingerprint: str) -> Path:
    """`features/<modality>/<first 12 digits of the fingerprint>`."""
    return root / "features" / modality / fingerprint[:12]


def shard_paths(folder: Path) -> list[Path]:
    """The shards of one encoder, by name; unfinished and foreign files are left out."""
    return sorted(path for path in folder.glob("shard-*") if NAME.fullmatch(path.name))


def write_shard(folder: Path, modality: str, fingerprint: str, keys: np.ndarray, features: np.ndarray) -> Path:
    """Write keys (uint8 [n, 16]) and features (float16 or float32 [n, D]) as one shard, atomically."""
    described = {
        "digest": digest(keys, features),
        "fingerprint": fingerprint,
        "format": FORMAT,
        "modality": modality,
    }
    return save_shard(folder, {"features": features, "keys": keys}, described)


def open_shard(path: Path) -> AnyShard:
    """Read a shard's header and check it against the file's size.

    Raises:
        DamagedShard: truncated, or not a shard.
    """
    try:
        header, start, described = read_described(path)
        if described["format"] == RAGGED:
            return ragged_shard(path, header, start, described)
        features, keys = header["features"], header["keys"]
        rows, width = features["shape"]
        if keys["dtype"] != "U8" or keys["shape"] != [rows, KEY_BYTES] or described["format"] != FORMAT:
            raise ValueError("not a shard of this format")
        block = MappedArray(path, start + features["data_offsets"][0], (rows, width), _DTYPES[features["dtype"]])
        keys_offset = start + keys["data_offsets"][0]
        owner = [str(described[name]) for name in ("modality", "fingerprint", "digest")]
        return Shard(block, keys_offset, *owner)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise DamagedShard(f"{path}: damaged or not a shard ({error}).") from None


def open_shards(root: Path, record: Mapping[str, Any]) -> list[AnyShard]:
    """Every shard of one encoder, checked to belong to that encoder.

    Raises:
        DamagedShard: one is truncated or not a shard.
        InputError: one was written by another encoder.
    """
    folder = shard_folder(root, record["modality"], record["fingerprint"])
    shards = [open_shard(path) for path in shard_paths(folder)]
    for shard in shards:
        check_owner(shard, record)
    return shards


def holds_states(record: Mapping[str, Any]) -> bool:
    """Whether the encoder that `record` describes gives the states of a layer, and so ragged shards."""
    return record.get("pool") == STATES


def check_owner(shard: AnyShard, record: Mapping[str, Any]) -> None:
    """An `InputError` if the shard is not of the encoder that `record` describes."""
    wanted = (record["modality"], record["fingerprint"], record["width"])
    found = (shard.modality, shard.fingerprint, shard.width)
    if holds_states(record) != isinstance(shard, RaggedShard):
        kind = "states" if holds_states(record) else "pooled features"
        raise InputError(f"{shard.path}: does not hold {kind}, as {record['uri']} gives. Move this file away.")
    if wanted != found:
        raise InputError(
            f"{shard.path}: written by another encoder than {record['uri']} (modality, fingerprint, width "
            f"{found}, not {wanted}). Move this file away and run the same `isthmus embed` again."
        )
