"""Images as inputs of an encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from isthmus.data.images import from_array, to_rgb
from isthmus.errors import InputError


def to_pil(image: Any) -> Image.Image:
    """Upright RGB (`isthmus.data.images.to_rgb`) from a PIL image, an array as `from_array` takes it, or a tensor
    [3, H, W] in 0..1 or 0..255.
    """
    if isinstance(image, Tensor):
        return _from_tensor(image)
    if isinstance(image, np.ndarray):
        image = from_array(image)
    if not isinstance(image, Image.Image):
        raise InputError(f"an image encoder takes PIL images, arrays or tensors [3, H, W], not {type(image).__name__}.")
    return to_rgb(image)


def probe_image() -> Image.Image:
    """A small grey picture, to find out an encoder's widths."""
    return Image.new("RGB", (64, 64), (127, 127, 127))


def _from_tensor(image: Tensor) -> Image.Image:
    if image.ndim != 3 or image.shape[0] != 3:
        raise InputError(f"an image tensor is [3, H, W], not {list(image.shape)}.")
    pixels = image.detach().cpu()
    if pixels.is_floating_point():
        pixels = pixels.float()
        if not bool(pixels.isfinite().all()) or pixels.min() < 0 or pixels.max() > 255:
            raise InputError("an image tensor holds values in 0..1 or 0..255; this one does not (normalised already?).")
        pixels = (pixels * (255 if pixels.max() <= 1 else 1)).round()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy().astype(np.uint8))
