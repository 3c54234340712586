"""The N × M similarities of a batch in tiles, so that the whole matrix never exists.

Matrix products are fast with large tiles, everything else with numbers in a core's own cache. So a tile is multiplied
as one and then swept in strips of a few rows, every step of the sweep in place: numbers stay in the cache between
steps, which makes exponentials and sums cheap compared with the products, without a compiler.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from isthmus.errors import InputError, UsageError

TILE = 1536, 1024  # rows, columns: larger is a little faster and takes more memory; smaller, and adding up shows
CROWDED = 512, 512  # if the list of a tile's positives would be larger than the tile
STRIP = 1 << 17  # numbers of a strip for each core: 512 KiB of fp32, twice, beside the tile in 2 MiB of L2

Groups = tuple[Tensor, Tensor]


class Tiles:
    """Logits `scale · x yᵀ` tile by tile, and where their positives are.

    x [N, d] and y [M, d] of one dtype; gx [N] and gy [M] int64 group ids, gy sorted; `total` counts their
    positives. Products are computed in `product`, the dtype of the tiles; everything else in fp32 (fp64 for
    fp64). One tile and two strips are reused throughout.
    """

    def __init__(
        self, x: Tensor, y: Tensor, scale: float, gx: Tensor, gy: Tensor, size: int | None, product: torch.dtype
    ) -> None:
        if size is not None and size < 1:
            raise UsageError(f"tile = {size} must be a positive number of rows.")
        self.x, self.y, self.scale, self.product = x, y.to(product), scale, product
        self.dtype = wide(x.dtype)
        # Sorted groups make the positives of a row one interval of columns, and those of a tile a short list.
        self.first = torch.searchsorted(gy, gx)
        self.last = torch.searchsorted(gy, gx, right=True)
        self.total = int((self.last - self.first).sum())
        crowded = 64 * self.total > len(x) * len(y)
        height, width = (size, size) if size else CROWDED if crowded else TILE
        self.height, self.width = min(height, len(x)), min(width, len(y))
        self._tile = x.new_empty(self.height * self.width, dtype=product)
        self._scaled = x.new_empty(self.height * x.shape[1], dtype=product)

    @cached_property
    def _strips(self) -> Tensor:
        return self.x.new_empty(2, self.strip * self.width, dtype=self.dtype)

    @property
    def strip(self) -> int:
        """Rows of a strip; on a GPU, all of a tile."""
        if self.x.device.type != "cpu":
            return self.height
        return min(self.height, max(1, STRIP * torch.get_num_threads() // self.width))

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Rows, columns and logits, in `product`; each tile is valid until the next one."""
        for rows in slices(len(self.x), self.height):
            x = torch.mul(self.x[rows], self.scale, out=view(self._scaled, *self.x[rows].shape))
            for cols in slices(len(self.y), self.width):
                y = self.y[cols]
                yield rows, cols, torch.mm(x, y.T, out=view(self._tile, len(x), len(y)))

    def strips(self, tile: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Each strip: its rows in the tile, the strip, its logits in fp32, a buffer; valid until the next."""
        for strip in slices(len(tile), self.strip):
            part = tile[strip]
            z, spare = (view(buffer, *part.shape) for buffer in self._strips)
            yield strip, part, z.copy_(part), spare

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


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums are kept in: fp64 for fp64, else fp32."""
    return torch.promote_types(dtype, torch.float32)


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype for products with x: under autocast its dtype for fp32, as in torch's own products; otherwise x's."""
    kind = x.device.type
    if x.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def exact(device: torch.device) -> torch.dtype:
    """fp64, for the vectors; fp32 on Apple's GPUs, which have no other."""
    return torch.float32 if device.type == "mps" else torch.float64


def batch(x: Tensor, y: Tensor, groups: Groups | None, *, rank: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Check the arguments every loss shares; x, y and their group ids, y sorted by group.

    `rank` numbers processes with as many rows each: without groups, the ids of each follow those before.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise InputError(f"x [N, d] and y [M, d] expected, not {list(x.shape)} and {list(y.shape)}.")
    if x.dtype != y.dtype or not x.is_floating_point():
        raise InputError(f"x and y must share one floating dtype, not {x.dtype} and {y.dtype}.")
    if groups is None:
        if len(x) != len(y):
            raise InputError(f"{len(x)} rows of x and {len(y)} of y: give groups= to say which belong together.")
        ids = torch.arange(rank * len(x), (rank + 1) * len(x), device=x.device)
        return x.contiguous(), y.contiguous(), ids, ids
    gx, gy = (torch.as_tensor(g, dtype=torch.int64, device=x.device) for g in groups)
    if gx.shape != x.shape[:1] or gy.shape != y.shape[:1]:
        raise InputError(
            f"groups of shape {list(gx.shape)} and {list(gy.shape)} for {len(x)} rows of x and {len(y)} of y."
        )
    gy, order = torch.sort(gy)
    return x.contiguous(), y.index_select(0, order), gx, gy


def scalar(value: float | Tensor, like: Tensor) -> Tensor:
    """A scale or bias as a 0-d tensor, keeping its gradient."""
    value = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else wide(like.dtype))
    if value.numel() != 1:
        raise InputError(f"scale and bias must be single numbers, not of shape {list(value.shape)}.")
    return value.reshape(())


def slices(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def view(buffer: Tensor, rows: int, cols: int) -> Tensor:
    return buffer[: rows * cols].view(rows, cols)
