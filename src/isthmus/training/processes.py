"""The processes that train one model together: `torchrun` starts them, and each computes its part of every batch.

All hold the whole model and go through the same steps; the first one writes. Rows of other processes are negatives
too: the loss is that of the whole batch (`isthmus.losses.ring`).
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

PARCEL = 1 << 22  # numbers that are sent at once


class Processes:
    """This process among `size`: `rank`, and their `group` (None for a single process)."""

    def __init__(self) -> None:
        started = {"RANK", "WORLD_SIZE"} <= set(os.environ)
        if started and not dist.is_initialized() and int(os.environ["WORLD_SIZE"]) > 1:
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
            atexit.register(dist.destroy_process_group)
        together = dist.is_initialized() and dist.get_world_size() > 1
        self.group = dist.group.WORLD if together else None
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def device(self, name: str | None) -> torch.device:
        """The named device, otherwise this process's own GPU, otherwise the CPU."""
        if name is None and torch.cuda.is_available():
            name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        return torch.device(name or "cpu")

    def own(self, captions: np.ndarray) -> np.ndarray:
        """This process's rows of a batch, as many as the others'; up to size − 1 at its end are left out."""
        count = len(captions) // self.size
        return captions[self.rank * count : (self.rank + 1) * count]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes; many small ones are sent as one."""
        if self.group is not None:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            _in_parcels(gradients, lambda whole: dist.all_reduce(whole, group=self.group))

    def as_first(self, tensors: Iterable[Tensor]) -> None:
        """Copy the first process's values to all, in place."""
        if self.group is not None:
            _in_parcels(tensors, lambda whole: dist.broadcast(whole, 0, group=self.group))

    def numbers_of_first(self, numbers: dict[str, float], device: torch.device) -> dict[str, float]:
        """The first process's numbers, on all processes; names must be the same."""
        if self.group is None:
            return numbers  # MPS, which has no float64, is never one of several
        values = torch.tensor(list(numbers.values()), dtype=torch.float64, device=device)
        self.as_first([values])
        return dict(zip(numbers, values.tolist(), strict=True))

    def any(self, here: bool, device: torch.device) -> bool:
        """Whether the value is true on any process."""
        if self.group is None:
            return here
        flag = torch.tensor(int(here), device=device)
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.group)
        return bool(flag)

    def wait(self) -> None:
        """Wait until all processes have arrived."""
        if self.group is not None:
            dist.barrier(group=self.group)


def _in_parcels(tensors: Iterable[Tensor], send: Callable[[Tensor], object]) -> None:
    """Apply `send`, which changes what it gets in place, to all tensors, many small ones at once."""
    for some in _parcels(tensors):
        if len(some) == 1:
            send(some[0])
            continue
        whole = torch.cat([one.flatten() for one in some])
        send(whole)
        for one, changed in zip(some, whole.split([one.numel() for one in some]), strict=True):
            one.copy_(changed.view_as(one))


def _parcels(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """The tensors in order, those of one type and device that follow one another together, up to `PARCEL` numbers."""
    found: list[list[Tensor]] = []
    kind, room = None, 0
    for one in tensors:
        if kind != (one.dtype, one.device) or one.numel() > room:
            found.append([])
            kind, room = (one.dtype, one.device), PARCEL
        found[-1].append(one)
        room -= one.numel()
    return found
