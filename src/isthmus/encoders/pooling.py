"""From tokens to one vector per item."""

from __future__ import annotations

import torch
from torch import Tensor

from isthmus.encoders.uri import parse_pool


def pool_tokens(tokens: Tensor, pool: str, mask: Tensor | None = None, prefix: int = 0) -> Tensor:
    """Pool `tokens` [N, T, D] to [N, D], or [N, k·D] for k poolings joined by `+`, in float32.

    mask: [N, T] bool, True where a token is real, padded on either side; None when all are.
    prefix: leading tokens that are no content (CLS and registers of a ViT): `mean` and `max` leave them out.
    cls: the first real token. last: the last real token. A row without any real token pools to zeros.
    """
    tokens = tokens.float()
    if mask is None:
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    return torch.cat([_pool(tokens, part, mask, prefix) for part in parse_pool(pool)], dim=-1)


def _pool(tokens: Tensor, part: str, mask: Tensor, prefix: int) -> Tensor:
    if part == "cls":
        return _pick(tokens, mask, mask.int().argmax(1))
    if part == "last":
        return _pick(tokens, mask, mask.shape[1] - 1 - mask.flip(1).int().argmax(1))
    tokens, mask = tokens[:, prefix:], mask[:, prefix:, None]
    if part == "mean":
        return (tokens * mask).sum(1) / mask.sum(1).clamp(min=1)
    return tokens.masked_fill(~mask, -torch.inf).amax(1).masked_fill(~mask.any(1), 0.0)


def _pick(tokens: Tensor, mask: Tensor, position: Tensor) -> Tensor:
    """Row n's token at `position[n]`, zeros where the row has no real token."""
    rows = torch.arange(len(tokens), device=tokens.device)
    return tokens[rows, position] * mask.any(1, keepdim=True)
