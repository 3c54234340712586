"""When each symbol of a line is said: the likeliest alignment of a transcript with the steps, by CTC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isthmus.speech.heads import BLANK
from isthmus.speech.vocabulary import Symbols


@dataclass(frozen=True)
class SpokenWord:
    """A word and when it is said, in seconds."""

    text: str
    start: float
    end: float


def ctc_alignment(log_probs: np.ndarray, symbols: Sequence[int]) -> list[tuple[int, int]] | None:
    """The first and the last step of each symbol on the likeliest path that reads just these; None where none does.

    log_probs: [T, V], blank first. A path needs a step for each symbol, and one more between equal neighbours.
    """
    if not symbols:
        return []
    labels = np.full(2 * len(symbols) + 1, BLANK)
    labels[1::2] = symbols
    leaps = np.zeros(len(labels), bool)  # from the symbol before, over the blank between
    leaps[3::2] = labels[3::2] != labels[1:-2:2]
    score = np.full(len(labels), -np.inf)
    score[:2] = log_probs[0, labels[:2]]
    back = np.zeros((len(log_probs), len(labels)), np.int8)
    for step in range(1, len(log_probs)):
        one = np.concatenate([[-np.inf], score[:-1]])
        two = np.where(leaps, np.concatenate([[-np.inf, -np.inf], score[:-2]]), -np.inf)
        came = np.stack([score, one, two])
        back[step] = came.argmax(0)
        score = came.max(0) + log_probs[step, labels]
    place = len(labels) - 1 - int(score[-2] > score[-1])
    if not np.isfinite(score[place]):
        return None
    path = np.empty(len(log_probs), np.int64)
    for step in reversed(range(len(log_probs))):
        path[step] = place
        place -= int(back[step, place])
    where = [np.flatnonzero(path == 2 * number + 1) for number in range(len(symbols))]
    return [(int(steps[0]), int(steps[-1])) for steps in where]


def timed_words(
    log_probs: np.ndarray,
    symbols: Sequence[int],
    vocabulary: Symbols,
    steps_hz: float,
    start: float = 0.0,
    *,
    before: float = 0.0,
    own: float | None = None,
) -> list[SpokenWord]:
    """The words of a line of which some symbols are found, with times; [] where CTC cannot read it.

    log_probs: [T, V], of which `before` steps are padding, then come `own` of the line (None: all), then padding: what
    is read in padding is said at that end of the line. start: seconds at which the line begins.
    """
    length = max(1.0, len(log_probs) if own is None else own)
    spans = ctc_alignment(log_probs, symbols)
    words: list[SpokenWord] = []
    ended = True
    for piece, (first, last) in zip(vocabulary.pieces(symbols), spans or [], strict=False):
        text = piece.strip()
        begins = min(max(0.0, first - before), length - 1)
        ends = min(max(begins + 1, last + 1 - before), length)
        began, over = start + begins / steps_hz, start + ends / steps_hz
        if text and (ended or piece[:1].isspace()):
            words.append(SpokenWord(text, began, over))
        elif text:
            words[-1] = SpokenWord(words[-1].text + text, words[-1].start, over)
        ended = not text or piece[-1:].isspace()
    return words
