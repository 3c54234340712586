"""From what a recogniser gives for lines to their transcripts: greedily from CTC, or by the joint beam."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.speech.alignment import ahead
from isthmus.speech.beam import joint_beam
from isthmus.speech.model import SpeechRecogniser
from isthmus.speech.prefix_scores import greedy
from isthmus.values import within


@dataclass(frozen=True)
class DecodingOptions:
    """How lines are read: `beam` prefixes at once, 0 takes CTC's likeliest symbol of each step; `ctc_weight`: of CTC
    beside attention in the beam; `bonus`: for each symbol."""

    beam: int = within(5, 0, 100)
    ctc_weight: float = within(0.1, 0, 1)
    bonus: float = within(0.0, -10, 10)


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
    if options.beam:
        weight, bonus = options.ctc_weight, options.bonus
        beams = joint_beam(log_probs, joined, steps, network.decoder, beam=options.beam, ctc_weight=weight, bonus=bonus)
        found = [one[0].symbols if one else [] for one in beams]
    else:
        found = greedy(log_probs, steps)
    sense = next(name for name in network.strides if name in states)
    stride, own = network.strides[sense], frames[sense]
    before = ahead(own, stride, steps)
    counts = zip(steps.tolist(), before.tolist(), own.tolist(), strict=True)
    return [
        ReadLine(symbols, said[:count], lead / stride, length / stride)
        for symbols, said, (count, lead, length) in zip(found, log_probs.cpu(), counts, strict=True)
    ]
