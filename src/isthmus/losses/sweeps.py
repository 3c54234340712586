"""Operations on a tile of logits between its matrix products: sums of exponentials, softmax, sigmoid.

Each sweep is compiled if possible (`compiled`), and otherwise works in strips, in place (`Tiles.strips`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from isthmus.losses.compiled import compiled
from isthmus.losses.tiles import Tiles, exact


def log_sums(tiles: Tiles, tile: Tensor, bounded: bool) -> tuple[Tensor, Tensor]:
    """log Σ exp(z) over the columns [rows] and over the rows [width] of a tile, in the exact dtype.

    bounded: exp of no z leaves the dtype's range.
    """
    if (native := compiled(tile)) is not None:
        return native.log_sums(tile, bounded)
    over_columns = torch.empty(len(tile), dtype=exact(tile.device), device=tile.device)
    over_rows = over_columns.new_full(tile.shape[1:], -torch.inf)
    for rows, _, z, spare in tiles.strips(tile):
        over_columns[rows], part = _strip_log_sums(z, spare, bounded)
        torch.logaddexp(over_rows, part, out=over_rows)
    return over_columns, over_rows


def softmax_(tiles: Tiles, tile: Tensor, row: Tensor, column: Tensor, bounded: bool) -> None:
    """Each z becomes exp(z − shift) · weight, of its row plus of its column.

    row [2, rows] and column [2, width]: shifts and weights, fp32 (fp64 for fp64); shifts are 0 if `bounded`.
    """
    if (native := compiled(tile)) is not None:
        native.softmax_(tile, row, column, bounded)
        return
    for rows, part, z, spare in tiles.strips(tile):
        part.copy_(_strip_softmax(z, spare, row[:, rows], column, bounded))


def sigmoid_(tiles: Tiles, tile: Tensor, bias: float) -> Tensor:
    """Each z becomes σ(z + bias); [2] sums of log(1 + exp(z + bias)) and of the new z, in the exact dtype."""
    if (native := compiled(tile)) is not None:
        return native.sigmoid_(tile, bias)
    sums = torch.zeros(2, dtype=exact(tile.device), device=tile.device)
    for _, part, z, spare in tiles.strips(tile):
        loss = _softplus_sum(z.add_(bias), spare)
        sums += torch.stack([loss, z.sigmoid_().sum()])
        part.copy_(z)
    return sums


def _strip_log_sums(z: Tensor, spare: Tensor, bounded: bool) -> tuple[Tensor, Tensor]:
    """`log_sums` of a strip, which is overwritten."""
    if bounded:
        e = z.exp_()
        return e.sum(1).to(exact(z.device)).log_(), e.sum(0).to(exact(z.device)).log_()
    lowest = torch.finfo(z.dtype).min  # instead of −∞ where there are positives only
    row, column = (z.amax(dim).clamp_(min=lowest) for dim in (1, 0))
    over_columns = torch.sub(z, row[:, None], out=spare).exp_().sum(1)
    over_rows = z.sub_(column).exp_().sum(0)
    return over_columns.to(exact(z.device)).log_().add_(row), over_rows.to(exact(z.device)).log_().add_(column)


def _strip_softmax(z: Tensor, spare: Tensor, row: Tensor, column: Tensor, bounded: bool) -> Tensor:
    """`softmax_` of a strip, which is overwritten; valid until the next strip."""
    (row_shift, row_weight), (column_shift, column_weight) = row[:, :, None], column
    if bounded:
        torch.add(row_weight, column_weight, out=spare)
        return z.exp_().mul_(spare)
    torch.sub(z, row_shift, out=spare).exp_().mul_(row_weight)
    return z.sub_(column_shift).exp_().mul_(column_weight).add_(spare)


def _softplus_sum(z: Tensor, spare: Tensor) -> Tensor:
    """Σ log(1 + exp(z)), as max(z, 0) + log(1 + exp(−|z|)): F.softplus takes three times as long."""
    torch.abs(z, out=spare)
    return torch.clamp(z, min=0).sum() + spare.neg_().exp_().log1p_().sum()
