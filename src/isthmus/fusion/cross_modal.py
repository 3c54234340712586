"""One half of a cross-modal layer, as METER, BridgeTower and ManagerTower have it (BERT's post-norm layer)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    """Multi-head attention with its residual: LN(x + dropout(W softmax(q kᵀ / √d) v)).

    x [B, T, D] asks, y [B, S, D] answers, mask [B, S] bool says which of y are real.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.p = heads, dropout
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(width)

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = self._split(self.query(x)), self._split(self.key(y)), self._split(self.value(y))
        keep = None if mask is None else mask[:, None, None]
        found = scaled_dot_product_attention(query, key, value, keep, self.p if self.training else 0.0)
        return self.norm(x + self.dropout(self.output(found.transpose(1, 2).flatten(2))))

    @torch.no_grad()
    def weights(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        """The attention itself, [B, heads, T, S], for pages that show it."""
        query, key = self._split(self.query(x)), self._split(self.key(y))
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        return (scores if mask is None else scores.masked_fill(~mask[:, None, None], -torch.inf)).softmax(-1)

    def _split(self, x: Tensor) -> Tensor:
        """[B, T, D] to [B, heads, T, D / heads]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class CrossModalLayer(nn.Module):
    """Attention to one's own half, then to the other half's input of this layer, then two linear layers.

    own [B, T, D] and other [B, S, D] with their masks, to [B, T, D]. Both halves of a layer run on what enters the
    layer, not on what the other half has just computed. tokens: how many of the first are wanted, to [B, tokens, D].
    """

    def __init__(self, width: int, heads: int, *, expand: float = 4.0, dropout: float = 0.1) -> None:
        super().__init__()
        self.self_attention = Attention(width, heads, dropout)
        self.cross_attention = Attention(width, heads, dropout)
        hidden = int(width * expand)
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(width)

    def forward(
        self,
        own: Tensor,
        other: Tensor,
        own_mask: Tensor | None,
        other_mask: Tensor | None,
        tokens: int | None = None,
    ) -> Tensor:
        x = self.self_attention(own[:, :tokens], own, own_mask)
        x = self.cross_attention(x, other, other_mask)
        return self.norm(x + self.dropout(self.outer(nn.functional.gelu(self.inner(x)))))
