"""InfoNCE over all pairs of a batch: exact, forward and backward in tiles, several positives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from isthmus.errors import InputError
from isthmus.losses.tiles import Groups, Tiles, batch, scalar


def infonce(
    x: Tensor, y: Tensor, scale: float | Tensor, *, groups: Groups | None = None, tile: int | None = None
) -> Tensor:
    """Symmetric InfoNCE (CLIP, Radford et al. 2021) with any number of positives per row.

    The loss of a row is the mean over its positives p of −log(e_p / (e_p + Σ negatives)), with
    e = exp(scale · x·y); its other positives are neither. Rows and columns are averaged apart, then halved.
    A row without a positive is a negative for the columns and has no loss of its own. A row without a
    negative costs 0.

    Args:
        x, y: [N, d] and [M, d], L2-normalised, one dtype. bf16 and fp16 multiply in their own precision;
            sums are in fp32.
        scale: inverse temperature, a float or a 0-d tensor with a gradient.
        groups: ids (gx [N], gy [M]), int64; x_i and y_j are positives where they are equal. Default: x_i and
            y_i belong together, which needs N = M.
        tile: side of the square tiles (default 2,048; 512 where positives are many). Memory beyond x, y and
            their gradients is a few tiles and the positives' logits, which are recomputed where they would
            exceed tile · max(N, M). It changes the result by rounding only.

    Returns:
        A 0-d tensor in fp32 (fp64 for fp64).

    Raises:
        InputError: shapes or dtypes that do not fit, or groups in which no row has a positive.
    """
    x, y, gx, gy = batch(x, y, groups)
    if groups is not None and not torch.isin(gx, gy).any():
        raise InputError("groups: no row of x shares a group with a row of y, so there is nothing to pull together.")
    return _InfoNCE.apply(x, y, scalar(scale, x), gx, gy, tile)


class _InfoNCE(torch.autograd.Function):
    # With L_i the log of row i's sum over negatives, a positive costs softplus(L_i − z_ip). Its gradient is
    # −σ(L_i − z_ip), formed from the negatives alone: p − 1 would cancel to nothing on a saturated batch.
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: Tensor, gx: Tensor, gy: Tensor, size: int | None) -> Tensor:
        tiles = Tiles(x, y, float(scale), gx, gy, size)
        row = _Direction.blank(tiles.last - tiles.first, len(x))
        column = _Direction.blank(torch.searchsorted(gx, gy, right=True) - torch.searchsorted(gx, gy), len(x))
        keep = tiles.total <= tiles.size * max(len(x), len(y))
        shift = _shift(tiles)
        kept = {}
        for rows, cols in tiles:
            z = tiles.logits(rows, cols)
            if (at := tiles.positives(rows, cols)) is not None:
                if keep:
                    kept[rows.start, cols.start] = z[at]
                z[at] = -torch.inf
            over_columns, over_rows = _log_sums(z, shift, tiles.spare(z))
            row.add_negatives(rows, over_columns)
            column.add_negatives(cols, over_rows)
        for rows, cols in tiles:
            if (at := tiles.positives(rows, cols)) is not None:
                z = kept.pop((rows.start, cols.start)) if keep else tiles.logits(rows, cols)[at]
                row.add_positives(rows.start + at[0], z)
                column.add_positives(cols.start + at[1], z)
        ctx.save_for_backward(x, y, scale, gx, gy)
        ctx.size, ctx.shift, ctx.directions = tiles.size, shift, (row, column)
        return ((row.mean() + column.mean()) / 2).to(tiles.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, gx, gy = ctx.saved_tensors
        tiles = Tiles(x, y, float(scale), gx, gy, ctx.size)
        row, column = ctx.directions
        row_shift, row_weight = row.softmax(ctx.shift, tiles.dtype)
        column_shift, column_weight = column.softmax(ctx.shift, tiles.dtype)
        for rows, cols in tiles:
            z = tiles.logits(rows, cols)
            at = tiles.positives(rows, cols)
            if at is not None:
                push = row.push(rows.start + at[0], z[at]) + column.push(cols.start + at[1], z[at])
            p, spare = z, tiles.spare(z)
            if ctx.shift is None:
                torch.sub(z, row_shift[rows, None], out=spare).exp_().mul_(row_weight[rows, None])
                p.sub_(column_shift[cols]).exp_().mul_(column_weight[cols]).add_(spare)
            else:
                torch.add(row_weight[rows, None], column_weight[cols], out=spare)
                p.sub_(ctx.shift).exp_().mul_(spare)
            if at is not None:
                p[at] = push.to(p.dtype)
            tiles.backpropagate(rows, cols, p)
        dx, dy, dscale = tiles.gradients(grad / (2 * len(x)))
        return dx, dy, dscale.to(scale), None, None, None


@dataclass
class _Direction:
    """One direction of the loss: n anchors, each against all rows of the other side.

    These vectors are fp64: at scale 100 the rounding of L in fp32 alone is a relative error of 4e-6 between
    the pull of the positives and the push of the negatives, which nearly cancel in clustered embeddings.
    """

    positives: Tensor  # [n] how many there are
    weight: Tensor  # 0-d: N / anchors that have any; in units of 1/N, gradients do not underflow in fp16
    log_negatives: Tensor  # [n] L, the log of the sum over the negatives
    pull: Tensor  # [n] mean of σ(L − z) over the positives
    loss: Tensor  # [n] mean of softplus(L − z) over the positives

    @classmethod
    def blank(cls, positives: Tensor, n: int) -> _Direction:
        zero = torch.zeros_like(positives, dtype=torch.float64)
        return cls(positives, n / positives.count_nonzero().double(), zero - torch.inf, zero.clone(), zero)

    def add_negatives(self, where: slice, log_sum: Tensor) -> None:
        total = self.log_negatives[where]
        torch.logaddexp(total, log_sum, out=total)

    def add_positives(self, anchor: Tensor, z: Tensor) -> None:
        gap = self.log_negatives[anchor] - z
        count = self.positives[anchor]
        self.loss.index_add_(0, anchor, F.softplus(gap, threshold=40) / count)
        self.pull.index_add_(0, anchor, gap.sigmoid() / count)

    def mean(self) -> Tensor:
        return self.loss.sum() / self.positives.count_nonzero()

    def softmax(self, shift: float | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """[n] shifts and weights such that a negative's gradient is exp(z − shift) · weight."""
        log_weight = self.pull.log() - self.log_negatives + self.weight.log()
        log_weight.masked_fill_(self.pull == 0, -torch.inf)
        shifts = -log_weight if shift is None else torch.full_like(log_weight, shift)
        shifts = shifts.clamp_(max=1e30).to(dtype)  # finite where there is nothing to pull: the weight is 0
        return shifts, (log_weight + shifts).exp_().to(dtype)

    def push(self, anchor: Tensor, z: Tensor) -> Tensor:
        """The gradient of positives' logits."""
        return (self.log_negatives[anchor] - z).sigmoid_() * -self.weight / self.positives[anchor]


def _shift(tiles: Tiles) -> float | None:
    """A bound on all logits, if exp(z − bound) underflows for no row or column that matters; else None."""
    norms = (torch.linalg.vector_norm(t, dim=1, dtype=tiles.dtype).max() for t in (tiles.x, tiles.y))
    bound = abs(tiles.scale) * float(math.prod(norms))
    room = -math.log(torch.finfo(tiles.dtype).tiny * 1e12)  # a row's greatest term, and those 1e-12 below it
    return math.ceil(bound) if 2 * bound < room else None  # whole: exact in every dtype


def _log_sums(z: Tensor, shift: float | None, spare: Tensor) -> tuple[Tensor, Tensor]:
    """log Σ exp over the columns and over the rows of a tile, in fp64. The tile is overwritten."""
    if shift is not None:
        e = z.sub_(shift).exp_()
        return e.sum(1).double().log_().add_(shift), e.sum(0).double().log_().add_(shift)
    lowest = torch.finfo(z.dtype).min  # instead of −∞ where a tile holds positives only
    row, column = (z.amax(dim).clamp_(min=lowest) for dim in (1, 0))
    over_columns = torch.sub(z, row[:, None], out=spare).exp_().sum(1)
    over_rows = z.sub_(column).exp_().sum(0)
    return over_columns.double().log_().add_(row), over_rows.double().log_().add_(column)
