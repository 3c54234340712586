"""CTC prefix scores: the probability that a transcript begins with a prefix, for many prefixes at once.

Watanabe et al., "Hybrid CTC/attention architecture for end-to-end speech recognition" (2017), algorithm 2.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.speech.alignment import valid
from isthmus.speech.heads import BLANK


@dataclass
class PrefixStates:
    """Of M prefixes: log probabilities [T, M] that the first t + 1 steps read just the prefix, the last of them a
    symbol (`spoken`) or blank (`blank`), and the last symbol [M] of each; −1 where a prefix is empty.
    """

    spoken: Tensor
    blank: Tensor
    last: Tensor

    def pick(self, rows: Tensor) -> PrefixStates:
        """Those of some prefixes."""
        return PrefixStates(self.spoken[:, rows], self.blank[:, rows], self.last[rows])


class PrefixScorer:
    """Scores of every one-symbol extension of M prefixes, vectorised over prefixes and utterances.

    log_probs: [N, T, V] with blank first, `steps` [N] of them valid. each: prefixes of an utterance, M = N · each,
    those of one utterance side by side.
    """

    def __init__(self, log_probs: Tensor, steps: Tensor, each: int = 1) -> None:
        behind = ~valid(steps, log_probs.shape[1])
        after = torch.full_like(log_probs[0, 0], -torch.inf)
        after[BLANK] = 0.0  # behind its end an utterance stays as it is
        self.log_probs = torch.where(behind[..., None], after, log_probs).transpose(0, 1)
        self.log_probs = self.log_probs.repeat_interleave(each, dim=1)  # [T, M, V]

    def empty(self) -> PrefixStates:
        """The states of M empty prefixes: blanks alone, whose log probabilities add up."""
        blank = self.log_probs[..., BLANK].cumsum(0)
        last = torch.full(blank.shape[1:], -1, dtype=torch.long, device=blank.device)
        return PrefixStates(torch.full_like(blank, -torch.inf), blank, last)

    def extend(self, states: PrefixStates) -> tuple[Tensor, Tensor, Tensor]:
        """(score, spoken, blank) of each prefix with each symbol behind it.

        score: [M, V], the log probability that a transcript begins so; that of the last symbol, which ends a line: that
        the transcript is the prefix. spoken, blank: [T, M, V], the states of the longer prefixes.
        """
        steps, _, symbols = self.log_probs.shape
        whole = torch.logaddexp(states.spoken, states.blank)
        same = torch.arange(symbols, device=whole.device) == states.last[:, None]
        before = torch.where(same, states.blank[..., None], whole[..., None])  # a repeated symbol needs a blank between
        spoken, blank = torch.full_like(self.log_probs, -torch.inf), torch.full_like(self.log_probs, -torch.inf)
        spoken[0] = torch.where(states.last[:, None] < 0, self.log_probs[0], -torch.inf)
        for t in range(1, steps):
            spoken[t] = torch.logaddexp(spoken[t - 1], before[t - 1]) + self.log_probs[t]
            blank[t] = torch.logaddexp(blank[t - 1], spoken[t - 1]) + self.log_probs[t, :, BLANK, None]
        score = torch.cat([spoken[:1], before[:-1] + self.log_probs[1:]]).logsumexp(0)
        score[:, BLANK] = -torch.inf
        score[:, -1] = whole[-1]
        return score, spoken, blank


def greedy(log_probs: Tensor, steps: Tensor) -> list[list[int]]:
    """The likeliest symbol of each step, repeated ones joined, blanks and the symbol of the ends left out."""
    best, ends, found = log_probs.argmax(-1), log_probs.shape[-1] - 1, []
    for line, count in zip(best.tolist(), steps.tolist(), strict=True):
        joined = [symbol for symbol, _ in itertools.groupby(line[:count])]
        found.append([symbol for symbol in joined if symbol not in (BLANK, ends)])
    return found
