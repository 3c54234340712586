"""The N × M similarities of a batch in square tiles, so that the whole matrix never exists."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from isthmus.errors import InputError, UsageError

TILE = 2048  # 16 MiB of fp32: large enough that matrix products dominate, also in bf16

Groups = tuple[Tensor, Tensor]


class Tiles:
    """Logits `scale · x yᵀ` tile by tile, where their positives are, and the way back to x and y.

    x [N, d] and y [M, d] of one dtype; gx [N] and gy [M] sorted int64 group ids; `total` counts their
    positives. Products are computed in the dtype of x, everything else in fp32 (fp64 for fp64). Two
    tile × tile buffers are reused for every tile.
    """

    def __init__(self, x: Tensor, y: Tensor, scale: float, gx: Tensor, gy: Tensor, size: int | None) -> None:
        if size is not None and size < 1:
            raise UsageError(f"tile = {size} must be a positive number of rows.")
        self.x, self.y, self.scale = x, y, scale
        self.dtype = wide(x.dtype)
        # Sorted groups make the positives of a row one interval of columns, and those of a tile a short list.
        self.first = torch.searchsorted(gy, gx)
        self.last = torch.searchsorted(gy, gx, right=True)
        self.total = int((self.last - self.first).sum())
        crowded = 64 * self.total > len(x) * len(y)  # the list of a tile's positives would outweigh the tile
        self.size = size or (TILE // 4 if crowded else TILE)
        area = min(self.size, len(x)) * min(self.size, len(y))
        self._buffers = [torch.empty(area, dtype=self.dtype, device=x.device) for _ in range(2)]
        self._narrow = None if x.dtype == self.dtype else torch.empty(area, dtype=x.dtype, device=x.device)

    @cached_property
    def dx(self) -> Tensor:
        """[N, d] sum of what the tiles gave back so far, scale left out."""
        return torch.zeros_like(self.x, dtype=self.dtype)

    @cached_property
    def dy(self) -> Tensor:
        """[M, d], likewise."""
        return torch.zeros_like(self.y, dtype=self.dtype)

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        n, m = len(self.x), len(self.y)
        for i in range(0, n, self.size):
            for j in range(0, m, self.size):
                yield slice(i, min(i + self.size, n)), slice(j, min(j + self.size, m))

    def logits(self, rows: slice, cols: slice) -> Tensor:
        """`scale · x[rows] y[cols]ᵀ` in the first buffer: valid until the next call."""
        x, y = self.x[rows], self.y[cols]
        z = _view(self._buffers[0], len(x), len(y))
        if self._narrow is None:
            return torch.addmm(z.new_zeros(()), x, y.T, beta=0, alpha=self.scale, out=z)
        product = torch.mm(x, y.T, out=_view(self._narrow, len(x), len(y)))
        return torch.mul(product, self.scale, out=z)

    def spare(self, like: Tensor) -> Tensor:
        """The second buffer, in the shape of a tile."""
        return _view(self._buffers[1], *like.shape)

    def positives(self, rows: slice, cols: slice) -> tuple[Tensor, Tensor] | None:
        """Row and column numbers (within the tile) of its positive pairs; None where there is none."""
        first = self.first[rows].clamp(min=cols.start)
        count = (self.last[rows].clamp(max=cols.stop) - first).clamp_(min=0)
        total = int(count.sum())
        if total == 0:
            return None
        i = torch.repeat_interleave(count, output_size=total)
        before = count.cumsum(0) - count
        j = torch.arange(total, device=i.device) + (first - cols.start - before)[i]
        return i, j

    def backpropagate(self, rows: slice, cols: slice, p: Tensor) -> None:
        """Add what the gradient `p` of a tile of logits (scale left out) gives to `dx` and `dy`."""
        if self._narrow is None:
            self.dx[rows].addmm_(p, self.y[cols])
            self.dy[cols].addmm_(p.T, self.x[rows])
        else:
            p = _view(self._narrow, *p.shape).copy_(p)
            self.dx[rows] += torch.mm(p, self.y[cols])
            self.dy[cols] += torch.mm(p.T, self.x[rows])

    def gradients(self, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, y and scale after every tile went back; `factor` multiplies them all.

        Each logit is scale · x_i·y_j, so that Σ p_ij x_i·y_j, the gradient of the scale, is Σ x_i·dx_i.
        """
        dx, dy = self.dx.mul_(factor), self.dy.mul_(factor)
        scale = torch.linalg.vecdot(self.x.to(self.dtype), dx).sum()
        return dx.mul_(self.scale).to(self.x.dtype), dy.mul_(self.scale).to(self.y.dtype), scale


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums are kept in: fp64 for fp64, else fp32."""
    return torch.promote_types(dtype, torch.float32)


def batch(x: Tensor, y: Tensor, groups: Groups | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Check the arguments every loss shares; x, y and their group ids, sorted by group."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise InputError(f"x [N, d] and y [M, d] expected, not {list(x.shape)} and {list(y.shape)}.")
    if x.dtype != y.dtype or not x.is_floating_point():
        raise InputError(f"x and y must share one floating dtype, not {x.dtype} and {y.dtype}.")
    if groups is None:
        if len(x) != len(y):
            raise InputError(f"{len(x)} rows of x and {len(y)} of y: say with groups= which belong together.")
        ids = torch.arange(len(x), device=x.device)
        return x.contiguous(), y.contiguous(), ids, ids
    gx, gy = (torch.as_tensor(g, dtype=torch.int64, device=x.device) for g in groups)
    if gx.shape != x.shape[:1] or gy.shape != y.shape[:1]:
        raise InputError(
            f"groups of shape {list(gx.shape)} and {list(gy.shape)} for {len(x)} rows of x and {len(y)} of y."
        )
    (gx, x_order), (gy, y_order) = torch.sort(gx), torch.sort(gy)
    return x.index_select(0, x_order), y.index_select(0, y_order), gx, gy


def scalar(value: float | Tensor, like: Tensor) -> Tensor:
    """A scale or bias as a 0-d tensor, keeping its gradient."""
    value = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else wide(like.dtype))
    if value.numel() != 1:
        raise InputError(f"scale and bias must be single numbers, not of shape {list(value.shape)}.")
    return value.reshape(())


def _view(buffer: Tensor, rows: int, cols: int) -> Tensor:
    return buffer[: rows * cols].view(rows, cols)
