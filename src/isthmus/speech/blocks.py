"""The blocks between frozen states and heads: masked norm, positions, the temporal back-end of one modality."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.fusion.aggregators import Static
from isthmus.speech.alignment import valid


class MaskedNorm(nn.Module):
    """Each sequence [T, D] minus its mean, over its deviation, both over all valid steps and channels together.

    No parameters. forward(x [N, T, D], mask [N, T]) → [N, T, D], zeros where the mask is False.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        kept = mask[..., None].to(x.dtype)
        count = (kept.sum(dim=(1, 2), keepdim=True) * x.shape[-1]).clamp(min=1)
        mean = (x * kept).sum(dim=(1, 2), keepdim=True) / count
        variance = ((x - mean).square() * kept).sum(dim=(1, 2), keepdim=True) / count
        return (x - mean) / torch.sqrt(variance + self.eps) * kept


def positions(length: int, width: int, like: Tensor) -> Tensor:
    """Sinusoidal positions [length, width] of any length (Vaswani et al., 2017), of the type and device of `like`."""
    time = torch.arange(length, device=like.device, dtype=torch.float32)[:, None]
    even = torch.arange(0, width, 2, device=like.device, dtype=torch.float32)
    angle = time * torch.exp(even * (-math.log(10_000.0) / width))
    found = torch.zeros(length, width, device=like.device)
    found[:, 0::2], found[:, 1::2] = angle.sin(), angle.cos()[:, : width // 2]
    return found.to(like.dtype)


class LayersNorm(nn.Module):
    """Layers of a frozen encoder side by side, each token of each normalised: [N, L, K · D] to the same. No parameters.

    For states before an encoder's final norm, of which a few features are hundreds of times as large as the others.
    """

    def __init__(self, layers: int = 1) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        split = x.unflatten(-1, (self.layers, -1))
        return F.layer_norm(split, split.shape[-1:]).flatten(-2)


class LayersMix(nn.Module):
    """Layers side by side, mixed by learned weights (SAUM, as in `isthmus.fusion`): [N, L, K · D] to [N, L, D].

    In speech this is SUPERB's weighted sum of layers (Yang et al., 2021), with a norm for each layer.
    """

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.layers, self.static = layers, Static(layers, width, 0, vector=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.static(x.unflatten(-1, (self.layers, -1)).transpose(1, 2), None, None, None).values


class TemporalBackEnd(nn.Module):
    """From aligned frames to steps: strided convolution, masked norm, ReLU, 1 × 1 convolution, positions, Transformer.

    inputs: width of the frames. stride: frames in a step (`alignment.stride_of`). The Transformer is that of torch with
    the norm behind each sum, and a final norm of its own. front: what frames go through first. early: norms before each
    block instead, so that little data and a high rate do not end where all is blank.

    forward(x [N, stride · T, inputs], steps [N]) → [N, T, width], zeros behind each one's steps.
    """

    def __init__(
        self,
        inputs: int,
        width: int = 512,
        stride: int = 1,
        depth: int = 6,
        heads: int = 8,
        dropout: float = 0.1,
        *,
        front: nn.Module | None = None,
        early: bool = False,
    ) -> None:
        super().__init__()
        self.front = front or nn.Identity()
        self.reduce = nn.Conv1d(inputs, width, kernel_size=stride, stride=stride)
        self.norm = MaskedNorm()
        self.mix = nn.Conv1d(width, width, kernel_size=1)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, batch_first=True, norm_first=early)
        self.encoder = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        for one in self.encoder.layers:  # torch copies one layer, weights and all
            for parameter in one.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        x = self.reduce(self.front(x).transpose(1, 2)).transpose(1, 2)
        mask = valid(steps, x.shape[1])
        x = F.relu(self.norm(x, mask))
        x = self.mix(x.transpose(1, 2)).transpose(1, 2) + positions(x.shape[1], x.shape[2], x)
        return self.encoder(x, src_key_padding_mask=~mask) * mask[..., None]
