"""From what a recogniser gives for lines to their transcripts: greedily from CTC, or by the joint beam."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isthmus.speech.alignment import ahead
from isthmus.speech.beam import joint_beam
from isthmus.speech.model import SpeechRecogniser
from isthmus.speech.prefix_scores import greedy
from isthmus.values import checked_section, within

BEAM_BYTES = 2**28  # of the scores of prefixes of all lines that are read at once
COPIES = 9  # of log probabilities [T, V] that each prefix of a beam needs


@dataclass(frozen=True)
class DecodingOptions:
    """How lines are read: `beam` prefixes at once, 0 takes CTC's likeliest symbol of each step; `ctc_weight`: of CTC
    beside attention in the beam; `bonus`: for each symbol."""

    beam: int = within(5, 0, 100)
    ctc_weight: float = within(0.1, 0, 1)
    bonus: float = within(0.0, -10, 10)

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> DecodingOptions:
        """Options by name. Raises `UsageError`, which begins with `where`, for one that is unknown or out of range."""
        return cls(**checked_section({"decoding": cls}, "decoding", values, where))


@dataclass(frozen=True)
class ReadLine:
    """The symbols of a line, and CTC's log probabilities [T, V] that they are timed by.

    before: steps of padding ahead of the line itself, which has `own` steps. With two senses those of the sound.
    """

    symbols: list[int]
    log_probs: Tensor
    before: float
    own: float


@torch.no_grad()
def read_lines(
    network: SpeechRecogniser, states: Mapping[str, Tensor], frames: Mapping[str, Tensor], options: DecodingOptions
) -> list[ReadLine]:
    """What a recogniser, in eval mode, reads from the states of some lines (`SpeechRecogniser.forward`)."""
    joined, steps = network(states, frames)
    log_probs = network.ctc(joined, steps).float()
    found = _by_beam(network, log_probs, joined, steps, options) if options.beam else greedy(log_probs, steps)
    sense = next(name for name in network.strides if name in states)
    stride, own = network.strides[sense], frames[sense]
    before = ahead(own, stride, steps)
    counts = zip(steps.tolist(), before.tolist(), own.tolist(), strict=True)
    return [
        ReadLine(symbols, said[:count], lead / stride, length / stride)
        for symbols, said, (count, lead, length) in zip(found, log_probs.cpu(), counts, strict=True)
    ]


def _by_beam(
    network: SpeechRecogniser, log_probs: Tensor, joined: Tensor, steps: Tensor, options: DecodingOptions
) -> list[list[int]]:
    """The best symbols of each line, of so many lines at once as `BEAM_BYTES` hold the scores of."""
    _, length, symbols = log_probs.shape
    count = max(1, BEAM_BYTES // (COPIES * log_probs.element_size() * length * symbols * options.beam))
    chosen: dict[str, Any] = {"beam": options.beam, "ctc_weight": options.ctc_weight, "bonus": options.bonus}
    found: list[list[int]] = []
    for some in zip(log_probs.split(count), joined.split(count), steps.split(count), strict=True):
        found += [lines[0].symbols if lines else [] for lines in joint_beam(*some, network.decoder, **chosen)]
    return found
