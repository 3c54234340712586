"""What a piece of work costs in a process of its own: its outcome, seconds, and peak memory."""

from __future__ import annotations

import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from isthmus.errors import IsthmusError


class Cost(NamedTuple):
    """error: the message of an `IsthmusError`, "" for none. mib: the peak above what the process began with."""

    error: str
    seconds: float
    mib: float


def cost(work: Callable[[], Any]) -> Cost:
    """Run `work` in a forked process. Any other exception than an `IsthmusError` fails the test."""
    with tempfile.TemporaryFile("w+") as told:
        child = os.fork()
        if child == 0:
            try:
                torch.set_num_threads(1)  # OpenMP's threads do not survive a fork, and would be waited for
                json.dump(_measured(work), told)
                told.flush()
                os._exit(0)
            finally:
                os._exit(1)
        try:
            _, status = os.waitpid(child, 0)
        except BaseException:  # the test ran out of time
            os.kill(child, signal.SIGKILL)
            raise
        told.seek(0)
        text = told.read()
        assert os.waitstatus_to_exitcode(status) == 0, f"ended with {os.waitstatus_to_exitcode(status)}: {text}"
        return Cost(*json.loads(text))


def _measured(work: Callable[[], Any]) -> Cost:
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, start, error = _status("VmRSS"), time.perf_counter(), ""
    try:
        work()
    except IsthmusError as refused:
        error = str(refused)
    return Cost(error, time.perf_counter() - start, (_status("VmHWM") - before) / 1024)


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])
