"""Lion, which parameters decay, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from isthmus.training.recipe import OptimOptions


class Lion(torch.optim.Optimizer):
    """Evolved sign momentum (Chen et al. 2023, arXiv:2302.06675, algorithm 2) with decoupled weight decay.

    u = sign(β1·m + (1−β1)·g);  p ← p − lr·(u + weight_decay·p);  m ← β2·m + (1−β2)·g
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self.state[param]
                if not state:
                    state["momentum"] = torch.zeros_like(param)
                momentum = state["momentum"]
                update = torch.lerp(param.grad, momentum, beta1).sign_()
                param.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
                momentum.lerp_(param.grad, 1 - beta2)
        return loss


def build_optimizer(
    module: nn.Module,
    optim: OptimOptions,
    *,
    factor: Callable[[str], float] = lambda name: 1.0,
    decays: Callable[[str, nn.Parameter], bool] | None = None,
) -> torch.optim.Optimizer:
    """The recipe's optimizer over the parameters that are trained, in groups of one rate and one decay.

    factor: on the learning rate, by the parameter's name; kept as the group's "factor". decays: whether weight decay
    acts on a parameter; by default not on vectors and scalars (biases, norms, scale), unless `decay_all`.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, param in module.named_parameters():
        if param.requires_grad:
            decaying = decays(name, param) if decays else optim.decay_all or param.ndim >= 2
            groups.setdefault((not decaying, factor(name)), []).append(param)
    listed = [
        {"params": params, "weight_decay": 0.0 if constant else optim.weight_decay, "factor": rate}
        for (constant, rate), params in sorted(groups.items(), key=lambda group: group[0])
    ]
    if optim.name == "lion":
        return Lion(listed, lr=optim.lr, betas=optim.betas)
    on = {param.device.type for params in groups.values() for param in params}
    return torch.optim.AdamW(listed, lr=optim.lr, betas=optim.betas, fused=on <= {"cpu", "cuda"})  # in one pass


def warmup_steps(optim: OptimOptions, steps: int) -> int:
    """`optim.warmup` in steps: a share of `steps` when below 1, else a count; never more than `steps`."""
    wanted = optim.warmup * steps if optim.warmup < 1 else optim.warmup
    return min(round(wanted), steps)


def learning_rate(step: int, steps: int, optim: OptimOptions) -> float:
    """Learning rate of `step` (0-based) out of `steps`.

    Linear from `warmup_lr` (excluded) to `lr`, reached at the last warm-up step; then constant, or half a
    cosine from `lr` towards `min_lr`, which the step after the last would reach (as in open_clip).
    """
    warmup = warmup_steps(optim, steps)
    if step < warmup:
        return optim.warmup_lr + (optim.lr - optim.warmup_lr) * (step + 1) / warmup
    if optim.schedule == "constant":
        return optim.lr
    progress = (step - warmup) / (steps - warmup)
    return optim.min_lr + (optim.lr - optim.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
