"""Films for tests, written by PyAV."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

SIDE = 48


def bar(time: float, side: int = SIDE) -> np.ndarray:
    """A white bar that crosses the picture in two seconds: uint8 [side, side, 3]."""
    picture = np.zeros((side, side, 3), np.uint8)
    place = round(time / 2 * side)
    picture[:, place : place + 4] = 255
    return picture


def film(
    times: Sequence[float],
    last: float = 0.0,
    format: str = "mp4",
    sound: tuple[np.ndarray, float] | None = None,
    rate: int = 1000,
) -> bytes:
    """A film of `bar` that shows a frame at each of these times; the last lasts `last` seconds.

    rate: frames a second as the file states them. sound: a wave at 16 kHz and the second at which it begins.
    """
    av = pytest.importorskip("av", reason="needs the extra video")
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        track: Any = container.add_stream("mpeg4", rate=rate)
        track.width = track.height = SIDE
        track.time_base = track.codec_context.time_base = Fraction(1, rate)
        heard: Any = container.add_stream("aac", rate=16_000) if sound else None
        shown = [*times, times[-1] + last] if last else times
        for time in shown:
            frame = av.VideoFrame.from_ndarray(bar(min(time, times[-1])), "rgb24")
            frame.pts, frame.time_base = round(rate * time), Fraction(1, rate)
            container.mux(track.encode(frame))
        container.mux(track.encode())
        if heard and sound:
            wave = av.AudioFrame.from_ndarray(sound[0][None], "fltp", "mono")
            wave.sample_rate, wave.time_base = 16_000, Fraction(1, 16_000)
            wave.pts = round(16_000 * sound[1])
            container.mux(heard.encode(wave))
            container.mux(heard.encode())
    return file.getvalue()


def at_rate(fps: int, seconds: float = 1.0, **options: Any) -> bytes:
    """`film` at a rate."""
    return film([k / fps for k in range(round(fps * seconds))], rate=fps, **options)


def place_of(frame: np.ndarray) -> float:
    """Where its bar is, in pixels."""
    columns = frame.mean(axis=(0, 2)).clip(40) - 40
    return float((columns * np.arange(len(columns))).sum() / columns.sum())
