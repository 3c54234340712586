"""Batches over several processes: blocks of y are passed round a ring, so that every row meets every column.

No process holds more of y than its own rows and two blocks under way; vectors with one number for each row of the
whole batch are on all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from isthmus.errors import InputError
from isthmus.losses.tiles import Tiles


class Ring:
    """The processes of `group`, which have equally many rows; None is this process alone."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        self.size = 1 if group is None else dist.get_world_size(group)
        self.rank = 0 if group is None else dist.get_rank(group)

    def gather(self, ids: Tensor) -> Tensor:
        """[size · n] of each process's [n]. Raises `InputError` where their lengths differ."""
        if self.size == 1:
            return ids
        lengths = [torch.empty(1, dtype=torch.int64, device=ids.device) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(ids)], device=ids.device), group=self.group)
        if len({int(length) for length in lengths}) > 1:
            raise InputError(f"Processes hold {[int(n) for n in lengths]} rows: they must have equally many.")
        parts = [torch.empty_like(ids) for _ in lengths]
        dist.all_gather(parts, ids.contiguous(), group=self.group)
        return torch.cat(parts)

    def own(self, n: int) -> slice:
        """Where this process's n rows are in the whole batch."""
        return slice(self.rank * n, (self.rank + 1) * n)

    def tiles(
        self, x: Tensor, y: Tensor, scale: float, gx: Tensor, gy: Tensor, size: int | None, product: torch.dtype
    ) -> Iterator[tuple[slice, Tiles]]:
        """Each block of y: its place in the whole batch, and its tiles; gy is gathered."""
        block = y.to(product)
        for step in range(self.size):
            incoming = self.exchange(block) if step + 1 < self.size else None  # while this one is computed
            origin = (self.rank - step) % self.size
            place = slice(origin * len(y), (origin + 1) * len(y))
            yield place, Tiles(x, block, scale, gx, gy[place], size, product)
            if incoming is not None:
                block = incoming.wait()

    def exchange(self, block: Tensor, tag: int = 0) -> Exchange:
        """Send `block` to the next process and receive the previous one's."""
        return Exchange(self, block, tag)

    def sum_(self, vector: Tensor) -> None:
        """Sum over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(vector, group=self.group)

    def log_sum_(self, vector: Tensor) -> None:
        """log Σ exp over the processes, in place."""
        if self.size == 1:
            return
        greatest = vector.clone()
        dist.all_reduce(greatest, dist.ReduceOp.MAX, group=self.group)
        greatest.clamp_(min=torch.finfo(vector.dtype).min)
        self.sum_(vector.sub_(greatest).exp_())
        vector.log_().add_(greatest)


class Exchange:
    """A block that is being sent to the next process, and the previous one's that is being received."""

    def __init__(self, ring: Ring, block: Tensor, tag: int) -> None:
        assert ring.group is not None
        after, before = (dist.get_global_rank(ring.group, (ring.rank + step) % ring.size) for step in (1, -1))
        self.sent, self.received = block, torch.empty_like(block)
        send = dist.P2POp(dist.isend, self.sent, after, ring.group, tag)
        receive = dist.P2POp(dist.irecv, self.received, before, ring.group, tag)
        self.works = dist.batch_isend_irecv([send, receive])

    def wait(self) -> Tensor:
        for work in self.works:
            work.wait()
        return self.received


class RingReduce:
    """Sums for the blocks of y, which follow them round the ring; the last step returns each to its own process."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.under_way: Exchange | None = None

    def add(self, part: Tensor) -> None:
        """Add this process's part for the block it has just computed."""
        if self.under_way is not None:
            part += self.under_way.wait()
        self.part = part
        if self.ring.size > 1:
            self.under_way = self.ring.exchange(part, tag=1)

    def arrived(self) -> Tensor:
        """The whole sum of this process's own block, after every block was added to."""
        return self.part if self.under_way is None else self.under_way.wait()
