"""`rasterise.c`, built once by the machine's C compiler and kept in the cache folder, as the losses' sweeps are."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np

from isthmus.cache import cache_dir
from isthmus.errors import UsageError
from isthmus.losses.library import load

SOURCE = Path(__file__).with_name("rasterise.c")
# Not -ffast-math: a library that is linked with it takes subnormal numbers from the whole process.
FAST = ("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math", "-ffinite-math-only")
FLAGS = ("-std=c11", "-O3", *FAST, "-fPIC", "-shared")


def rasterise(
    positions: np.ndarray,
    triangles: np.ndarray,
    albedo: np.ndarray,
    ambient: np.ndarray,
    light: np.ndarray,
    background: float,
    side: int,
) -> np.ndarray:
    """Pictures uint8 [T, side, side] of a mesh that moves.

    positions: float [T, V, 3], x to the right, y down, z towards the viewer; the picture is 2 · side wide, and halved.
    triangles: [F, 3]. albedo: [V] from 0 to 1; ambient: [V], the share of the light that comes from everywhere. light:
    [3], towards the light. background: behind the mesh. Raises `UsageError` without a compiler.
    """
    positions, albedo, ambient = (np.ascontiguousarray(a, np.float32) for a in (positions, albedo, ambient))
    triangles = np.ascontiguousarray(triangles, np.int32)
    light = np.ascontiguousarray(light / np.linalg.norm(light), np.float32)
    frames, vertices, _ = positions.shape
    out = np.empty((frames, side, side), np.uint8)
    scratch = [np.empty(n, np.float32) for n in (3 * vertices, 4 * side * side, 4 * side * side)]
    sizes = [ctypes.c_long(n) for n in (frames, vertices, len(triangles), side)]
    arrays = [a.ctypes.data_as(ctypes.c_void_p) for a in (positions, triangles, albedo, ambient, light, *scratch, out)]
    _library().rasterise(*arrays[:5], ctypes.c_float(background), *sizes, *arrays[5:])
    return out


@functools.cache
def _library() -> ctypes.CDLL:
    name = f"rasterise-{hashlib.sha256(repr((SOURCE.read_text(), FLAGS)).encode()).hexdigest()[:16]}.so"
    return load(cache_dir() / "rasterise" / name, _build)


def _build(path: Path) -> None:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise UsageError("rendered faces need a C compiler: install gcc or clang, or name one in CC.")
    subprocess.run([compiler, *FLAGS, str(SOURCE), "-lm", "-o", str(path)], check=True, capture_output=True, timeout=60)
