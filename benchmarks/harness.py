"""What every benchmark here shares: alternating runs, memory in a process of its own, facts, one form of result.

A benchmark is a script with `main()` that ends in `write(Result(...))`; `run_all.py` names them in their order and
renders `docs/benchmarks.md` from what they wrote.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results.json"  # {name: result}
MIB = 2**20


@dataclass
class Table:
    title: str
    columns: list[str]
    rows: list[list[Any]]  # floats are shown with four digits, None as a dash
    note: str = ""


@dataclass
class Plot:
    title: str
    x: str
    y: str
    series: dict[str, list[tuple[float, float]]]  # both axes logarithmic


@dataclass
class Result:
    """What a benchmark found: `docs/benchmarks.md` is made of these."""

    name: str
    title: str
    about: str
    tables: list[Table]
    plots: list[Plot] = field(default_factory=list)


def write(result: Result) -> None:
    """Into `results.json` under its name, with the machine's facts."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[result.name] = {"machine": machine()} | asdict(result)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def alternate(cases: Mapping[str, Callable[[], object]], runs: int, warm: bool = True) -> dict[str, float]:
    """Median seconds of each case, all run once in turn `runs` times, so that the machine's moods meet all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(-warm, runs):
        for name, case in cases.items():
            started = time.perf_counter()
            case()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(measured) for name, measured in seconds.items()}


def in_own_process(script: str, *arguments: object) -> Any:
    """What `script ARGUMENTS` prints last, read as JSON."""
    command = [sys.executable, script, *map(str, arguments)]
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(shown.splitlines()[-1])


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Appends the MiB of anonymous memory that the block took at its peak, beyond what there was before."""
    ctypes.CDLL(None).malloc_trim(0)  # memory that is free but not given back would hide what the block takes
    before, peaks, done = anonymous(), [0.0], threading.Event()

    def sample() -> None:
        while not done.wait(0.002):
            peaks.append(anonymous() - before)

    sampler = threading.Thread(target=sample)
    sampler.start()
    found: list[float] = []
    try:
        yield found
    finally:
        done.set()
        sampler.join()
        found.append(max([*peaks, anonymous() - before]))


def anonymous() -> float:
    """MiB of memory of this process that no file backs (RssAnon): mapped pages are not a cost."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


def busy() -> float:
    """Seconds that the cores were busy since the machine started, or taken from it by its host."""
    with open("/proc/stat") as stat:
        user, nice, system, _, _, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


STARTED = time.perf_counter(), busy() - sum(os.times()[:4])


def others() -> float:
    """Share of the cores that other work took since this script began, its children not counted."""
    began, before = STARTED
    return (busy() - sum(os.times()[:4]) - before) / (time.perf_counter() - began) / (os.cpu_count() or 1)


def machine() -> dict[str, Any]:
    """Facts to print beside the numbers."""
    with open("/proc/cpuinfo") as info:
        lines = [line.partition(":") for line in info]
    facts = {key.strip(): value.strip() for key, _, value in lines}
    flags = facts.get("flags", "").split()
    return {
        "processor": facts.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "multiplies in": ", ".join(flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags),
        "memory, GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "other work, % of the cores": round(100 * others(), 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "isthmus": version("isthmus"),
        "date": time.strftime("%Y-%m-%d"),
    }
