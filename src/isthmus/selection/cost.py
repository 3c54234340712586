"""What an encoder costs: parameters, measured speed, licence."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from isthmus.encoders import Encoder, encode_views

ROUNDS = 3


@dataclass(frozen=True)
class Cost:
    """parameters: of the network. rate: items per second on this machine, forward passes alone. None: unknown."""

    parameters: int | None = None
    rate: float | None = None
    licence: str | None = None


def measure_cost(encoder: Encoder, items: Sequence[Any], compute_dtype: str = "", batch_size: int = 8) -> Cost:
    """Count the parameters and time forward passes over `items` (images or texts): the best of three rounds.

    compute_dtype: as a store records it; "bfloat16 autocast" runs the products so. An earlier layer costs as much as
    the last one, because the whole network runs.
    """
    autocast = torch.bfloat16 if compute_dtype == "bfloat16 autocast" else None
    batches = [encoder.prepare(items[start : start + batch_size]) for start in range(0, len(items), batch_size)]
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for inputs in batches:
            encode_views([encoder], inputs, autocast)
        seconds.append(time.perf_counter() - started)
    parameters = sum(parameter.numel() for parameter in encoder.network.parameters())
    rate = len(items) / max(min(seconds), 1e-9) if items else None
    return Cost(parameters or None, rate, encoder.licence)
