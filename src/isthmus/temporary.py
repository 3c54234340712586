"""Temporary files, locked while they are written, so that the next writer recognises those of killed runs."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks: `files.tidy` removes what is left over
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".tmp-"


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, with the mode that the umask gives, removed at the end if it is still there.

    Leftovers of killed runs for the same `path` are removed first.
    """
    for left in leftovers(path):
        _remove_unlocked(left)
    aside, handle = _claimed(path)
    if fcntl is None:
        os.close(handle)  # there, what is open cannot be renamed
    try:
        yield aside
    finally:
        if fcntl is not None:
            os.close(handle)
        aside.unlink(missing_ok=True)


def leftovers(path: Path) -> list[Path]:
    """Temporary files of `path`, in use or not."""
    name = re.compile(f"{re.escape(TEMPORARY)}[0-9a-f]{{8}}-{re.escape(path.name)}")
    with os.scandir(path.parent) as entries:
        return [Path(entry) for entry in entries if name.fullmatch(entry.name)]


def _claimed(path: Path) -> tuple[Path, int]:
    """A new file and the handle whose lock says that it is in use."""
    while True:
        aside = path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name}")
        handle = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if fcntl is not None:
            _lock(handle)
        with suppress(FileNotFoundError):  # another process removed it as a leftover before it was locked: try another
            if os.path.samestat(os.stat(aside), os.fstat(handle)):
                return aside, handle
        os.close(handle)


def _remove_unlocked(path: Path) -> None:
    if fcntl is None:
        return
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # gone already, or a link, which `tidy` removes
        return
    try:
        if _lock(handle):
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Whether the file could be locked; False also where the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
