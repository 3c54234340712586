"""One process at a time writes to a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from isthmus.errors import InputError
from isthmus.files import PENDING, writing
from isthmus.owned import check_owned

LOCK = ".lock"


@contextmanager
def alone(folder: Path, doing: str) -> Iterator[None]:
    """Hold the lock of `folder`, which is made if it is missing; the lock of a killed process is released.

    Raises `InputError` if another process holds it, or it or `pending/` is a link; `doing` says what that process does
    ("writing this store").
    """
    lock = FileLock(folder / LOCK, timeout=0)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        check_owned(folder, {LOCK, PENDING})
        try:
            lock.acquire()
        except Timeout:
            raise InputError(
                f"{folder}: another process is {doing} (it holds {lock.lock_file}). Wait for it to finish, or stop it."
            ) from None
    try:
        yield
    finally:
        lock.release()
