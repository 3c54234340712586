"""Whole pictures of any size as inputs of an encoder, without the resizing and cropping of its own preprocessing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from isthmus.encoders.base import Encoder, Inputs
from isthmus.errors import UsageError


class WholePictures:
    """The rest of an encoder's preprocessing: a scale and an offset per channel.

    Both are found from the preprocessing of a black and of a white picture. side: pixels of its own square input; low,
    high: of black and of white, [3, 1, 1].

    Raises `UsageError` for an encoder whose inputs are not one tensor of pictures.
    """

    def __init__(self, encoder: Encoder) -> None:
        black, white = (_pixels(encoder, Image.new("RGB", (256, 256), colour)) for colour in ("black", "white"))
        (self.key, low), (_, high) = black, white
        self.side = low.shape[-1]
        self.low, self.high = (pixels.mean(dim=(0, 2, 3))[:, None, None] for pixels in (low, high))
        self.black: Inputs = {self.key: low}

    def __call__(self, images: Sequence[Image.Image]) -> Inputs:
        """Images of one size, 8-bit RGB, as they are."""
        pixels = torch.stack([_tensor(image) for image in images])
        return {self.key: self.low + (self.high - self.low) * pixels}


def _pixels(encoder: Encoder, image: Image.Image) -> tuple[str, Tensor]:
    """The one input that is a picture, and its name: [1, 3, H, W]."""
    inputs = encoder.preprocess([image])
    pictures = [key for key, value in inputs.items() if isinstance(value, Tensor) and value.ndim == 4]
    if len(pictures) != 1 or len(inputs) != 1:
        raise UsageError(f"{encoder.uri}: its inputs are not one tensor [N, 3, H, W], but {list(inputs)}.")
    return pictures[0], inputs[pictures[0]]


def _tensor(image: Image.Image) -> Tensor:
    """[3, H, W] in 0..1."""
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.view(image.height, image.width, 3).permute(2, 0, 1).float() / 255
