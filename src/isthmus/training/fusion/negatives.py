"""Hard negatives: for each picture a text, and for each text a picture, that are alike but do not belong together.

ALBEF (arXiv 2107.07651), as ManagerTower's released retrieval has it: drawn by the softmax of contrastive similarities.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Negatives(NamedTuple):
    """For each row of a batch, the row drawn, int64 [n], and whether there was any to draw, bool [n]."""

    picked: Tensor
    there: Tensor


def draw_negatives(logits: Tensor | None, positive: Tensor, numbers: Tensor) -> Negatives:
    """One negative for each row.

    logits: [n, m] of each row with all others, scaled; None draws evenly. positive: bool [n, m], never drawn. numbers:
    float64 [n] from [0, 1), by which the row is drawn: the same numbers give the same rows however a batch is shared.
    """
    scores = torch.zeros(positive.shape, device=positive.device) if logits is None else logits
    weights = scores.double().masked_fill(positive, -torch.inf).softmax(1)
    there = ~positive.all(1)
    steps = weights.nan_to_num().cumsum(1)
    picked = torch.searchsorted(steps, (numbers * steps[:, -1])[:, None], right=True)[:, 0]
    last = positive.shape[1] - 1 - (~positive).flip(1).int().argmax(1)  # rounding must not pass the last negative
    return Negatives(torch.where(there, picked.minimum(last), torch.zeros_like(picked)), there)
