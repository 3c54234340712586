"""What folders that isthmus keeps may hold: files and folders. With a link, writing, moving or deleting would act on
another place; reading a pipe may wait for ever, and a device never ends."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from isthmus.errors import BadFile, InputError


def check_owned(folder: Path, names: Collection[str] | None = None) -> None:
    """Refuse anything but files and folders, at any depth below `folder`, which may itself be a link.

    names: entries of `folder` to check; default all. Raises `InputError`, which names the first.
    """
    for path in strangers(folder, names):
        raise InputError(
            f"{path}: {what_it_is(path)}. A folder that isthmus keeps holds files and folders only: remove it, or put "
            "a copy of what it stands for in its place."
        )


def strangers(folder: Path, names: Collection[str] | None = None) -> Iterator[Path]:
    """Links, pipes, sockets and devices below `folder`; none is followed or opened."""
    waiting = [folder]
    while waiting:
        for entry in _entries(waiting.pop()):
            if names is not None and Path(entry).parent == folder and entry.name not in names:
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry))
            elif not entry.is_file(follow_symlinks=False):
                yield Path(entry)


def regular(path: str | os.PathLike[str], most: int | None = None) -> Path:
    """`path`, if it is a regular file, or a link to one, of at most `most` bytes.

    Raises:
        InputError: something else, or larger.
        OSError: missing, or out of reach.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise BadFile(f"{path}: {what_it_is(Path(path))}, not a file.")
    if most is not None and found.st_size > most:
        raise InputError(f"{path}: {found.st_size:,} bytes, more than the {most:,} that such a file may have.")
    return Path(path)


def what_it_is(path: Path) -> str:
    """The kind of an entry in words: "a link", "a pipe", "a device", "a socket" or "a folder"."""
    mode = os.lstat(path).st_mode
    kinds = {stat.S_IFLNK: "a link", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):  # another process may be tidying
        return []
