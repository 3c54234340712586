"""Noise at a stated signal-to-noise ratio, babble, speed, and masks: what training and evaluation do to speech."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from isthmus.data.audio import EXTRA, RATE
from isthmus.errors import InputError, UsageError


def at_snr(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Speech [S] plus noise [S], scaled so that the energy of the speech is `snr_db` above that of the noise."""
    if speech.shape != noise.shape:
        raise ValueError(f"speech has {speech.shape} samples, noise {noise.shape}.")
    loud, quiet = np.square(speech, dtype=np.float64).sum(), np.square(noise, dtype=np.float64).sum()
    if not (loud > 0 and quiet > 0):
        raise InputError(f"{'the noise' if loud else 'the speech'} is silent, so there is no ratio of {snr_db} dB.")
    scaled = noise * np.sqrt(loud / (10 ** (snr_db / 10) * quiet))
    return (speech + scaled).astype(speech.dtype)


def babble(voices: Sequence[np.ndarray], samples: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` voices at once, each of a mean energy of 1 and begun anywhere; shorter ones go on from their beginning.

    voices: recordings [S] of people that are in neither the training nor the test lines: see `check_disjoint`.
    """
    if len(voices) < count:
        raise InputError(f"babble of {count} voices needs as many recordings; there are {len(voices)}.")
    total = np.zeros(samples)
    for row in rng.choice(len(voices), count, replace=False):
        voice = np.asarray(voices[row], np.float64)
        begin = int(rng.integers(len(voice)))
        part = np.take(voice, np.arange(begin, begin + samples), mode="wrap")
        total += part / max(float(np.sqrt(np.square(voice).mean())), 1e-9)
    return total.astype(np.float32)


def check_disjoint(noise: Sequence[str], lines: Sequence[str], what: str = "voices") -> None:
    """Raise `InputError` if someone who speaks in the lines also babbles behind them; names or ids of the speakers."""
    both = sorted({*noise} & {*lines})
    if both:
        raise InputError(f"{len(both)} {what} of the noise are in the lines as well, such as {both[0]!r}.")


def at_speed(wave: np.ndarray, factor: float) -> np.ndarray:
    """A wave [S] played `factor` times as fast, pitch and all: float32 [S / factor]."""
    try:
        import soxr
    except ImportError as error:
        raise UsageError(f"{EXTRA} ({error})") from None
    return soxr.resample(wave.astype(np.float32), round(RATE * factor), RATE)


def masked(
    states: Tensor,
    lengths: Tensor,
    generator: torch.Generator,
    *,
    spans: int = 2,
    span: int = 10,
    channels: int = 2,
    band: int = 16,
) -> Tensor:
    """States [N, T, D] with `spans` stretches of up to `span` steps, and `channels` bands of up to `band` channels, set
    to zero (SpecAugment on hidden states). Each line has masks of its own, never more than half of its steps.
    """
    keep = torch.ones_like(states, dtype=torch.bool)
    for row, length in enumerate(lengths.tolist()):
        for _ in range(spans):
            size = min(_drawn(span + 1, generator), length // (2 * spans))
            begin = _drawn(length - size + 1, generator)
            keep[row, begin : begin + size] = False
        for _ in range(channels):
            size = min(_drawn(band + 1, generator), states.shape[2])
            begin = _drawn(states.shape[2] - size + 1, generator)
            keep[row, :, begin : begin + size] = False
    return states * keep


def _drawn(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))
