"""CTC and attention on top of joined states, and their losses."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.speech.alignment import valid
from isthmus.speech.blocks import MaskedNorm, positions

BLANK = 0  # the last symbol of a vocabulary begins and ends every line


class CTCHead(nn.Module):
    """Four 1 × 1 convolutions, masked norm and ReLU between them: forward(x [N, T, D], steps [N]) → log p [N, T, V].

    plain: a single one, which learns from fewer lines.
    """

    def __init__(self, width: int, symbols: int, plain: bool = False) -> None:
        super().__init__()
        widths = (width, symbols) if plain else (width, width, width // 2, width // 2, symbols)
        self.maps = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.norm = MaskedNorm()

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        mask = valid(steps, x.shape[1])
        for layer in self.maps[:-1]:
            x = F.relu(self.norm(layer(x), mask))
        return self.maps[-1](x).log_softmax(-1)


class AttentionDecoder(nn.Module):
    """A Transformer decoder over symbols: forward(prefix int64 [N, L], memory [N, T, D], steps [N]) → log p [N, L, V].

    A prefix begins with the last symbol, which begins and ends every line; `BLANK` pads it on the right. Position k of
    the result is about symbol k + 1.
    """

    def __init__(
        self, width: int, symbols: int, depth: int = 6, heads: int = 8, dropout: float = 0.1, early: bool = False
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, width)
        layer = nn.TransformerDecoderLayer(width, heads, 4 * width, dropout, batch_first=True, norm_first=early)
        self.decoder = nn.TransformerDecoder(layer, depth, nn.LayerNorm(width))
        for one in self.decoder.layers:
            for parameter in one.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)
        half = width // 2
        self.head = nn.Sequential(
            *(nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU()),
            *(nn.Linear(width, half), nn.LayerNorm(half), nn.ReLU()),
            *(nn.Linear(half, half), nn.LayerNorm(half), nn.ReLU()),
            nn.Linear(half, symbols),
        )

    def forward(self, prefix: Tensor, memory: Tensor, steps: Tensor) -> Tensor:
        x = self.embedding(prefix) + positions(prefix.shape[1], memory.shape[-1], memory)
        later = torch.ones(prefix.shape[1], prefix.shape[1], dtype=torch.bool, device=x.device).triu(1)
        hidden = ~valid(steps, memory.shape[1])
        padding = prefix == BLANK
        x = self.decoder(x, memory, tgt_mask=later, tgt_key_padding_mask=padding, memory_key_padding_mask=hidden)
        return self.head(x).log_softmax(-1)


def ctc_loss(log_probs: Tensor, steps: Tensor, targets: Tensor, lengths: Tensor, uniform: float = 0.01) -> Tensor:
    """(1 − uniform) of torch's CTC loss, `uniform` of the divergence KL(uniform ‖ p), the mean over valid steps.

    log_probs: [N, T, V], blank first. targets: int64 [N, L], of which `lengths` [N] symbols count. The second term
    keeps training from resting where everything is blank.
    """
    loss = F.ctc_loss(log_probs.transpose(0, 1), targets, steps, lengths, blank=BLANK, zero_infinity=True)
    if not uniform:
        return loss
    symbols = log_probs.shape[-1]
    divergence = -log_probs.mean(-1) - torch.log(torch.tensor(float(symbols)))
    mask = valid(steps, log_probs.shape[1])
    return (1 - uniform) * loss + uniform * (divergence * mask).sum() / mask.sum()


def attention_loss(log_probs: Tensor, targets: Tensor, smoothing: float = 0.01) -> Tensor:
    """Cross entropy of the symbols that follow, the mean over those that are no padding; so is its smoothing.

    log_probs: [N, L, V]. targets: int64 [N, L], `BLANK` where there is none.
    """
    kept = targets != BLANK
    right = log_probs.gather(-1, targets[..., None])[..., 0]
    smoothed = (1 - smoothing) * right + smoothing * log_probs.mean(-1)
    return -(smoothed * kept).sum() / kept.sum()


def teacher_forcing(targets: Tensor, symbols: int) -> tuple[Tensor, Tensor]:
    """(prefix, what follows) int64 [N, L + 1] of targets [N, L] that `BLANK` pads: both with the symbol of the ends."""
    ends, lengths = symbols - 1, (targets != BLANK).sum(1)
    start = torch.full_like(targets[:, :1], ends)
    follows = torch.cat([targets, torch.full_like(start, BLANK)], dim=1)
    follows = follows.scatter(1, lengths[:, None], ends)
    return torch.cat([start, targets], dim=1), follows
