"""The temperature of the losses, and the start value of the sigmoid's bias."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from isthmus.errors import UsageError


class Scale(nn.Module):
    """The inverse temperature: learned as a logarithm and kept within [min, max].

    Call it for the scale, a 0-d tensor. It clamps the parameter itself, as open_clip does after each step:
    clamping the value only would stop its gradient, and a scale beyond the bound could never come back.

    Args:
        init: first value; CLIP starts from 1 / 0.07 ≈ 14.3, SAIL from 20.
        min, max: bounds; CLIP and SAIL use [1, 100].
        learn: False keeps it at `init`.

    Raises:
        UsageError: bounds that are not 0 < min ≤ init ≤ max.
    """

    def __init__(self, init: float = 1 / 0.07, *, min: float = 1.0, max: float = 100.0, learn: bool = True) -> None:
        super().__init__()
        if not 0 < min <= init <= max:
            raise UsageError(f"scale = {init} must lie within its bounds, {min} to {max}.")
        self.bounds = math.log(min), math.log(max)
        self.log_scale = nn.Parameter(torch.tensor(math.log(init)), requires_grad=learn)

    def forward(self) -> Tensor:
        with torch.no_grad():
            self.log_scale.clamp_(*self.bounds)
        return self.log_scale.exp()


def initial_bias(n: int, *, scale: float = 0.0, cosine: float = 0.0) -> float:
    """The start value of the sigmoid loss's bias for a batch of n pairs: −log(n − 1) − scale · cosine.

    A pair of mean similarity is then positive with probability 1/n, as in the batch, so that the n (n − 1) negatives do
    not dominate the n positives at first. SigLIP's and SAIL's −10 is this for a batch of about 22,000. `cosine` is the
    mean similarity of unmatched pairs, 0 for centred features.
    """
    return -math.log(max(n - 1, 1)) - scale * cosine
