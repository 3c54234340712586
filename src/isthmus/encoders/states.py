"""Hidden states of several layers, the input for networks trained on top of a frozen encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class States:
    """States of N items at L layers, on the encoder's device and in its compute dtype, detached from any graph.

    values: [N, L, T, D]; where layers differ in width or number of tokens (stages of a CNN), a list of L [N, T_k, D_k].
    mask: bool [N, T], True where a token is real, whatever its values; beside a list, a list of L [N, T_k].
    rate_hz: tokens per second if tokens follow time, else None.
    prefix: how many leading tokens are no patches of an image (CLS and registers).
    """

    values: Tensor | list[Tensor]
    mask: Tensor | list[Tensor]
    rate_hz: float | None = None
    prefix: int = 0

    @classmethod
    def of(
        cls, layers: Sequence[Tensor], mask: Tensor | None = None, *, rate_hz: float | None = None, prefix: int = 0
    ) -> States:
        """From layers [N, T_k, D_k] and the mask that they share; None: every token is real."""
        masks = [mask if mask is not None else torch.ones_like(layer[..., 0], dtype=torch.bool) for layer in layers]
        if len({layer.shape for layer in layers}) == 1:
            return cls(torch.stack(list(layers), dim=1), masks[0], rate_hz, prefix)
        return cls(list(layers), masks, rate_hz, prefix)
