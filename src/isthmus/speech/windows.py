"""Recordings of any length, a window at a time, cut where it is quietest."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from isthmus.data.audio import RATE, SHORTEST, SILENT, streamed

FRAME = RATE // 50  # samples over which loudness is taken
EARLIEST = 0.6  # of a window: no cut before


def windows(path: str | os.PathLike[str], seconds: float) -> Iterator[tuple[float, np.ndarray]]:
    """(second at which it begins, float32 [samples] at 16 kHz) of each window of at most `seconds`; no silent ones.

    Memory: that of a window, whatever the length of a file of sound. Raises what `streamed` raises.
    """
    size, at = int(seconds * RATE), 0
    held = np.zeros(0, np.float32)
    for block in streamed(path):
        held = np.concatenate([held, block])
        while len(held) > size:
            cut = quietest(held[:size])
            yield from _heard(at, held[:cut])
            held, at = held[cut:], at + cut
    yield from _heard(at, held)


def quietest(window: np.ndarray) -> int:
    """The sample in the later part of a window around which it is quietest."""
    frames = window[: len(window) // FRAME * FRAME].reshape(-1, FRAME)
    loud = np.convolve(np.square(frames).mean(1), np.ones(5) / 5, mode="same")
    first = int(EARLIEST * len(loud))
    return (first + int(loud[first:].argmin())) * FRAME + FRAME // 2


def _heard(at: int, window: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    if len(window) >= SHORTEST * RATE and float(np.ptp(window)) / 2 >= SILENT:
        yield at / RATE, window
