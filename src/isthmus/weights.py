"""Tensors in safetensors files: written atomically, and read only if they are unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isthmus.errors import InputError
from isthmus.files import file_digest, write_atomic
from isthmus.owned import regular

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

CONFIG, WEIGHTS = "config.json", "model.safetensors"  # of a saved model
MAX_HEADER = 2**20  # bytes; ours take some thousand, and parsed JSON takes ten times its length in memory


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write `tensors` as one file, atomically. Raises `InputError` for a full disk or a read-only folder.

    It goes by way of bytes, because safetensors would write a temporary file with its own name and mode.
    """
    from safetensors.torch import save

    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
    write_atomic(path, lambda aside: aside.write_bytes(data))


def read_tensors(path: Path, digest: str, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a file, on `device`.

    Raises:
        InputError: missing, not a safetensors file, or another digest (`file_digest`, of any length).
    """
    from safetensors.torch import load_file

    with _unchanged(path, digest):
        return load_file(path, device=device)


def read_arrays(path: Path, digest: str) -> dict[str, np.ndarray]:
    """`read_tensors` as NumPy arrays, without loading torch; `InputError` also for types that NumPy lacks."""
    from safetensors.numpy import load_file

    with _unchanged(path, digest):
        return load_file(path)


@contextmanager
def _unchanged(path: Path, digest: str) -> Iterator[None]:
    """What reads a file of tensors, after it was compared with its digest; its errors as `InputError`."""
    from safetensors import SafetensorError

    try:
        if not path.is_file() or file_digest(path, len(digest) // 2) != digest:
            raise InputError(f"{path}: missing, truncated or changed since it was written.")
        read_header(path)
        yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError, RecursionError, SafetensorError) as error:
        raise InputError(f"{path}: not a safetensors file ({error}).") from None


def read_header(path: Path, most: int = MAX_HEADER) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file, `most` bytes at most, and the byte where the data begins.

    Raises:
        ValueError: no such header, or an absurdly long one.
    """
    with open(regular(path), "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > most:
            raise ValueError(f"a header of {length:,} bytes is longer than the {most:,} allowed")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    return header, 8 + length
