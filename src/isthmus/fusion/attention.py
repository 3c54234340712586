"""Where a text looks in its picture: the cross-attention of one cross-modal layer, for pages that show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from isthmus.fusion.cross_modal import CrossModalLayer
from isthmus.fusion.two_tower import Fused, Half, TwoTower


@torch.no_grad()
def attention_over(
    tower: TwoTower, fused: Fused, masks: Mapping[str, Tensor | None], *, own: str, other: str, place: int = -1
) -> Tensor:
    """How much each real token of `own` attends to each token of `other`, mean of the heads and of `own`'s tokens.

    fused: of `tower`, with inputs. masks: [B, T] bool of both halves. place: of the cross-modal layer. Gives [B, S],
    whose rows sum to 1.
    """
    layer = cast(CrossModalLayer, cast(Half, tower.halves[own]).cross[place])
    x, y = fused.inputs[own][place], fused.inputs[other][place]
    asking = layer.self_attention(x, x, masks[own])
    weights = layer.cross_attention.weights(asking, y, masks[other]).mean(1)  # [B, T, S]
    mask = masks[own]
    if mask is None:
        return weights.mean(1)
    real = mask[..., None].to(weights.dtype)
    return (weights * real).sum(1) / real.sum(1)
