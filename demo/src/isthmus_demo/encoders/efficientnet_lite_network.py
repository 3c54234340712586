"""EfficientNet-Lite: EfficientNet (Tan and Le 2019, arXiv 1905.11946) with ReLU6, without excitation.

Module names and TensorFlow's SAME padding follow `efficientnet_lite_pytorch`, whose state dicts this reads.
Torch alone: an exported model carries this file with it.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# One line per stage: blocks, kernel, stride, expansion, channels (EfficientNet-B0, table 1).
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280
SCALING = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}  # variant: width and depth multipliers


class EfficientNetLite(nn.Module):
    """[N, 3, H, W] to the head's feature map [N, 1280, H/32, W/32]; `stages` gives every step on the way.

    folded: as `fold_norms` leaves it.
    """

    normed: ClassVar = {"_conv_stem": "_bn0", "_conv_head": "_bn1"}

    def __init__(self, variant: int, folded: bool = False) -> None:
        super().__init__()
        width, depth = SCALING[variant]
        self._conv_stem = SameConv2d(3, STEM, 3, stride=2)
        self._bn0 = norm(STEM)
        blocks: list[InvertedResidual] = []
        self.ends = [0]  # number of blocks up to the end of each stage
        channels = STEM
        for i, (repeats, kernel, stride, expansion, out) in enumerate(STAGES):
            out = round_channels(out * width)
            fixed = i in (0, len(STAGES) - 1)  # Lite models do not deepen their first and last stage
            for k in range(repeats if fixed else math.ceil(repeats * depth)):
                blocks.append(InvertedResidual(channels, out, kernel, stride if k == 0 else 1, expansion))
                channels = out
            self.ends.append(len(blocks))
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv2d(channels, HEAD, 1)
        self._bn1 = norm(HEAD)
        if folded:
            fold_norms(self.eval())

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.stages(pixels)[-1])

    def stages(self, pixels: Tensor) -> list[Tensor]:
        """Feature maps of the stem and of each of the seven stages."""
        maps = [F.relu6(self._bn0(self._conv_stem(pixels)), inplace=True)]
        for first, last in pairwise(self.ends):
            maps.append(nn.Sequential(*self._blocks[first:last])(maps[-1]))
        return maps

    def states(self, pixels: Tensor) -> list[Tensor]:
        """Feature maps of the stem, of each stage, and of the head."""
        stages = self.stages(pixels)
        return [*stages, self.head(stages[-1])]

    def head(self, last: Tensor) -> Tensor:
        """The final 1×1 convolution, of which the classifier takes the average."""
        return F.relu6(self._bn1(self._conv_head(last)), inplace=True)


class InvertedResidual(nn.Module):
    """Mobile inverted bottleneck: expand, depthwise, project; a residual where shapes agree."""

    normed: ClassVar = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.expands, self.residual = expansion > 1, stride == 1 and channels == out
        if self.expands:
            self._expand_conv = SameConv2d(channels, hidden, 1)
            self._bn0 = norm(hidden)
        self._depthwise_conv = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self._bn1 = norm(hidden)
        self._project_conv = SameConv2d(hidden, out, 1)
        self._bn2 = norm(out)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: output ⌈size / stride⌉, the odd pixel at the far side."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        (height, width), kernel, stride = input.shape[-2:], self.kernel_size[0], self.stride[0]
        y, x = (max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in (height, width))
        padding = y // 2, x // 2
        if y % 2 or x % 2:  # more at one side: only these are copied into a larger map
            input, padding = F.pad(input, (x // 2, x - x // 2, y // 2, y - y // 2)), (0, 0)
        return F.conv2d(input, self.weight, self.bias, self.stride, padding, groups=self.groups)


def fold_norms(network: EfficientNetLite) -> None:
    """Merge each BatchNorm into the convolution before it: the same up to rounding, with one pass over the map less."""
    for module in network.modules():
        for convolution, norm in getattr(module, "normed", {}).items():
            if hasattr(module, convolution):
                setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
                setattr(module, norm, nn.Identity())


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of 8 that is not more than 10 % smaller."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
