"""Whether an export computes what the model computes: pictures and texts of every sort through both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from isthmus.data.feature_pairs import SIDES
from isthmus.errors import InputError
from isthmus.models.dual_encoder import DualEncoder

TOLERANCE = 1e-5  # of fp32, between unit rows
COSINE = 0.999  # of int8
TEXTS = [
    "a",
    "two dogs running in a park",
    "A Photo, of the RED café – naïve, isn't it? 3.14 %",
    "  spaces before, and behind \n",
    "the same word again and again " * 60,
    "猫 и собака 🐈",
    "",
]
EncodeItems = Callable[[list[Any]], np.ndarray]


def probe_pictures() -> list[Image.Image]:
    """Noise and gradients of several shapes, grey, and with transparency."""
    rng = np.random.default_rng(0)
    found = [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in ((64, 64), (90, 40), (300, 417))]
    ramp = np.linspace(0, 255, 200 * 300).reshape(200, 300).astype(np.uint8)
    found.append(Image.fromarray(ramp))
    found.append(Image.fromarray(np.dstack([ramp, ramp.T.reshape(200, 300), ramp[::-1], 255 - ramp])))
    return found


def differences(model: DualEncoder, image: EncodeItems, text: EncodeItems, *, plain: bool = False) -> dict[str, float]:
    """The largest difference of any component, for each side.

    plain: without pictures that have transparency and texts without a character, which others treat in ways of theirs.
    """
    pairs = _pairs(model, image, text, plain)
    return {side: float(np.abs(own - other).max()) for side, (own, other) in pairs.items()}


def cosines(model: DualEncoder, image: EncodeItems, text: EncodeItems) -> dict[str, float]:
    """The least cosine of a row with the model's own, for each side."""
    pairs = _pairs(model, image, text, plain=False)
    return {side: float((own * other).sum(1).min()) for side, (own, other) in pairs.items()}


def _pairs(
    model: DualEncoder, image: EncodeItems, text: EncodeItems, plain: bool
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    pictures = [one for one in probe_pictures() if not plain or one.mode != "RGBA"]
    texts = [one for one in TEXTS if not plain or one.strip()]
    own = model.encode_image(pictures), model.encode_text(texts)
    return dict(zip(SIDES, zip(own, (image(pictures), text(texts)), strict=True), strict=True))


def check_close(found: dict[str, float]) -> None:
    """`InputError` beyond the tolerance, with the largest difference."""
    side = max(found, key=lambda one: np.nan_to_num(found[one], nan=np.inf))
    if not found[side] <= TOLERANCE:
        raise InputError(
            f"Nothing was written: {side} embeddings of the export differ from the model's own by up to "
            f"{found[side]:.2g}, more than {TOLERANCE:g}."
        )


def check_cosine(found: dict[str, float]) -> None:
    """`InputError` where int8 turns an embedding too far, with the least cosine."""
    side = min(found, key=lambda one: np.nan_to_num(found[one], nan=-1.0))
    if not found[side] >= COSINE:
        raise InputError(
            f"Nothing was written: {side} embeddings in int8 have a cosine of only {found[side]:.5f} with the model's "
            f"own, less than {COSINE}. Export without --int8."
        )
