"""The backward pass from a loss's tiles to x, y and the scale, with as few fp32 sums at a time as possible."""

from __future__ import annotations

import torch
from torch import Tensor

from isthmus.losses.compiled import compiled
from isthmus.losses.ring import Ring, RingReduce
from isthmus.losses.tiles import Tiles, slices, view, wide

ROWS = 256  # rows, or columns of sums, converted from one dtype to the other at a time


class Gradients:
    """Gradients of x [N, d], y [M, d] and scale, from those of the logits, tile by tile, in the order of `Tiles`.

    Products are computed in `product`, their sums in fp32 (fp64 for fp64), `factor` multiplies everything. A block of
    rows meets all columns before the next one does: one process has its gradient then, in x's own dtype, and sums for
    one block are enough. The sums of y grow until the last row; where `product` is a lower dtype they are transposed,
    since xᵀp takes half as long there as pᵀx. With several processes x's sums go on over all blocks of y, and y's
    follow their block round the ring. Where `of_y` is False, y's gradient is neither computed nor sent; x's is needed
    for that of the scale.
    """

    def __init__(
        self, ring: Ring, x: Tensor, scale: float, product: torch.dtype, factor: float, *, of_y: bool = True
    ) -> None:
        self.x, self.scale, self.product, self.factor, self.of_y = x, scale, product, factor, of_y
        self.dtype = wide(x.dtype)
        self.lower = product != self.dtype
        self.block, self.last = 0, ring.size - 1  # of y
        self.dx = torch.empty_like(x, dtype=x.dtype if ring.size == 1 else self.dtype)
        self.dscale = x.new_zeros((), dtype=self.dtype)
        self._home = RingReduce(ring)

    def add(self, tiles: Tiles, rows: slice, cols: slice, p: Tensor) -> None:
        """Add the contribution of the gradient `p` of a tile's logits, in `product`."""
        if rows.start == 0 and cols.start == 0:
            self._start(tiles)
        x, dx = self.x[rows], self.dx[rows]
        sums = dx if dx.dtype == self.dtype else view(self._sums, *x.shape)
        self._add_product(sums, p, tiles.y[cols], first=cols.start == self.block == 0)
        if self.of_y:
            self._add_to_y(x, cols, p, first=rows.start == 0)
        if cols.stop == len(tiles.y) and self.block == self.last:
            dx.copy_(self._finished(x, sums))

    def pass_on(self) -> None:
        """After all tiles of a block of y: its sums go to the process that adds its own next."""
        if self.of_y:
            self._home.add(self._dy)
        self.block += 1

    def whole(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """Gradients of x, y and scale, after every block of y."""
        dy = self._home.arrived() if self.of_y else None
        if dy is not None:
            dy = self._turned(dy) if self.lower else dy.mul_(self.factor * self.scale)
        return self.dx.to(self.x.dtype), dy, self.dscale * self.factor

    def _add_to_y(self, x: Tensor, cols: slice, p: Tensor, first: bool) -> None:
        if not self.lower:
            self._add_product(self._dy[cols], p.T, x, first)
            return
        xt = view(self._xt, *x.T.shape)
        if cols.start == 0:
            xt.copy_(x.T)
        self._add_product(self._dy[:, cols], xt, p, first)

    def _turned(self, sums: Tensor) -> Tensor:
        """The gradient of y, [M, d], of its sums [d, M]."""
        dy = self.x.new_empty(sums.T.shape)
        for cols in slices(len(dy), ROWS):
            part = sums[:, cols] * (self.factor * self.scale)
            dy[cols] = part.to(dy.dtype).T  # torch transposes dense tensors of one dtype twice as fast
        return dy

    def _start(self, tiles: Tiles) -> None:
        """A buffer for a block of y, while that of the previous block is being sent."""
        width, new = self.x.shape[1], self.x.new_empty
        if self.of_y:
            self._dy = new(*((width, len(tiles.y)) if self.lower else (len(tiles.y), width)), dtype=self.dtype)
        if self.dx.dtype != self.dtype:
            self._sums = new(tiles.height * width, dtype=self.dtype)
        if self.lower:
            self._xt = new(tiles.height * width, dtype=self.product)
            self._part = new(max(tiles.height, tiles.width) * width, dtype=self.product)

    def _finished(self, x: Tensor, sums: Tensor) -> Tensor:
        """The gradient of rows of x, in place of their sums over all columns; also adds the scale's share.

        Each logit is scale · x_i·y_j, so that Σ p_ij x_i·y_j, the gradient of the scale, is Σ x_i·sums_i.
        """
        for part in slices(len(x), ROWS):
            self.dscale += torch.dot(x[part].to(self.dtype).flatten(), sums[part].flatten())
        return sums.mul_(self.factor * self.scale)

    def _add_product(self, total: Tensor, a: Tensor, b: Tensor, first: bool) -> None:
        """total += a b, or = if nothing has been added yet."""
        if not self.lower:
            total.addmm_(a, b, beta=0 if first else 1)
            return
        part = torch.mm(a, b, out=view(self._part, *total.shape))
        if first:
            total.copy_(part)
        else:
            add_(total, part)


def add_(total: Tensor, part: Tensor) -> None:
    """total += part, of a lower dtype: torch would make a copy of `part` in the higher one first."""
    if (native := compiled(part)) is not None:
        native.add_(total, part)
    else:
        total += part
