"""What an encoder costs: parameters, counted operations, licence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from isthmus.encoders import Encoder, encode_views


@dataclass(frozen=True)
class Cost:
    """parameters: of the network. operations: multiply-adds an item, those of matrix products, convolutions and
    attention. None: unknown."""

    parameters: int | None = None
    operations: float | None = None
    licence: str | None = None


def count_cost(encoder: Encoder, items: Sequence[Any], batch_size: int = 8) -> Cost:
    """Count the parameters, and the operations of forward passes over `items` (images or texts).

    Counted by torch, not timed: the same on a busy machine. What is no torch network has none to count. An earlier
    layer costs as much as the last one, because the whole network runs.
    """
    parameters = sum(parameter.numel() for parameter in encoder.network.parameters())
    if not parameters or not items:
        return Cost(parameters or None, None, encoder.licence)
    with FlopCounterMode(display=False) as counter:
        for start in range(0, len(items), batch_size):
            encode_views([encoder], encoder.prepare(items[start : start + batch_size]), None)
    return Cost(parameters, counter.get_total_flops() / 2 / len(items), encoder.licence)
