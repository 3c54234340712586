"""Fingerprints of encoders: one digest of everything that determines their features.

Not included, because the features should be equal: shards, batch size, compute dtype, storage dtype.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.cache import cache_dir
from isthmus.errors import InputError
from isthmus.files import read_cached, write_sealed
from isthmus.weights import read_header


def digest(value: Any) -> str:
    """64 hex digits of a JSON value, independent of the order of keys."""
    return _blake(json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False).encode()).hexdigest()


def view_fingerprint(backbone_key: str, layer: int | None, pool: str | None) -> str:
    """The fingerprint of one layer and pooling of the network that `backbone_key` identifies."""
    return digest([backbone_key, layer, pool])


def files_digest(paths: Iterable[Path], root: Path) -> str:
    """Digest of the sorted (name, dtype, shape, bytes) of all tensors in safetensors files below `root`.

    How tensors are spread over the shards of one folder does not matter. Remembered in the cache folder by
    (path, size, inode, mtime, ctime) so that a large model is read once; see `read_again`.
    """
    paths = sorted(paths)
    known = cache_dir() / "digests" / f"{digest([_state(path) for path in paths])[:32]}.json"
    if not _again.get() and (found := _remembered(known)):
        return found
    result = _tensors_digest(_locate(paths, root))
    with suppress(OSError, InputError):  # without a writable cache, it only takes longer
        write_sealed(known, {"digest": result})
    return result


@contextmanager
def read_again() -> Iterator[None]:
    """Inside this context, `files_digest` reads every file again: a disk error may change a file without a trace."""
    token = _again.set(True)
    try:
        yield
    finally:
        _again.reset(token)


_again: ContextVar[bool] = ContextVar("again", default=False)


def _state(path: Path) -> list[Any]:
    """Values that change when a file is written. The change time of the inode cannot be set back."""
    stat = path.stat()
    return [str(path.absolute()), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def _remembered(file: Path) -> str | None:
    """The digest in a cache file; None if there is none or it is damaged."""
    found = (read_cached(file) or {}).get("digest")
    return found if isinstance(found, str) and re.fullmatch("[0-9a-f]{64}", found) else None


def module_digest(module: nn.Module) -> str:
    """The same for a module's state dict, for sources whose weight files are not accessible."""
    state = _blake(b"")
    for name, tensor in sorted(module.state_dict().items()):
        raw = tensor.detach().cpu().contiguous()
        state.update(json.dumps([name, str(raw.dtype), list(raw.shape)]).encode())
        state.update(_raw_bytes(raw))
    return state.hexdigest()


def tokenizer_digest(vocabulary: Mapping[str, int], encode: Any) -> str:
    """Digest of a tokenizer by what it does: its vocabulary, and the ids it gives to a fixed set of strings.

    Serialised tokenizers change with the library that writes them; their behaviour should not.
    """
    return digest([sorted(vocabulary.items()), [list(map(int, encode(text))) for text in PROBES]])


PROBES = (
    "",
    "a photo of a cat.",
    "  Two  CATS — naïve café, coöperate; 3,141.59 % (e.g.) don’t\tstop\n",
    "antidisestablishmentarianism electroencephalographically",
    "Straße İstanbul ﬁn ½ Ωμέγα кошка قطة 猫が好き 고양이 🐈‍⬛",
    "<s> [CLS] </s> [SEP] <pad> <|endoftext|> def f(x): return x_1['key'] # https://example.org/?q=1&r=2",
)


def _blake(data: bytes) -> Any:
    return hashlib.blake2b(data, digest_size=32)


def _raw_bytes(tensor: Tensor) -> Any:
    return tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b""


FileStamp = tuple[Path, int, int, str, list[int]]  # file, first byte, last byte + 1, dtype, shape


def _locate(paths: Sequence[Path], root: Path) -> dict[str, FileStamp]:
    """Where each tensor lies. Names carry the subfolder, for pipelines with a weight file per module."""
    places: dict[str, FileStamp] = {}
    for path in paths:
        folder = path.parent.relative_to(root).as_posix()
        header, start = _header(path)
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            place = (path, start + first, start + last, entry["dtype"], entry["shape"])
            places[name if folder == "." else f"{folder}/{name}"] = place
    return places


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file and the offset at which its data begin."""
    try:
        header, start = read_header(path, most=100_000_000)
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not a safetensors file, or a truncated one. Fetch it again.") from None
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if start + end != os.path.getsize(path):
        raise InputError(f"{path}: a truncated safetensors file. Fetch it again.")
    return header, start


def _tensors_digest(places: Mapping[str, FileStamp]) -> str:
    state = _blake(b"")
    maps: dict[Path, mmap.mmap] = {}
    for name, (path, first, last, dtype, shape) in sorted(places.items()):
        if path not in maps:
            with open(path, "rb") as file:
                maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        state.update(json.dumps([name, dtype, shape]).encode())
        state.update(memoryview(maps[path])[first:last])
    return state.hexdigest()
