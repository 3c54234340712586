"""`sweeps.c`, built once by the machine's C compiler and kept in the cache folder.

Without a compiler, or where torch brings no GNU OpenMP whose threads it could share, the losses run uncompiled, as with
`ISTHMUS_COMPILE=0`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import re
import shutil
import subprocess
from pathlib import Path

import torch
from torch import Tensor

from isthmus.cache import cache_dir
from isthmus.errors import IsthmusError
from isthmus.losses.library import load

SOURCE = Path(__file__).with_name("sweeps.c")
# native: the cache is keyed by the processor. No trapping, no errno: loops over conditions and roundings vectorise.
# contract: a product and its sum in one instruction, with one rounding.
FLAGS = ["-std=c11", "-O3", "-march=native", "-fno-trapping-math", "-fno-math-errno", "-ffp-contract=fast"]
FLAGS += ["-fopenmp", "-fPIC"]
WIDE = "-mprefer-vector-width=512"  # compilers use half the width of AVX-512 by themselves
NARROW = "-mno-avx512f"  # without AVX-512 if torch must not use it either (ATEN_CPU_CAPABILITY)
LEAST = 1 << 16  # numbers of a tile below which the call costs more than the sweep saves
NAMES = {torch.float32: "f32", torch.bfloat16: "bf16"}

log = logging.getLogger(__name__)


class Compiled:
    """The sweeps for one dtype; tiles are contiguous. See the functions of the same names in `sweeps`."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self._library, self._name = library, name

    def log_sums(self, tile: Tensor, bounded: bool) -> tuple[Tensor, Tensor]:
        rows, width = tile.shape
        threads = torch.get_num_threads()
        row_sums, column_sums = (torch.zeros(n, dtype=torch.float64) for n in (rows, threads * width))
        spare = torch.empty(threads * width)
        if bounded:
            self._call("exp_sums", tile, row_sums, column_sums, spare)
            return row_sums.log_(), column_sums.view(threads, width).sum(0).log_()
        row_most, column_most = (torch.full((n,), torch.finfo().min) for n in (rows, threads * width))
        self._call("shifted_exp_sums", tile, row_sums, column_sums, spare, row_most, column_most)
        log_sums = column_sums.log_().add_(column_most).view(threads, width)
        return row_sums.log_().add_(row_most), log_sums.logsumexp(0)

    def softmax_(self, tile: Tensor, row: Tensor, column: Tensor, bounded: bool) -> None:
        (row_shift, row_weight), (column_shift, column_weight) = row.contiguous(), column.contiguous()
        if bounded:
            self._call("softmax", tile, row_weight, column_weight)
        else:
            self._call("shifted_softmax", tile, row_weight, column_weight, row_shift, column_shift)

    def sigmoid_(self, tile: Tensor, bias: float) -> Tensor:
        sums = torch.empty(2, len(tile), dtype=torch.float64)
        self._call("sigmoid", tile, ctypes.c_float(bias), *sums)
        return sums.sum(1)

    def add_(self, total: Tensor, part: Tensor) -> None:
        """total += part; total is fp32, its rows contiguous."""
        self._call("add", part, total, ctypes.c_long(total.stride(0)))

    def _call(self, sweep: str, tile: Tensor, *arguments: Tensor | ctypes.c_float | ctypes.c_long) -> None:
        sizes = (ctypes.c_long(n) for n in (*tile.shape, torch.get_num_threads()))
        passed = (ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in arguments)
        getattr(self._library, f"{sweep}_{self._name}")(ctypes.c_void_p(tile.data_ptr()), *sizes, *passed)


def compiled(tile: Tensor) -> Compiled | None:
    """The compiled sweeps for a tile; None if the eager ones should be used."""
    if tile.device.type != "cpu" or tile.numel() < LEAST or tile.dtype not in NAMES:
        return None
    loaded = library()
    return Compiled(loaded, NAMES[tile.dtype]) if loaded else None


def library() -> ctypes.CDLL | None:
    """The compiled sweeps; None if they are not available or not wanted."""
    return None if os.environ.get("ISTHMUS_COMPILE") == "0" else _library()


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        return _load()
    except (OSError, subprocess.SubprocessError, IsthmusError) as error:
        log.info("The losses run uncompiled: %s", error)
        return None


def _load() -> ctypes.CDLL:
    """The library for this source, processor and OpenMP; OSError or SubprocessError if there is none."""
    openmp, processor = _openmp(), _processor()
    flags = FLAGS
    if "avx512f" in processor:
        flags = [*FLAGS, WIDE if torch.backends.cpu.get_cpu_capability() == "AVX512" else NARROW]
    parts = (SOURCE.read_text(), *flags, openmp, processor)
    name = f"sweeps-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.so"
    return load(cache_dir() / "sweeps" / name, functools.partial(_build, flags, openmp))


def _build(flags: list[str], openmp: str, path: Path) -> None:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise OSError("no C compiler")
    _run(compiler, *flags, "-c", str(SOURCE), "-o", f"{path}.o")
    try:  # linked explicitly: -fopenmp would load a second OpenMP, whose threads compete with torch's
        _run(compiler, "-shared", f"{path}.o", openmp, "-o", str(path))
    finally:
        Path(f"{path}.o").unlink()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def _openmp() -> str:
    """Path of the GNU OpenMP that torch brings; other packages bring their own."""
    found = re.search(r"/\S*/torch(\.libs)?/\S*libgomp\S*", Path("/proc/self/maps").read_text())
    if found is None:
        raise OSError("torch brings no GNU OpenMP")
    return found.group()


def _processor() -> str:
    """What `-march=native` depends on: model and abilities of the first processor."""
    first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    return "\n".join(line for line in first.splitlines() if line.startswith(("model", "vendor", "flags", "Features")))
