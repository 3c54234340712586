"""From tokens to features of one width: one vector per item, or a fixed number of them side by side."""

from __future__ import annotations

from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from isthmus.encoders.uri import grid_side, parse_pool
from isthmus.errors import InputError

END = 2.0**-24  # the least float16 above 0


def pool_tokens(
    tokens: Tensor, pool: str, mask: Tensor | None = None, prefix: int = 0, length: int | None = None
) -> Tensor:
    """Pool `tokens` [N, T, D] to [N, D], or [N, k·D] for k vectors joined by `+`, in float32.

    mask: [N, T] bool, True where a token is real, padded on either side; None when all are.
    prefix: leading tokens without content of their own (CLS and registers of a ViT), which `mean` and `max` leave out.
    length: for "tokens", how many to give; without it, the T there are.

    cls: the first real token. last: the last real token. A row without any real token pools to zeros.
    patches: every token behind the prefix. grid16: those, on their square grid, averaged to 4 × 4.
    tokens: the real ones from the left, then zeros, by which a token head recognises padding. If the last real token
        itself is zeros (in float16), its last value becomes `END`.
    """
    tokens = tokens.float()
    if mask is None:
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    return torch.cat([_pool(tokens, part, mask, prefix, length) for part in parse_pool(pool)], dim=-1)


def _pool(tokens: Tensor, part: str, mask: Tensor, prefix: int, length: int | None) -> Tensor:
    if part == "tokens":
        return _aligned(tokens, mask, length or tokens.shape[1]).flatten(1)
    if (part == "patches" or grid_side(part)) and not mask.all():
        raise InputError(f"pool={part}: these images differ in their number of patches: use pool=mean.")
    if part == "patches":
        return tokens[:, prefix:].flatten(1)
    if side := grid_side(part):
        return average_grid(tokens[:, prefix:], side).flatten(1)
    if part == "cls":
        return _pick(tokens, mask, mask.int().argmax(1))
    if part == "last":
        return _pick(tokens, mask, mask.shape[1] - 1 - mask.flip(1).int().argmax(1))
    tokens, mask = tokens[:, prefix:], mask[:, prefix:, None]
    if part == "mean":
        return (tokens * mask).sum(1) / mask.sum(1).clamp(min=1)
    return tokens.masked_fill(~mask, -torch.inf).amax(1).masked_fill(~mask.any(1), 0.0)


def average_grid(patches: Tensor, side: int) -> Tensor:
    """The patches [N, P, D] of a square grid, row by row, averaged to [N, side², D] (adaptive average pooling)."""
    height = isqrt(patches.shape[1])
    if height**2 != patches.shape[1]:
        raise InputError(f"{patches.shape[1]} patches are no square grid: use pool=patches or mean.")
    grid = patches.transpose(1, 2).unflatten(-1, (height, height))
    return F.adaptive_avg_pool2d(grid, side).flatten(2).transpose(1, 2)


def _aligned(tokens: Tensor, mask: Tensor, length: int) -> Tensor:
    """The real tokens of each row from the left, zeros behind them: [N, length, D]."""
    order = (~mask).int().argsort(dim=1, stable=True)[:, :length]
    rows = torch.arange(len(tokens), device=tokens.device)[:, None]
    there = mask[rows, order]
    real = tokens[rows, order] * there[..., None]
    last = there & (torch.arange(1, there.shape[1] + 1, device=mask.device) == there.sum(1, keepdim=True))
    real[..., -1].masked_fill_(last & (real.abs().amax(-1) < END), END)
    return F.pad(real, (0, 0, 0, length - order.shape[1]))


def _pick(tokens: Tensor, mask: Tensor, position: Tensor) -> Tensor:
    """Row n's token at `position[n]`, zeros where the row has no real token."""
    rows = torch.arange(len(tokens), device=tokens.device)
    return tokens[rows, position] * mask.any(1, keepdim=True)
