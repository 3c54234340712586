"""Means and draws over a batch that several processes share, the same as if one process had all of it."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


def shared_mean(values: Tensor, weights: Tensor, group: ProcessGroup | None) -> Tensor:
    """The weighted mean of `values` [n] over all processes, 0-d; its gradients are this process's share.

    So that gradients of parameters are to be summed, as those of the losses of `isthmus.losses` are. 0 where all
    weights are 0.
    """
    total, count = (values * weights).sum(), weights.sum()
    if group is not None:
        dist.all_reduce(count, group=group)
    own = total / count.clamp(min=1e-12)
    if group is None:
        return own
    whole = own.detach().clone()
    dist.all_reduce(whole, group=group)
    return own + (whole - own.detach())


def gathered(own: Tensor, group: ProcessGroup | None) -> tuple[Tensor, int]:
    """The rows of all processes in order of rank, without gradients, and where this process's begin."""
    own = own.detach().contiguous()
    if group is None:
        return own, 0
    parts = [torch.empty_like(own) for _ in range(group.size())]
    dist.all_gather(parts, own, group=group)
    return torch.cat(parts), group.rank() * len(own)


def drawn(count: int, device: torch.device, group: ProcessGroup | None) -> Tensor:
    """Numbers from [0, 1), float64 [count] on the CPU, the first process's, from torch's global generator."""
    numbers = torch.rand(count, dtype=torch.float64)
    if group is not None:
        numbers = numbers.to(device)
        dist.broadcast(numbers, 0, group=group)
    return numbers.cpu()
