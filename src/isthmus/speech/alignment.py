"""Bring sequences of several rates in Hz to one number of steps, without losing a frame."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from isthmus.errors import UsageError


def stride_of(rate_hz: float, steps_hz: float) -> int:
    """Frames of a sequence at `rate_hz` in one step. `UsageError` unless that is a whole number."""
    stride = round(rate_hz / steps_hz)
    if stride < 1 or abs(stride * steps_hz - rate_hz) > 1e-6 * rate_hz:
        raise UsageError(f"{rate_hz:g} Hz are no whole multiple of {steps_hz:g} Hz: resample the sequence first.")
    return stride


def common_steps(frames: Mapping[str, Tensor], strides: Mapping[str, int], least: int = 0) -> Tensor:
    """The steps [N] that hold every valid frame of each sequence: the longest of them, rounded up; at least `least`.

    frames: valid frames [N] of each sequence. strides: its frames in a step (`stride_of`).
    """
    found = [-(-count // strides[name]) for name, count in frames.items()]
    return torch.stack(found).amax(0).clamp(min=least)


def ahead(frames: Tensor, stride: int, steps: Tensor) -> Tensor:
    """Frames that `align` puts before the first valid one of each sequence, int64 [N]."""
    return (stride * steps - frames) // 2


def align(states: Tensor, frames: Tensor, stride: int, steps: Tensor) -> Tensor:
    """The sequences padded to exactly `stride` frames in each step, by repeating the first and the last valid frame.

    states: [N, L, D], of which the first `frames` [N] of each are valid. steps: [N], see `common_steps`. Half of the
    padding, rounded down, is at the beginning. Returns [N, stride · max(steps), D], zeros behind each one's steps.
    """
    total = stride * steps
    if (total < frames).any() or (frames < 1).any():
        raise ValueError("each sequence needs a frame, and no more frames than its steps hold.")
    place = torch.arange(int(total.max()), device=states.device)
    index = (place - ahead(frames, stride, steps)[:, None]).clamp(min=0).minimum((frames - 1)[:, None])
    found = states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))
    return found * (place < total[:, None])[..., None]


def valid(counts: Tensor, length: int) -> Tensor:
    """Which of `length` positions are below each count: bool [N, length]."""
    return torch.arange(length, device=counts.device) < counts[:, None]
