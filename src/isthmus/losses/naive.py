"""The losses by definition, with all matrices in full: references for testing the tiled losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from isthmus.losses.tiles import Groups


def infonce(x: Tensor, y: Tensor, scale: float | Tensor, *, groups: Groups | None = None) -> Tensor:
    """`isthmus.losses.infonce` in dense matrices."""
    logits = scale * (x @ y.T)
    same = same_group(x, y, groups)
    return (direction(logits, same) + direction(logits.T, same.T)) / 2


def direction(logits: Tensor, same: Tensor) -> Tensor:
    """Mean over rows of the mean over positives p of −log(e_p / (e_p + Σ negatives))."""
    negatives = logits.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
    losses = torch.logaddexp(logits, negatives) - logits
    anchors = same.any(1)
    row_losses = (losses * same)[anchors].sum(1) / same[anchors].sum(1)
    return row_losses.mean()


def sigmoid(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    bias: float | Tensor,
    *,
    groups: Groups | None = None,
    normalize: str = "batch",
) -> Tensor:
    """`isthmus.losses.sigmoid` in dense matrices."""
    logits = scale * (x @ y.T) + bias
    sign = 2 * same_group(x, y, groups).to(logits.dtype) - 1
    losses = -F.logsigmoid(sign * logits)
    return losses.sum() / len(x) if normalize == "batch" else losses.mean()


def same_group(x: Tensor, y: Tensor, groups: Groups | None) -> Tensor:
    """[N, M] bool: True where x_i and y_j belong together."""
    gx, gy = groups if groups is not None else (torch.arange(len(x)), torch.arange(len(y)))
    return gx[:, None] == gy[None, :]
