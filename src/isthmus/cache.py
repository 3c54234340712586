"""The cache folder, for what can be fetched or computed again; also for users without a home, as in containers."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isthmus.errors import InputError


def cache_dir() -> Path:
    """`$ISTHMUS_CACHE`, else `isthmus` in `$XDG_CACHE_HOME`, else `~/.cache/isthmus`; without a home, a private
    folder for temporary files.

    Raises `InputError` if that last one is not private to this user.
    """
    if named := os.environ.get("ISTHMUS_CACHE"):
        return Path(named)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "isthmus"
    try:
        return Path.home() / ".cache" / "isthmus"
    except RuntimeError:  # neither HOME nor an entry in passwd
        return _homeless() / "isthmus"


def give_home() -> None:
    """Set HOME and USER for this process if they are missing: other libraries keep their caches there."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = str(_homeless())
        os.environ.setdefault("USER", f"user{_user()}")


@contextmanager
def in_reach(folder: Path, variable: str) -> Iterator[None]:
    """Turn system errors about an unreadable cache into an `InputError` that names it and its `variable`."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: {error.strerror or error}. The cache is {folder}: make it readable and "
            f"writable, or set {variable} to another folder."
        ) from error


def check_private(folder: Path) -> None:
    """Make `folder` with mode 0700. Raises OSError if it belongs to another user, is a link, or is open to others."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if _user() is None:
        return  # Windows, where a user's temporary files are in a folder of this user alone
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != _user() or stat.S_IMODE(found.st_mode) & 0o077:
        raise OSError(f"{folder}: not a folder of this user alone (mode 0700)")


def _user() -> int | None:
    """The effective user's number; None on Windows, which has none."""
    return os.geteuid() if hasattr(os, "geteuid") else None


def _homeless() -> Path:
    """A private folder of this user among the temporary files, checked because anyone could have made it before."""
    folder = Path(tempfile.gettempdir()) / f"isthmus-{_user()}"
    with in_reach(folder, "ISTHMUS_CACHE"):
        check_private(folder)
    return folder
