"""The sigmoid loss over all pairs of a batch: exact, in tiles, several positives."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

from isthmus.errors import UsageError, did_you_mean
from isthmus.losses.gradients import Gradients
from isthmus.losses.ring import Ring
from isthmus.losses.sweeps import sigmoid_
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
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Sigmoid loss (SigLIP, Zhai et al. 2023): −Σ log σ(±(scale · x·y + bias)), + where the groups are equal.

    Args:
        x, y: [N, d] and [M, d], L2-normalised, one dtype. bf16 and fp16 multiply in their own precision, fp32
            under `torch.autocast` in autocast's: the logits are then rounded to it, a relative error of 2⁻⁹ in
            bf16. Sums are in fp32.
        scale, bias: floats or 0-d tensors with a gradient. See `initial_bias`.
        groups: ids (gx [N], gy [M]), int64; default: x_i and y_i belong together, which needs N = M.
        normalize: "batch" divides by N (SigLIP), "pairs" by N · M (SAIL, Zhang et al. 2025).
        tile: side of square tiles; default: 1,536 × 1,024, and 512 × 512 where positives are many. It changes the
            result by rounding only.
        process_group: processes whose rows are one batch, each with as many: see `infonce`.

    Returns:
        A 0-d tensor in fp32 (fp64 for fp64).

    Raises:
        InputError: shapes or dtypes that do not fit.
        UsageError: an unknown `normalize`.
    """
    if normalize not in NORMALIZE:
        raise UsageError(f"normalize = {normalize!r} does not exist.{did_you_mean(normalize, NORMALIZE)}")
    ring = Ring(process_group)
    x, y, gx, gy = batch(x, y, groups, rank=ring.rank)
    scale, bias = scalar(scale, x), scalar(bias, x)
    differentiate = torch.is_grad_enabled() and any(t.requires_grad for t in (x, y, scale, bias))
    return _Sigmoid.apply(x, y, scale, bias, gx, gy, normalize, tile, product_dtype(x), ring, differentiate)


class _Sigmoid(torch.autograd.Function):
    # No normaliser couples the pairs, so that the gradient of a tile is known as soon as its logits are: it
    # is formed in the forward pass, which saves the backward pass a matrix product. In fp16 it is kept in units of
    # 1/N: what is divided by N · M would be lost before a gradient scaler multiplies it.
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        bias: Tensor,
        gx: Tensor,
        gy: Tensor,
        normalize: str,
        size: int | None,
        product: torch.dtype,
        ring: Ring,
        differentiate: bool,
    ) -> Tensor:
        n, m = len(ring.gather(gx)), ring.size * len(y)
        divisor = n if normalize == "batch" else n * m
        unit = n if x.dtype == torch.float16 else divisor
        sums = torch.zeros(2, dtype=exact(x.device), device=x.device)  # of the losses, and of the bias's gradients
        gradients = None
        if differentiate:
            gradients = Gradients(ring, x, float(scale), product, 1 / unit, of_y=ctx.needs_input_grad[1])
        for _, tiles in ring.tiles(x, y, float(scale), gx, ring.gather(gy), size, product):
            for rows, cols, tile in tiles:
                _sweep(tiles, rows, cols, tile, float(bias), sums)
                if gradients:
                    gradients.add(tiles, rows, cols, tile)
            if gradients:
                gradients.pass_on()
        loss, dbias = sums[0] / divisor, sums[1] / unit
        if gradients:
            ctx.save_for_backward(*gradients.whole(), dbias)
            ctx.dtypes, ctx.share = (scale.dtype, bias.dtype), unit / divisor
        ring.sum_(loss)
        return loss.to(tiles.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dx, dy, dscale, dbias = ctx.saved_tensors
        factor = grad * ctx.share
        if factor != 1:
            dx, dy = (None if d is None else (factor * d).to(d) for d in (dx, dy))
        dscale, dbias = ((factor * d).to(dtype) for d, dtype in zip((dscale, dbias), ctx.dtypes, strict=True))
        return dx, dy, dscale, dbias, *[None] * 7


def _sweep(tiles: Tiles, rows: slice, cols: slice, tile: Tensor, bias: float, sums: Tensor) -> None:
    """Turn a tile of logits into their gradients; add its losses and its gradients to the two `sums`."""
    if (at := tiles.positives(rows, cols)) is not None:
        z = tile[at].to(tiles.dtype) + bias
        push = -torch.sigmoid(-z)
        sums += torch.stack([F.softplus(-z, threshold=40).sum(), push.sum()])
        tile[at] = -torch.inf
    sums += sigmoid_(tiles, tile, bias)
    if at is not None:
        tile[at] = push.to(tile.dtype)
