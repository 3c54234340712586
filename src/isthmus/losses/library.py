"""A cache for the compiled library: loaded only if unchanged, from a folder that no other user can write to.

Loading a library runs code, and a truncated one ends the process. So the folder belongs to this user, mode 0700, the
file ends with the SHA-256 of what comes before, and the loaded bytes are the checked ones.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from isthmus.cache import check_private
from isthmus.files import atomic_path, tidy
from isthmus.locking import LOCK

DIGEST_BYTES = 32
SECONDS = 120  # that a process waits for another that is compiling


def load(path: Path, build: Callable[[Path], None]) -> ctypes.CDLL:
    """The library at `path`, which `build(path)` makes if it is missing or damaged.

    Raises OSError if the folder is another user's or writable for others, and the errors of `build`.
    """
    check_private(path.parent)
    if not (found := _loaded(path)):
        with FileLock(path.parent / LOCK, timeout=SECONDS):
            if not (found := _loaded(path)):
                tidy(path.parent)
                _write(path, build)
                found = _loaded(path)
    if not found:
        raise OSError(f"{path}: changed while it was written")
    return found


def _loaded(path: Path) -> ctypes.CDLL | None:
    """The library; None if there is none, or its digest does not match."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        if os.fstat(handle).st_uid != os.geteuid():
            return None
        data = file.read()
        if not intact(data):
            return None
    return _mapped(data)


def _mapped(data: bytes) -> ctypes.CDLL:
    """A library of these bytes, from memory: later changes of the file do not affect the mapped code.

    The loader knows a library by its path and gives the loaded one again for it, so the handle stays open: closed, its
    number would be the path of the next library.
    """
    handle = os.memfd_create("isthmus", os.MFD_CLOEXEC)
    with os.fdopen(handle, "wb", closefd=False) as file:
        file.write(data)
    return ctypes.CDLL(f"/proc/self/fd/{handle}", mode=os.RTLD_NOW)


def intact(data: bytes) -> bool:
    """Whether the bytes of a file end with the digest of those before."""
    return len(data) > DIGEST_BYTES and _digest(data[:-DIGEST_BYTES]) == data[-DIGEST_BYTES:]


def _write(path: Path, build: Callable[[Path], None]) -> None:
    with atomic_path(path) as aside:
        build(aside)
        with open(aside, "rb") as file:
            digest = _digest(file.read())
        with open(aside, "ab") as file:
            file.write(digest)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
