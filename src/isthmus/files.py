"""Atomic files: write a temporary file, fsync, rename, fsync the folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from isthmus.errors import InputError
from isthmus.owned import check_owned, regular
from isthmus.temporary import TEMPORARY, temporary_beside

try:
    import fcntl

    FULL_SYNC = getattr(fcntl, "F_FULLFSYNC", None)  # of macOS, whose fsync leaves data in the cache of the disk
except ImportError:
    FULL_SYNC = None

PENDING = "pending"
SEAL, SEAL_BYTES = "seal", 16
MAX_JSON = 2**29  # bytes; parsed, it takes several times as much
_REMEDIES = {
    "Earlier results are kept: free some space and run the same command again.": ("ENOSPC", "EDQUOT", "EFBIG"),
    "Choose another folder, or make this one writable.": ("EACCES", "EPERM", "EROFS"),
    "The disk, or the connection to it, fails: repair it and run the same command again.": (
        *("EIO", "EREMOTEIO", "ESTALE", "ENXIO", "ENODEV", "ETIMEDOUT", "ENOTCONN"),
    ),
    "This file system has no locks, or no more of them: choose a folder on another one.": ("ENOLCK", "EOPNOTSUPP"),
}
REMEDIES = {getattr(errno, code, None): remedy for remedy, codes in _REMEDIES.items() for code in codes}


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path`; on success it is fsynced and renamed to `path`, on failure removed.

    A reader sees the old file or the new one, never a mixture, also after a power cut. Raises `InputError` if the disk
    is full or the folder is not writable.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_beside(path) as aside:
            yield aside
            sync_file(aside)
            os.replace(aside, path)
        sync_folder(path.parent)


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn system errors while `path` is written, such as a full disk, into an error with a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno not in REMEDIES:
            raise
        raise InputError(f"{path}: {os.strerror(error.errno)}. {REMEDIES[error.errno]}") from error


@contextmanager
def replaced_together(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files replace those in `folder`, all or none.

    A small redo log: the files are synced, their folder is renamed to `pending/` (the commit), and they are moved
    into place. Readers look into `pending/` first, with `locate`. The next writer finishes an interrupted commit and
    removes the leftovers of killed runs. One writer at a time.
    """
    aside = folder / f"{TEMPORARY}{secrets.token_hex(4)}-{PENDING}"
    with writing(folder):
        tidy(folder)
        aside.mkdir(parents=True)
        try:
            yield aside
            for path in aside.rglob("*"):
                sync_folder(path) if path.is_dir() else sync_file(path)
            sync_folder(aside)
            os.replace(aside, folder / PENDING)
        except BaseException:
            shutil.rmtree(aside)  # frees space on a full disk
            raise
        sync_folder(folder)
        roll_forward(folder)


def tidy(folder: Path, below: str = "") -> None:
    """Finish an interrupted commit, and remove the temporary files of runs that were killed.

    below: "**/" for those of all subfolders too.
    """
    with writing(folder):
        roll_forward(folder)
        for path in sorted(folder.glob(f"{below}{TEMPORARY}{'[0-9a-f]' * 8}-*")):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)  # removed with its folder


def roll_forward(folder: Path) -> None:
    """Finish a `replaced_together` that was interrupted after its point of no return."""
    pending = folder / PENDING
    if not pending.is_dir():
        return
    check_owned(folder, {PENDING, *(path.name for path in pending.iterdir() if path.is_dir())})
    for path in sorted(pending.rglob("*")):
        target = folder / path.relative_to(pending)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            os.replace(path, target)
            sync_folder(target.parent)
    shutil.rmtree(pending)


def locate(folder: Path, name: str) -> Path:
    """The place of the file `name` of `folder`: in `pending/` while a commit is under way."""
    pending = folder / PENDING / name
    return pending if pending.exists() else folder / name


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    with open(path, "rb+") as file:
        if FULL_SYNC is not None:
            with suppress(OSError):  # a network's file system may not have it
                fcntl.fcntl(file.fileno(), FULL_SYNC)
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable (a no-op where folders cannot be opened)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        with writing(folder):
            os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: str | os.PathLike[str], write: Callable[[Path], Any]) -> None:
    """Call `write(temporary)`, then rename the temporary file to `path`."""
    with atomic_path(path) as aside:
        write(aside)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused: they are not JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def write_sealed(path: str | os.PathLike[str], value: dict[str, Any]) -> None:
    """`write_json` with a digest of the values beside them, by which `read_sealed` notices a change."""
    write_json(path, {**value, SEAL: _seal(value)})


def read_sealed(path: str | os.PathLike[str]) -> Any:
    """Read JSON; an `InputError` if its values are not those that `write_sealed` wrote.

    Files without a seal are accepted: to change a file on purpose, delete its seal.
    """
    value = read_json(path)
    if isinstance(value, dict) and not _sound(value):
        raise InputError(
            f"{path}: changed or damaged since isthmus wrote it. Restore it from a copy; if it was changed on "
            f'purpose, delete its line "{SEAL}".'
        )
    return value


def read_cached(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What `write_sealed` wrote; None if there is no such file, or its seal is missing or does not match. For values
    that can be computed again and are not edited.
    """
    try:
        value = read_json(path)
        return value if isinstance(value, dict) and value.pop(SEAL, None) == _seal(value) else None
    except (InputError, RecursionError):
        return None


def _sound(value: dict[str, Any]) -> bool:
    """Whether the seal, which is removed, matches the values; with a damaged name of the seal, it does not."""
    if SEAL in value:
        return bool(value.pop(SEAL) == _seal(value))
    digests = [key for key, digest in value.items() if isinstance(digest, str) and len(digest) == 2 * SEAL_BYTES]
    return all(value[key] != _seal({k: v for k, v in value.items() if k != key}) for key in digests)


def _seal(value: dict[str, Any]) -> str:
    """The digest of values as read back from JSON, so that tuples and lists are equal."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=SEAL_BYTES).hexdigest()


def file_digest(path: Path, size: int = 16) -> str:
    """BLAKE2b of a file's bytes, `size` bytes as hex digits. `InputError` for a pipe or a device."""
    with open(regular(path), "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=size)).hexdigest()


def read_json(path: str | os.PathLike[str], most: int = MAX_JSON) -> Any:
    """Read a JSON file of `most` bytes at most; a missing, damaged or larger one is an `InputError` that names it."""
    try:
        return json.loads(regular(path, most).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}).") from None
