"""Two ways to join what the audio and the visual back-end give for the same steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isthmus.speech.blocks import TemporalBackEnd


class ConcatJoin(nn.Module):
    """As published: a LayerNorm for each modality, both side by side, a back-end on top.

    forward(audio [N, T, D], video [N, T, D] or None, steps [N]) → [N, T, D]. Without video its place holds zeros.
    drop: share of the lines whose video is left out in training. early: see `TemporalBackEnd`.
    """

    def __init__(
        self,
        width: int = 512,
        depth: int = 6,
        heads: int = 8,
        dropout: float = 0.1,
        drop: float = 0.0,
        early: bool = False,
    ) -> None:
        super().__init__()
        self.audio_norm, self.video_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fuse = TemporalBackEnd(2 * width, width, 1, depth, heads, dropout, early=early)
        self.drop = drop

    def forward(self, audio: Tensor, video: Tensor | None, steps: Tensor) -> Tensor:
        heard = self.audio_norm(audio)
        seen = torch.zeros_like(heard) if video is None else self.video_norm(video)
        if self.training and self.drop:
            seen = seen * (torch.rand(len(seen), 1, 1, device=seen.device) >= self.drop)
        return self.fuse(torch.cat([heard, seen], dim=-1), steps)


class GatedJoin(nn.Module):
    """The audio, plus what both say together through a map that begins as zeros: at first the audio model exactly.

    So a visual side that has learned its lines by heart cannot make clean speech worse. Arguments as of `ConcatJoin`.
    """

    def __init__(
        self,
        width: int = 512,
        depth: int = 6,
        heads: int = 8,
        dropout: float = 0.1,
        drop: float = 0.2,
        early: bool = False,
    ) -> None:
        super().__init__()
        self.concat = ConcatJoin(width, depth, heads, dropout, drop, early)
        self.gate = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.gate.weight)

    def forward(self, audio: Tensor, video: Tensor | None, steps: Tensor) -> Tensor:
        return audio + self.gate(self.concat(audio, video, steps))


JOINS: dict[str, type[nn.Module]] = {"concat": ConcatJoin, "gated": GatedJoin}
