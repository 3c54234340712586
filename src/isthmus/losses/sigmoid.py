"""The sigmoid loss over all pairs of a batch: exact, in tiles, several positives."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from isthmus.errors import UsageError, did_you_mean
from isthmus.losses.tiles import Groups, Tiles, batch, exact, product_dtype, scalar

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
        x, y: [N, d] and [M, d], L2-normalised, one dtype. bf16 and fp16 multiply in their own precision, fp32
            under `torch.autocast` in autocast's: the logits are then rounded to it, a relative error of 2⁻⁹ in
            bf16. Sums are in fp32.
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
    return _Sigmoid.apply(x, y, scale, bias, gx, gy, divisor, tile, product_dtype(x), differentiate)


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
        product: torch.dtype,
        differentiate: bool,
    ) -> Tensor:
        tiles = Tiles(x, y, float(scale), gx, gy, size, product)
        loss, dbias = torch.zeros(2, dtype=exact(x.device), device=x.device)
        for rows, cols, tile in tiles:
            if (at := tiles.positives(rows, cols)) is not None:
                z = tile[at].to(tiles.dtype) + float(bias)
                loss += F.softplus(-z, threshold=40).sum()
                push = -torch.sigmoid(-z)
                dbias += push.sum()
                tile[at] = -torch.inf
            for _, part, z, spare in tiles.strips(rows, tile):
                z.add_(float(bias))
                loss += _softplus_sum(z, spare)
                if differentiate:
                    dbias += z.sigmoid_().sum()
                    part.copy_(z)
            if differentiate:
                if at is not None:
                    tile[at] = push.to(tile.dtype)
                tiles.backpropagate(rows, cols, tile)
        if differentiate:
            dx, dy, dscale = tiles.gradients(1 / divisor)
            ctx.save_for_backward(dx, dy, dscale.to(scale), (dbias / divisor).to(bias))
        return (loss / divisor).to(tiles.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        if grad != 1:
            saved = tuple((grad * t).to(t) for t in saved)
        return *saved, None, None, None, None, None, None


def _softplus_sum(z: Tensor, spare: Tensor) -> Tensor:
    """Σ log(1 + exp(z)), as max(z, 0) + log(1 + exp(−|z|)): F.softplus takes three times as long."""
    torch.abs(z, out=spare)
    return torch.clamp(z, min=0).sum() + spare.neg_().exp_().log1p_().sum()
