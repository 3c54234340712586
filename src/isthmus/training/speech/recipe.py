"""The sections of speech recipes: the recogniser, its losses, noise, masks, and how it is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from isthmus.errors import did_you_mean
from isthmus.speech.decoding import DecodingOptions
from isthmus.speech.join import JOINS
from isthmus.training.recipe import Recipe
from isthmus.values import within


@dataclass(frozen=True)
class SpeechOptions:
    """The recogniser.

    senses: what a stage trains: "audio", "video" or "av" lines, or single "words" of the video.
    join: "gated", the audio model, which learns when to give way to the video; "concat", as published.
    drop, mute: the shares of lines of which the join is shown no video, or no audio, in training. blind: of none is it
        shown video, in training and validation (the baseline that has all the rest).
    steps_hz, least: steps a second, and the fewest of a line. front: see `SpeechShape`.
    layers: of the audio encoder, the uppermost so many of those that are stored, side by side; 0: all.
    small: norms before each block, and a CTC head of one layer: what hundreds of lines can train; else as published.
    spelling: see `isthmus.speech.vocabulary.plain`. subwords: pieces of words as symbols, up to so many; 0: characters.
    """

    senses: Literal["audio", "video", "av", "words"] = "audio"
    join: str = "gated"
    drop: float = within(0.2, 0, 1)
    mute: float = within(0.2, 0, 1)
    blind: bool = False
    width: int = within(512, 8, 4096)
    depth: int = within(6, 1, 48)
    heads: int = within(8, 1, 64)
    dropout: float = within(0.1, 0, 0.9)
    steps_hz: float = within(25.0, 1, 200)
    least: int = within(0, 0, 1000)
    front: Literal["plain", "norm", "saum"] = "plain"
    layers: int = within(1, 0, 64)
    small: bool = False
    spelling: Literal["spoken", "written"] = "spoken"
    subwords: int = within(0, 0, 50_000)


@dataclass(frozen=True)
class SpeechLosses:
    """ctc: the weight of CTC; attention has the rest. uniform: the share of its divergence from even in CTC's loss.
    smoothing: of the labels of attention and of words."""

    ctc: float = within(0.2, 0, 1)
    uniform: float = within(0.01, 0, 0.5)
    smoothing: float = within(0.01, 0, 0.5)


@dataclass(frozen=True)
class NoiseOptions:
    """What recordings are heard through in training, where they are given; the rest of the lines are as they are.

    snr: ratios in dB, drawn evenly. share: of the lines that are heard through noise. voices: that babble at once.
    draws: pieces of noise for each line and ratio. speeds: that lines are also played at, without noise, in the stage
    of audio alone; fast: the share of those lines.
    """

    snr: tuple[float, ...] = within((), -40, 60)
    share: float = within(0.25, 0, 1)
    voices: int = within(20, 1, 1000)
    draws: int = within(1, 1, 100)
    speeds: tuple[float, ...] = within((), 0.5, 2)
    fast: float = within(0.3, 0, 1)


@dataclass(frozen=True)
class MaskOptions:
    """Stretches of steps and bands of features that are hidden in training: how many, and up to how long or wide."""

    spans: int = within(2, 0, 100)
    span: int = within(10, 0, 1000)
    channels: int = within(2, 0, 100)
    band: int = within(16, 0, 4096)


@dataclass(frozen=True)
class SpeechRecipe(Recipe):
    """All choices of a run that trains a recogniser."""

    objective: ClassVar[str] = "speech"
    sections: ClassVar[tuple[str, ...]] = (*("speech", "losses", "noise", "masks", "decoding", "optim", "stop"),)

    speech: SpeechOptions = field(default=SpeechOptions())
    losses: SpeechLosses = SpeechLosses()
    noise: NoiseOptions = NoiseOptions()
    masks: MaskOptions = MaskOptions()
    decoding: DecodingOptions = field(default=DecodingOptions())

    def conflicts(self) -> Iterator[str]:
        """Choices that are valid alone but contradict each other."""
        speech = self.speech
        if speech.join not in JOINS:
            yield f"no join {speech.join!r}.{did_you_mean(speech.join, JOINS)}"
        if speech.width % speech.heads:
            yield f"speech.width = {speech.width} cannot be shared by speech.heads = {speech.heads}."
        if speech.drop + speech.mute > 1:
            yield f"speech.drop = {speech.drop:g} and speech.mute = {speech.mute:g}: together at most 1."
        if 1 in self.noise.speeds:
            yield "noise.speeds lists 1: lines are heard at their own speed in any case."
        yield from super().conflicts()
