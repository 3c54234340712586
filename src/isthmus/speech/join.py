"""Two ways to join what the audio and the visual back-end give for the same steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isthmus.speech.blocks import TemporalBackEnd

DOUBT = 2.0  # how far the share lies to the left of a sigmoid's middle at first: it has room to grow, little to fall


class ConcatJoin(nn.Module):
    """As published: a LayerNorm for each modality, both side by side, a back-end on top.

    forward(audio [N, T, D], video [N, T, D] or None, steps [N]) → [N, T, D]. Without video its place holds zeros.
    drop, mute: the shares of the lines whose video, or audio, is left out in training. early: see `TemporalBackEnd`.
    """

    def __init__(
        self,
        width: int = 512,
        depth: int = 6,
        heads: int = 8,
        dropout: float = 0.1,
        drop: float = 0.0,
        mute: float = 0.0,
        early: bool = False,
    ) -> None:
        super().__init__()
        self.audio_norm, self.video_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fuse = TemporalBackEnd(2 * width, width, 1, depth, heads, dropout, early=early)
        self.drop, self.mute = drop, mute

    def forward(self, audio: Tensor, video: Tensor | None, steps: Tensor) -> Tensor:
        return self.fused(audio, video, steps, *self.kept(audio, video))

    def fused(self, audio: Tensor, video: Tensor | None, steps: Tensor, heard: Tensor, seen: Tensor) -> Tensor:
        """As `forward`, of the lines that are heard and seen, each [N, 1, 1] of 0 and 1."""
        sound = self.audio_norm(audio) * heard
        sight = torch.zeros_like(sound) if video is None else self.video_norm(video) * seen
        return self.fuse(torch.cat([sound, sight], dim=-1), steps)

    def kept(self, audio: Tensor, video: Tensor | None) -> tuple[Tensor, Tensor]:
        """Which lines are heard, and which are seen, [N, 1, 1] of 0 and 1: in training some are one of both alone
        (modality dropout; AV-HuBERT, Shi et al., ICLR 2022).
        """
        both = audio.new_ones(len(audio), 1, 1)
        if not self.training or video is None:
            return both, both
        fate = torch.rand(len(audio), 1, 1, device=audio.device)
        return (fate >= self.mute).to(audio), (fate < 1 - self.drop).to(audio)


class GatedJoin(nn.Module):
    """The audio, which gives way to the video as far as it is not to be trusted, plus what both say together.

    a + s (V v − a) + G f, where f is what `ConcatJoin` gives, and s a share of each step, from about 0 to 1. G begins
    as zeros, and s as 0: at first this is the audio model exactly, so a visual side that has learned its lines by heart
    does not make clean speech worse. Arguments as of `ConcatJoin`.
    """

    def __init__(
        self,
        width: int = 512,
        depth: int = 6,
        heads: int = 8,
        dropout: float = 0.1,
        drop: float = 0.2,
        mute: float = 0.2,
        early: bool = False,
    ) -> None:
        super().__init__()
        self.concat = ConcatJoin(width, depth, heads, dropout, drop, mute, early)
        self.gate, self.trust = nn.Linear(width, width, bias=False), nn.Linear(width, 1)
        self.video = nn.Linear(width, width)
        for one in (self.gate.weight, self.trust.weight, self.trust.bias):
            nn.init.zeros_(one)

    def forward(self, audio: Tensor, video: Tensor | None, steps: Tensor) -> Tensor:
        heard, seen = self.concat.kept(audio, video)
        fused = self.concat.fused(audio, video, steps, heard, seen)
        audio = audio * heard
        if video is not None:
            audio = audio + seen * self.share(fused) * (self.video(video) - audio)
        return audio + self.gate(fused)

    def share(self, fused: Tensor) -> Tensor:
        """[N, T, 1]: 0 where `trust` is 0, from there as a sigmoid up to 1, and down to −0.14."""
        trust = self.trust(fused)
        none = torch.full_like(trust, -DOUBT).sigmoid()  # of the same shape, so that it is rounded alike
        return ((trust - DOUBT).sigmoid() - none) / (1 - none)


JOINS: dict[str, type[nn.Module]] = {"concat": ConcatJoin, "gated": GatedJoin}
