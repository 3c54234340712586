"""InfoNCE over all pairs of a batch: exact, forward and backward in tiles, several positives."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

from isthmus.errors import InputError
from isthmus.losses.gradients import Gradients
from isthmus.losses.ring import Ring
from isthmus.losses.sweeps import log_sums, softmax_
from isthmus.losses.tiles import Groups, Tiles, batch, exact, product_dtype, scalar, wide

_Positives = tuple[slice, Tensor, Tensor, Tensor]  # of a block: its place, row and column numbers, logits

KEPT = 1 << 20  # positives whose logits are kept from the forward pass, 20 MiB at most; more are recomputed


def infonce(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    *,
    groups: Groups | None = None,
    tile: int | None = None,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    """Symmetric InfoNCE (CLIP, Radford et al. 2021) with any number of positives per row.

    The loss of a row is the mean over its positives p of −log(e_p / (e_p + Σ negatives)), with
    e = exp(scale · x·y); its other positives are neither. Rows and columns are averaged apart, then halved.
    A row without a positive is a negative for the columns and has no loss of its own. A row without a
    negative costs 0.

    Args:
        x, y: [N, d] and [M, d], L2-normalised, one dtype. bf16 and fp16 multiply in their own precision, fp32
            under `torch.autocast` in autocast's: the logits are then rounded to it, a relative error of 2⁻⁹ in
            bf16. Sums are in fp32 and the vectors of the softmax in fp64.
        scale: inverse temperature, a float or a 0-d tensor with a gradient.
        groups: ids (gx [N], gy [M]), int64; x_i and y_j are positives where they are equal. Default: x_i and
            y_i belong together, which needs N = M.
        tile: side of square tiles; default: 1,536 × 1,024, and 512 × 512 where positives are many. It changes the
            result by rounding only. Memory beyond x, y and their gradients: y's gradient in fp32 (in a ring three of
            its blocks), y in the dtype of the products and sorted by group where that differs, a few times a tile's
            rows, and the positives' logits, which are recomputed where they would exceed 20 MiB.
        process_group: processes whose rows are one batch, such as `torch.distributed.group.WORLD`, each with as
            many. All return the loss of the whole batch, and its gradients for their own rows; the scale's is
            their share, so that gradients of parameters are to be summed over the processes, not averaged.

    Returns:
        A 0-d tensor in fp32 (fp64 for fp64).

    Raises:
        InputError: shapes or dtypes that do not fit, or groups in which no row has a positive.
    """
    ring = Ring(process_group)
    x, y, gx, gy = batch(x, y, groups, rank=ring.rank)
    if groups is not None and not torch.isin(ring.gather(gx), ring.gather(gy)).any():
        raise InputError("groups: no row of x shares a group with a row of y, so there are no positives.")
    return _InfoNCE.apply(x, y, scalar(scale, x), gx, gy, tile, product_dtype(x), ring)


class _InfoNCE(torch.autograd.Function):
    # With L_i the log of row i's sum over negatives, a positive costs softplus(L_i − z_ip). Its gradient is
    # −σ(L_i − z_ip), formed from the negatives alone: p − 1 would cancel to nothing on a saturated batch.
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        gx: Tensor,
        gy: Tensor,
        size: int | None,
        product: torch.dtype,
        ring: Ring,
    ) -> Tensor:
        all_gx, all_gy = ring.gather(gx), ring.gather(gy)
        row, column = (_Direction.between(a, b, len(all_gx)) for a, b in ((all_gx, all_gy), (all_gy, all_gx)))
        own = ring.own(len(x))
        ctx.ring, ctx.own, ctx.directions, ctx.arguments = ring, own, (row, column), (size, product)
        ctx.save_for_backward(x, y, scale, gx, all_gy)
        keep = bool(row.positives.sum() <= KEPT * ring.size)
        kept: list[_Positives] = []
        for place, tiles in ring.tiles(x, y, float(scale), gx, all_gy, size, product):
            for positives in _add_negatives(tiles, row[own], column[place]):
                if keep:
                    kept.append((place, *positives))
        for direction in (row, column):
            ring.log_sum_(direction.log_negatives)
        again = ring.tiles(x, y, float(scale), gx, all_gy, size, product)
        for place, i, j, z in kept if keep else _positives(again):
            row[own].add_positives(i, z)
            column[place].add_positives(j, z)
        for direction in (row, column):
            ring.sum_(direction.loss)
            ring.sum_(direction.pull)
        return ((row.mean() + column.mean()) / 2).to(wide(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale, gx, all_gy = ctx.saved_tensors
        row, column = ctx.directions
        size, product = ctx.arguments
        factor, of_y = float(grad) / (2 * len(row.positives)), ctx.needs_input_grad[1]
        gradients = Gradients(ctx.ring, x, float(scale), product, factor, of_y=of_y)
        for place, tiles in ctx.ring.tiles(x, y, float(scale), gx, all_gy, size, product):
            _add_gradients(gradients, tiles, row[ctx.own], column[place])
            gradients.pass_on()
        dx, dy, dscale = gradients.whole()
        return dx, dy, dscale.to(scale), *[None] * 5


def _add_negatives(tiles: Tiles, row: _Direction, column: _Direction) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Add up exp of the negatives' logits; also yields row numbers, column numbers and logits of the positives."""
    bounded = _bounded(tiles)
    for rows, cols, tile in tiles:
        if (at := tiles.positives(rows, cols)) is not None:
            yield rows.start + at[0], cols.start + at[1], tile[at].to(tiles.dtype)
            tile[at] = -torch.inf
        over_columns, over_rows = log_sums(tiles, tile, bounded)
        row.add_negatives(rows, over_columns)
        column.add_negatives(cols, over_rows)


def _add_gradients(gradients: Gradients, tiles: Tiles, row: _Direction, column: _Direction) -> None:
    """Add the contributions of the logits' gradients."""
    bounded = _bounded(tiles)
    row_softmax, column_softmax = (d.softmax(bounded, tiles.dtype) for d in (row, column))
    for rows, cols, tile in tiles:
        if (at := tiles.positives(rows, cols)) is not None:
            z = tile[at].to(tiles.dtype)
            push = row.push(rows.start + at[0], z) + column.push(cols.start + at[1], z)
        softmax_(tiles, tile, row_softmax[:, rows], column_softmax[:, cols], bounded)
        if at is not None:
            tile[at] = push.to(tile.dtype)
        gradients.add(tiles, rows, cols, tile)


def _positives(blocks: Iterator[tuple[slice, Tiles]]) -> Iterator[_Positives]:
    """The place of every block, with row numbers, column numbers and logits of its positives, computed again."""
    for place, tiles in blocks:
        for rows, cols, tile in tiles:
            if (at := tiles.positives(rows, cols)) is not None:
                yield place, rows.start + at[0], cols.start + at[1], tile[at].to(tiles.dtype)


@dataclass
class _Direction:
    """One direction of the loss: n anchors, each against all rows of the other side.

    These vectors are fp64: at scale 100 the rounding of L in fp32 alone is a relative error of 4e-6 between
    the gradients of positives and negatives, which nearly cancel in clustered embeddings.
    """

    positives: Tensor  # [n] how many there are
    weight: Tensor  # 0-d: N / anchors that have any; in units of 1/N, gradients do not underflow in fp16
    log_negatives: Tensor  # [n] L, the log of the sum over the negatives
    pull: Tensor  # [n] mean of σ(L − z) over the positives
    loss: Tensor  # [n] mean of softplus(L − z) over the positives

    @classmethod
    def between(cls, anchors: Tensor, others: Tensor, n: int) -> _Direction:
        others = others.sort().values
        positives = torch.searchsorted(others, anchors, right=True) - torch.searchsorted(others, anchors)
        zero = torch.zeros_like(positives, dtype=exact(positives.device))
        return cls(positives, n / positives.count_nonzero().to(zero), zero - torch.inf, zero.clone(), zero)

    def __getitem__(self, part: slice) -> _Direction:
        """Some of the anchors, sharing their memory."""
        vectors = self.positives, self.log_negatives, self.pull, self.loss
        positives, log_negatives, pull, loss = (vector[part] for vector in vectors)
        return _Direction(positives, self.weight, log_negatives, pull, loss)

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

    def softmax(self, bounded: bool, dtype: torch.dtype) -> Tensor:
        """[2, n] shifts and weights such that a negative's gradient is exp(z − shift) · weight."""
        log_weight = self.pull.log() - self.log_negatives + self.weight.log()
        negligible = self.pull < torch.finfo(dtype).tiny * 1e12  # it would only make denormals, which are slow
        log_weight.masked_fill_(negligible, -torch.inf)
        shift = torch.zeros_like(log_weight) if bounded else -log_weight
        shift = shift.clamp_(max=1e30).to(dtype)  # finite even without positives, where the weight is 0
        return torch.stack([shift, (log_weight + shift).exp_().to(dtype)])

    def push(self, anchor: Tensor, z: Tensor) -> Tensor:
        """The gradient of positives' logits."""
        return (self.log_negatives[anchor] - z).sigmoid_() * -self.weight / self.positives[anchor]


def _bounded(tiles: Tiles) -> bool:
    """Whether exp of all logits, and their sums, stay within the dtype's range and lose no term that matters."""
    norms = (torch.linalg.vector_norm(t, dim=1).max() for t in (tiles.x, tiles.y))
    bound = abs(tiles.scale) * float(math.prod(norms))
    return bound < -math.log(torch.finfo(tiles.dtype).tiny * 1e12)  # a row's greatest term, and those 1e-12 below
