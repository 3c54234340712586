"""From phones with times to weights of face units, by openfacefx: Cohen and Massaro's dominance functions (1993)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isthmus_demo.talking.faces import FPS

Phone = tuple[str, float, float]  # as ARPAbet writes it, without stress ("" is silence), first and last second
FINE = 100  # times a second at which the curves are computed


def unit_weights(phones: Sequence[Phone], seconds: float, names: Sequence[str], strength: float = 1.0) -> np.ndarray:
    """Weights [T, U] of the face units `names` at the middle of each frame of `seconds`."""
    from openfacefx import CoartParams, PhonemeSegment, build_viseme_curves
    from openfacefx.phonemes import SILENCE
    from openfacefx.retarget import PRESETS
    from openfacefx.visemes import VISEMES

    segments = [PhonemeSegment(phone or SILENCE, first, last) for phone, first, last in phones]
    times, curves = build_viseme_curves(segments, FINE, params=CoartParams(jali=True, intensity=strength))
    table = np.zeros((len(VISEMES), len(names)))
    for row, viseme in enumerate(VISEMES):
        for unit, weight in PRESETS["arkit"].get(viseme, ()):
            if unit in names:
                table[row, list(names).index(unit)] = weight
    at = (np.arange(max(1, int(seconds * FPS + 0.5))) + 0.5) / FPS
    sampled = np.stack([np.interp(at, times, column) for column in curves.T], axis=1)
    return np.asarray((sampled @ table).clip(0, 1))
