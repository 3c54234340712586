"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from isthmus.training.recipe import OptimOptions


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
