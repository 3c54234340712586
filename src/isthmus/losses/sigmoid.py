"""The sigmoid loss over all pairs of a batch: exact, in tiles, several positives."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from isthmus.errors import UsageError, did_you_mean
from isthmus.losses.tiles import Groups, Tiles, batch, scalar

NORMALIZE = ("batch", "pairs")


def sigmoid(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    bias: float | Tensor,
    *,
    groups: Groups | None = None,
    normalize: str = "batch",
    tile: int | None = None,
) -> Tensor:
    """Sigmoid loss (SigLIP, Zhai et al. 2023): −Σ log σ(±(scale · x·y + bias)), + where the groups are equal.

    Args:
        x, y: [N, d] and [M, d], L2-normalised, one dtype. bf16 and fp16 multiply in their own precision;
            sums are in fp32.
        scale, bias: floats or 0-d tensors with a gradient. See `initial_bias`.
        groups: ids (gx [N], gy [M]), int64; default: x_i and y_i belong together, which needs N = M.
        normalize: "batch" divides by N (SigLIP), "pairs" by N · M (SAIL, Zhang et al. 2025).
        tile: side of the square tiles (default 2,048; 512 where positives are many). It changes the result
            by rounding only.

    Returns:
        A 0-d tensor in fp32 (fp64 for fp64).

    Raises:
        InputError: shapes or dtypes that do not fit.
        UsageError: an unknown `normalize`.
    """
    if normalize not in NORMALIZE:
        raise UsageError(f"normalize = {normalize!r} does not exist.{did_you_mean(normalize, NORMALIZE)}")
    x, y, gx, gy = batch(x, y, groups)
    divisor = len(x) if normalize == "batch" else len(x) * len(y)
    scale, bias = scalar(scale, x), scalar(bias, x)
    differentiate = torch.is_grad_enabled() and any(t.requires_grad for t in (x, y, scale, bias))
    return _Sigmoid.apply(x, y, scale, bias, gx, gy, divisor, tile, differentiate)


class _Sigmoid(torch.autograd.Function):
    # No normaliser couples the pairs, so that the gradient of a tile is known as soon as its logits are: it
    # is formed in the forward pass, which saves the backward pass a matrix product.
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        bias: Tensor,
        gx: Tensor,
        gy: Tensor,
        divisor: int,
        size: int | None,
        differentiate: bool,
    ) -> Tensor:
        tiles = Tiles(x, y, float(scale), gx, gy, size)
        loss, dbias = x.new_zeros(2, dtype=tiles.dtype)
        for rows, cols in tiles:
            z = tiles.logits(rows, cols).add_(float(bias))
            at = tiles.positives(rows, cols)
            if at is not None:
                z[at] = -z[at]
            loss += F.softplus(z, threshold=40).sum()
            if not differentiate:
                continue
            p = z.sigmoid_()
            if at is not None:
                p[at] = -p[at]
            dbias += p.sum()
            tiles.backpropagate(rows, cols, p)
        if differentiate:
            dx, dy, dscale = tiles.gradients(1 / x.new_tensor(divisor, dtype=tiles.dtype))
            ctx.save_for_backward(dx, dy, dscale.to(scale), (dbias / divisor).to(bias))
        return loss / divisor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *((grad * saved).to(saved) for saved in ctx.saved_tensors), None, None, None, None, None
