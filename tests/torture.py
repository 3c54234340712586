"""Run as a program, FOLDER SECONDS CASE…: strike work below Python and see that nothing is lost. Prints the counts.

It runs with `faults_below.c` preloaded. Each strike is one forked process, at one call that changes something on disk.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import itertools
import os
import random
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import isthmus as ist
from fault_cases import CASES as WRITERS
from faults import Work, names, read
from isthmus.errors import InputError
from isthmus.evaluation.suite import suite
from isthmus.files import read_sealed
from isthmus.metrics.results import read as read_result
from isthmus.store import stream
from toys import write_pairs

KILL, SHORT, ERROR = 1, 2, 3
# How to strike: kind, errno, whether it lasts.
STRIKES = {
    "kill": (KILL, 0, False),
    "short": (SHORT, 0, True),
    "EIO": (ERROR, errno.EIO, False),
    "ENOSPC": (ERROR, errno.ENOSPC, True),
    "EDQUOT": (ERROR, errno.EDQUOT, True),
    "EROFS": (ERROR, errno.EROFS, True),
}
PATIENCE = 120  # seconds until work that hangs says where, and ends
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGHUP)
BELOW = ctypes.CDLL(None)


def select(root: Path) -> dict[str, Any]:
    draws = np.random.default_rng(0)
    image, text = ({name: draws.normal(size=(50, 5)).astype(np.float32) for name in listed} for listed in ("ab", "t"))
    # The page is drawn with the time on it: select.json says all that is on it.
    sys.modules["matplotlib"] = None  # type: ignore[assignment]
    return {
        "work": lambda path: ist.select(image=image, text=text, seeds=0, bootstrap=3, out=path),
        "content": lambda path: read_sealed(path / "select.json")["pairs"],
        "files": names,
    }


def suites(root: Path) -> dict[str, Any]:
    from test_suite import captioned_set, labelled_set, toy_model

    labelled_set(root / "data" / "wds_vtab-pets")
    captioned_set(root / "data" / "wds_flickr30k")
    model = toy_model()

    def content(path: Path) -> Any:
        files = sorted((path / "results").glob("*.json"))
        if len(files) < 2:
            raise InputError("not done yet")
        return [read_result(file)["metrics"] for file in files]

    def work(path: Path) -> None:
        for found in suite(model, root / "data", out=path, bootstrap=3, only_sets=["pets", "flickr30k"]):
            if not found["metrics"]:
                raise InputError(str(found["skipped"]))

    return {"work": work, "content": content, "files": names}


def search(root: Path) -> dict[str, Any]:
    """The contact sheet is all that a search writes."""
    from test_suite import toy_model

    write_pairs(root / "data", copies=1)
    model = toy_model()

    def content(path: Path) -> Any:
        if not (path / "sheet.png").exists():
            raise InputError("not done yet")
        with Image.open(path / "sheet.png") as sheet:
            return np.asarray(sheet).tobytes()

    return {
        "work": lambda path: ist.search(model, root / "data", "red", k=4, out=path / "sheet.png"),
        "content": content,
        "files": names,
    }


CASES = {**WRITERS, "select": select, "search": search, "suite": suites}


class Torture:
    """One case in a folder: work that is struck, done again, and compared with what it gives undisturbed."""

    def __init__(self, root: Path, case: str, seed: int) -> None:
        (root / case / "sound").mkdir(parents=True)
        self.root, made, self.random = root / case, CASES[case](root / case), random.Random(seed)
        self.work: Work = made["work"]
        self.content: Work = made["content"]
        self.files: Work = made.get("files", names)
        sound = self.root / "sound" / "it"
        start = time.monotonic()
        self.calls = self._forked(self.root / "sound", 0, (0, 0, False))[1]
        self.seconds = time.monotonic() - start
        self.work(sound)  # nothing left to do
        self.new, self.left = self.content(sound), self.files(self.root / "sound")
        self.number = itertools.count()
        self.told: Counter[str] = Counter()

    def _forked(self, folder: Path, step: int, how: tuple[int, int, bool]) -> tuple[str, int]:
        """What became of the work in a process of its own, and how many calls it made that change something."""
        told = folder.parent / "told"
        child = os.fork()
        if child == 0:
            self._child()
            BELOW.torture_arm(str(folder).encode(), ctypes.c_long(step or -1), how[0], how[1], int(how[2]))
            try:
                self.work(folder / "it")
                said = "done"
            except InputError as error:
                said = f"InputError: {error}"
            except BaseException:
                said = traceback.format_exc()
            calls = ctypes.c_long.in_dll(BELOW, "torture_calls").value
            BELOW.torture_arm(b"/nowhere", ctypes.c_long(-1), 0, 0, 0)
            told.write_text(f"{calls} {said}")
            os._exit(0)
        self.child = child
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return "killed", 0
        calls, _, said = told.read_text().partition(" ")
        return said, int(calls)

    def _child(self) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        faulthandler.dump_traceback_later(PATIENCE, exit=True)

    def strike(self, name: str) -> None:
        """One fault of this name at a call chosen at random."""
        step = self.random.randint(1, self.calls)
        folder = self.root / f"{next(self.number)} {name} {step}"
        folder.mkdir()
        said, _ = self._forked(folder, step, STRIKES[name])
        where = f"{folder}: {said}"
        if name == "short":
            assert said == "done" and self.content(folder / "it") == self.new, where
        elif name == "kill":
            assert said == "killed", where
        elif said != "done":
            assert said.startswith("InputError") and str(folder) in said, where
        self._again(folder, where)
        self.told[name] += 1

    def signal(self) -> None:
        """A signal at a moment chosen at random."""
        number = self.random.choice(SIGNALS)
        folder = self.root / f"{next(self.number)} signal {number}"
        folder.mkdir()
        child = os.fork()
        if child == 0:
            self._child()
            try:
                self.work(folder / "it")
            finally:
                os._exit(0)
        time.sleep(self.random.random() * self.seconds)
        os.kill(child, number)
        os.waitpid(child, 0)
        self._again(folder, f"{folder}: {number!r}")
        self.told[f"signal {signal.Signals(number).name}"] += 1

    def _again(self, folder: Path, where: str) -> None:
        """What is there is nothing or the whole; the same work done again gives the same, with nothing left over."""
        seen = read(self.content, folder / "it") if (folder / "it").exists() else None
        assert seen in (None, self.new), f"{where}: a mixture"
        self.work(folder / "it")
        assert self.content(folder / "it") == self.new, f"{where}: done again, it is something else"
        assert self.files(folder) == self.left, f"{where}: {names(folder) ^ names(self.root / 'sound')}"
        shutil.rmtree(folder)


def main(root: Path, seconds: float, cases: list[str]) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for case in cases:
        stream.SHARD_BYTES = 24 if case == "store" else 2048  # several shards
        torture = Torture(root, case, seed=0)
        end = time.monotonic() + seconds / len(cases)
        for name in itertools.cycle([*STRIKES, "signal"]):
            torture.signal() if name == "signal" else torture.strike(name)
            if time.monotonic() > end and len(torture.told) >= len(STRIKES) + 1:
                break
        print(case, torture.told.total(), dict(torture.told))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
