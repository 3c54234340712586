"""EfficientNet-Lite runs folded and padded by halves: the same numbers as layer by layer."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isthmus_demo.encoders.efficientnet_lite_network import EfficientNetLite, SameConv2d, fold_norms


@pytest.mark.parametrize("size", [(32, 32), (33, 30), (45, 61)])
def test_folding_the_norms_changes_nothing_but_rounding(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = EfficientNetLite(0).eval()
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
        nn.init.uniform_(norm.weight, 0.8, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
    folded = copy.deepcopy(network)
    fold_norms(folded)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    pixels = torch.randn(2, 3, *size)
    with torch.inference_mode():
        maps = zip(folded.stages(pixels), network.stages(pixels), strict=True)
        for one, other in [*maps, (folded(pixels), network(pixels))]:
            assert other.std() > 1e-3
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("size", [(7, 7), (8, 8), (9, 12)])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (5, 1), (3, 2), (5, 2)])
def test_padding_is_tensorflows_same(size: tuple[int, int], kernel: int, stride: int) -> None:
    convolution = SameConv2d(4, 4, kernel, stride, groups=4)
    x = torch.randn(1, 4, *size)
    total = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in size]
    (top, bottom), (left, right) = ((n // 2, n - n // 2) for n in total)
    expected = F.conv2d(F.pad(x, (left, right, top, bottom)), convolution.weight, None, stride, groups=4)
    torch.testing.assert_close(convolution(x), expected)
