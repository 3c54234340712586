"""A ragged shard: the states of one layer of some contents, in one safetensors file that describes itself.

`values` [ΣT, D] float16 (float32 where values overflow, or int8 with `scale` float32 [ΣT], a factor for each row),
`offsets` int64 [n], the row at which each item begins, and `keys` [n, 16] uint8, the content of each item. The header
has the fields of a shard of pooled features, and `rate_hz`. It is named, resumed and removed in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.ragged import Ragged, lengths
from isthmus.store.blocks import DamagedShard, MappedArray, digest, read_keys, save_shard
from isthmus.store.keys import KEY_BYTES

RAGGED = "isthmus-shard/2"
_DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "I8": np.dtype("i1")}
_ROWS = 8192


@dataclass(frozen=True)
class RaggedShard:
    """The header of a ragged shard: where its arrays lie and which items they belong to. offsets: read into memory."""

    values: MappedArray
    scale: MappedArray | None
    offsets: np.ndarray
    keys_offset: int
    modality: str
    fingerprint: str
    digest: str
    rate_hz: float | None

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def path(self) -> Path:
        return self.values.path

    @property
    def width(self) -> int:
        return self.values.shape[1]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each item, int64 [n]."""
        return lengths(self.offsets, self.values.shape[0])

    def keys(self) -> np.ndarray:
        """uint8 [n, 16], read into memory."""
        return read_keys(self.path, self.keys_offset, len(self))

    def map(self) -> Ragged:
        """Its items, memory-mapped."""
        scale = None if self.scale is None else self.scale.map()[:, 0]
        return Ragged(self.values.map(), self.offsets, scale, self.rate_hz)

    def verify(self) -> None:
        """Read the whole payload; a `DamagedShard` error if it is not what was written."""
        if _digest(self.keys(), self.map()) != self.digest:
            raise DamagedShard(f"{self.path}: damaged, its content does not match its digest.")

    def not_finite(self) -> int:
        """How many tokens hold NaN or infinity."""
        held = self.map()
        checked = held.values if held.scale is None else held.scale[:, None]
        parts = (checked[start : start + _ROWS] for start in range(0, len(checked), _ROWS))
        return sum(int((~np.isfinite(part).all(axis=1)).sum()) for part in parts)

    def keep(self, rows: np.ndarray) -> None:
        """Write these items as a shard of their own."""
        write_ragged(self.path.parent, self.modality, self.fingerprint, self.keys()[rows], self.map().take(rows))


def write_ragged(folder: Path, modality: str, fingerprint: str, keys: np.ndarray, items: Ragged) -> Path:
    """Write keys (uint8 [n, 16]) and n items (float16, float32, or int8 with scale) as one shard, atomically."""
    described = {
        "digest": _digest(keys, items),
        "fingerprint": fingerprint,
        "format": RAGGED,
        "modality": modality,
        "rate_hz": items.rate_hz,
    }
    arrays = {"keys": keys, "offsets": items.offsets, "values": np.ascontiguousarray(items.values)}
    if items.scale is not None:
        arrays["scale"] = np.ascontiguousarray(items.scale)
    return save_shard(folder, arrays, described)


def ragged_shard(path: Path, header: dict[str, Any], start: int, described: dict[str, Any]) -> RaggedShard:
    """The shard of a header that `read_described` gave. ValueError, KeyError or TypeError: it is not sound."""
    values, keys, offsets = header["values"], header["keys"], header["offsets"]
    (rows, width), (count, _) = values["shape"], keys["shape"]
    if not width or keys["dtype"] != "U8" or keys["shape"] != [count, KEY_BYTES]:
        raise ValueError("not a shard of this format")
    if offsets["dtype"] != "I64" or offsets["shape"] != [count]:
        raise ValueError("its offsets are not one whole number per item")
    rate = described["rate_hz"]
    if rate is not None and not (isinstance(rate, int | float) and 0 < rate < np.inf):
        raise ValueError(f"rate_hz is {rate!r}")
    dtype = _DTYPES[values["dtype"]]
    begins = np.fromfile(path, "<i8", count, offset=start + offsets["data_offsets"][0])
    _check_offsets(begins, rows)
    return RaggedShard(
        MappedArray(path, start + values["data_offsets"][0], (rows, width), dtype),
        _scale(path, header, start, rows) if dtype.kind == "i" else None,
        begins,
        start + keys["data_offsets"][0],
        str(described["modality"]),
        str(described["fingerprint"]),
        str(described["digest"]),
        rate,
    )


def _scale(path: Path, header: dict[str, Any], start: int, rows: int) -> MappedArray:
    scale = header["scale"]
    if scale["dtype"] != "F32" or scale["shape"] != [rows]:
        raise ValueError("its scale is not one float per token")
    return MappedArray(path, start + scale["data_offsets"][0], (rows, 1), np.dtype("<f4"))


def _check_offsets(offsets: np.ndarray, rows: int) -> None:
    """Offsets start at 0, never decrease and never exceed the data, so every token belongs to exactly one item."""
    if len(offsets) == 0:
        if rows:
            raise ValueError("tokens of no item")
    elif offsets[0] != 0 or offsets[-1] > rows or (offsets[1:] < offsets[:-1]).any():
        raise ValueError("its offsets are out of order, overlap or lie beyond the data")


def _digest(keys: np.ndarray, items: Ragged) -> str:
    return digest(keys, items.offsets, items.values, *([] if items.scale is None else [items.scale]))
