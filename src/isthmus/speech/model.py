"""A recogniser of speech from frozen states of an audio and a visual encoder, and the hand-over between its stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from isthmus.errors import InputError, UsageError, did_you_mean
from isthmus.speech.alignment import align, common_steps, stride_of
from isthmus.speech.blocks import TemporalBackEnd
from isthmus.speech.heads import AttentionDecoder, CTCHead
from isthmus.speech.join import JOINS

Senses = Literal["audio", "video", "av"]


@dataclass(frozen=True)
class SpeechShape:
    """What a recogniser is made of.

    audio, video: (width, rate in Hz) of the states of each encoder; None where there is none. steps_hz: steps a second,
    of which both rates are whole multiples. symbols: of the vocabulary, blank first, the symbol of the ends last.
    least: the fewest steps of a line.
    """

    symbols: int
    audio: tuple[int, float] | None = None
    video: tuple[int, float] | None = None
    steps_hz: float = 25.0
    width: int = 512
    depth: int = 6
    heads: int = 8
    dropout: float = 0.1
    join: str = "gated"
    least: int = 0

    @property
    def senses(self) -> Senses:
        """What it hears and sees."""
        if self.audio is None and self.video is None:
            raise UsageError("a recogniser needs states of an audio or of a visual encoder.")
        return "av" if self.audio and self.video else "audio" if self.audio else "video"


class SpeechRecogniser(nn.Module):
    """Back-ends for each encoder's states, their join, and two heads.

    forward(states {"audio": [N, L, D], …}, frames {"audio": [N], …}) → (joined [N, T, width], steps [N]); `ctc` and
    `decoder` read these. States without video are taken by a model of both: the join then has none.
    """

    def __init__(self, shape: SpeechShape) -> None:
        super().__init__()
        if shape.join not in JOINS:
            raise UsageError(f"no join {shape.join!r}." + did_you_mean(shape.join, JOINS))
        self.shape, senses = shape, shape.senses
        size = (shape.width, shape.depth, shape.heads, shape.dropout)
        told = {"audio": shape.audio, "video": shape.video}
        self.strides = {name: stride_of(one[1], shape.steps_hz) for name, one in told.items() if one}
        self.back_ends = nn.ModuleDict(
            {
                name: TemporalBackEnd(one[0], shape.width, self.strides[name], *size[1:])
                for name, one in told.items()
                if one
            }
        )
        self.join = JOINS[shape.join](*size) if senses == "av" else None
        self.ctc = CTCHead(shape.width, shape.symbols)
        self.decoder = AttentionDecoder(shape.width, shape.symbols, *size[1:])
        self._inherited: tuple[str, ...] = ()

    def forward(self, states: Mapping[str, Tensor], frames: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        given = {name: frames[name] for name in self.back_ends if name in states}
        if not given or ("audio" in self.back_ends and "audio" not in given):
            raise UsageError(f"states of {' and '.join(self.back_ends)} are needed, not of {list(states)}.")
        steps = common_steps(given, self.strides, self.shape.least)
        found = {
            name: self.back_ends[name](align(states[name], frames[name], self.strides[name], steps), steps)
            for name in given
        }
        if self.join is None:
            return next(iter(found.values())), steps
        return self.join(found["audio"], found.get("video"), steps), steps

    def inherit(self, audio: SpeechRecogniser, video: SpeechRecogniser) -> list[str]:
        """Take the back-ends of two trained models, and freeze them; with a gated join the audio model's heads too.

        Returns the names of all tensors taken. Raises `InputError` where one is missing or of another shape, so that no
        back-end is left as it was made.
        """
        sources = {"back_ends.audio.": audio, "back_ends.video.": video}
        if self.shape.join == "gated":
            sources |= {"ctc.": audio, "decoder.": audio}
        own, taken = self.state_dict(), []
        for prefix, source in sources.items():
            there = source.state_dict()
            for name in (name for name in own if name.startswith(prefix)):
                if name not in there or there[name].shape != own[name].shape:
                    raise InputError(f"{name} cannot be inherited: the earlier stage has none of this shape.")
                own[name].copy_(there[name])
                taken.append(name)
        for name, parameter in self.named_parameters():
            if name.startswith("back_ends."):
                parameter.requires_grad_(False)
        self._inherited = ("back_ends",)
        self.train(self.training)
        return taken

    def train(self, mode: bool = True) -> SpeechRecogniser:
        """As of any module; back-ends that were inherited stay in eval mode, so that they are the same each time."""
        super().train(mode)
        for name in self._inherited:
            self.get_submodule(name).eval()
        return self
