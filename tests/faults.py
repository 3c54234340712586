"""Run something in a forked process that is killed, or told that the disk is full, at a chosen boundary.

A boundary is every moment at which a run changes what is on disk: a file opened for writing, a folder made, an
fsync, a rename, a deletion. The process that is killed gets to clean up nothing, and a file that was about to be
synced keeps half of its bytes, as after a power cut.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from isthmus.errors import InputError

WRITES = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT
Strike = Callable[[str, tuple], None]
Work = Callable[[Path], Any]


def strike_at(step: int, strike: Strike, root: Path) -> Callable[[], bool]:
    """From now on call `strike(name, arguments)` before the `step`-th boundary, in this process.

    Files opened outside of `root` do not count. Returns what tells whether that boundary was reached.
    """
    count = 0

    def boundary(name: str, arguments: tuple) -> None:
        nonlocal count
        count += 1
        if count == step:
            strike(name, arguments)

    def opened(event: str, arguments: tuple) -> None:
        writes = event == "open" and isinstance(arguments[0], str) and arguments[2] & WRITES
        if writes and Path(os.path.abspath(arguments[0])).is_relative_to(root):
            boundary("open", arguments)

    def counted(name: str) -> Callable:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            boundary(name, arguments)
            return real(*arguments, **options)

        return call

    for name in ("replace", "fsync", "unlink", "rmdir", "mkdir"):
        setattr(os, name, counted(name))
    sys.addaudithook(opened)
    return lambda: count >= step


def kill(name: str, arguments: tuple) -> None:
    if name == "fsync":
        with contextlib.suppress(OSError):  # a folder has no length
            os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)


def fill(name: str, arguments: tuple) -> None:
    if name not in ("unlink", "rmdir"):  # to delete needs no room
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))


def struck(work: Work, path: Path, step: int, strike: Strike) -> str:
    """What became of `work(path)` in a forked process: "killed", "done" (that boundary was not reached),
    "survived", or the error it ended with."""
    with tempfile.TemporaryFile("w+") as told:
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)  # OpenMP's threads do not survive a fork, and would be waited for
            reached = strike_at(step, strike, path.parent)
            try:
                work(path)
                told.write("survived" if reached() else "done")
            except InputError as error:
                told.write(f"InputError: {error}")
            except BaseException:
                told.write(traceback.format_exc())
            told.flush()
            os._exit(0)
        try:
            _, status = os.waitpid(child, 0)
        except BaseException:  # the test ran out of time
            os.kill(child, signal.SIGKILL)
            raise
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return "killed"
        told.seek(0)
        return told.read()


def names(root: Path) -> set[str]:
    """All that is below `root`."""
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def check_boundaries(
    root: Path, strike: Strike, every: int, *, start: Work | None, work: Work, content: Work, files: Work = names
) -> int:
    """Strike `work` at every, or each `every`-th, boundary; returns the number of strikes.

    `start` makes the old state, if there is one. `content` reads a folder as users do, and raises InputError where
    there is nothing yet. After a strike it must give the old content or the new one; the same work done again
    must give the new content and the same `files`, with nothing left over.
    """
    (root / "old").mkdir(parents=True)
    if start:
        start(root / "old" / "it")
    shutil.copytree(root / "old", root / "new")
    work(root / "new" / "it")
    old, new = read(content, root / "old" / "it"), content(root / "new" / "it")
    assert old != new
    left = files(root / "new")
    for strikes, step in enumerate(itertools.count(1, every)):
        folder = root / f"struck {step}"
        shutil.copytree(root / "old", folder)
        path = folder / "it"
        outcome = struck(work, path, step, strike)
        if outcome == "done":
            return strikes
        seen = read(content, path)
        assert seen in (old, new), f"boundary {step}: neither old nor new"
        if outcome not in ("killed", "survived"):
            assert outcome.startswith("InputError") and "free some space" in outcome, f"boundary {step}: {outcome}"
            assert str(folder) in outcome, f"boundary {step}: no file is named in {outcome}"
        work(path)
        assert content(path) == new, f"boundary {step}: done again, it is something else"
        assert files(folder) == left, f"boundary {step}: other files: {names(folder) ^ names(root / 'new')}"
        shutil.rmtree(folder)
    raise AssertionError("unreachable")


def read(content: Work, path: Path) -> Any:
    try:
        return content(path)
    except InputError:
        return None
