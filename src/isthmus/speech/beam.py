"""One-pass beam search over CTC prefix scores and an attention decoder, for several utterances at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.speech.prefix_scores import PrefixScorer, PrefixStates

Decoder = Callable[[Tensor, Tensor, Tensor], Tensor]  # as `heads.AttentionDecoder`


@dataclass(frozen=True)
class Line:
    """A transcript and its score: ctc_weight · log p_ctc + (1 − ctc_weight) · log p_att + bonus · length."""

    symbols: list[int]
    score: float


def joint_beam(
    log_probs: Tensor,
    memory: Tensor,
    steps: Tensor,
    decoder: Decoder,
    *,
    beam: int = 5,
    ctc_weight: float = 0.1,
    bonus: float = 0.0,
    longest: int | None = None,
) -> list[list[Line]]:
    """The best lines of each utterance, the best first, up to `beam` of them; found until nothing longer can be better.

    log_probs: [N, T, V] of CTC. memory: [N, T, D] and steps [N] for `decoder`, which is not asked at ctc_weight = 1, as
    CTC is not at 0. bonus: for each symbol. longest: symbols of a line; default the steps of its utterance.
    The score of a prefix is of its probability as a prefix, so every extension without a bonus scores lower: the search
    ends exactly, without a heuristic.
    """
    found: list[list[Line]] = [[] for _ in steps]
    search = _Search(log_probs, memory, steps, decoder, beam, ctc_weight, bonus)
    limit = steps if longest is None else steps.clamp(max=longest)
    for length in range(int(limit.max()) + 1):
        search.step(length, limit, found)
        for lines in found:
            lines.sort(key=lambda line: -line.score)
            del lines[beam:]
        best = torch.tensor([lines[0].score if lines else -torch.inf for lines in found], device=log_probs.device)
        hope = search.scores.amax(1) + max(bonus, 0.0) * (limit - length - 1).clamp(min=0)
        search.scores[best >= hope] = -torch.inf
        if not torch.isfinite(search.scores).any():
            break
    return found


class _Search:
    """The live prefixes [N · beam, L] and their scores [N, beam]; −inf where there is none."""

    def __init__(
        self, log_probs: Tensor, memory: Tensor, steps: Tensor, decoder: Decoder, beam: int, weight: float, bonus: float
    ) -> None:
        self.count, self.beam, self.symbols = len(steps), beam, log_probs.shape[-1]
        self.decoder, self.weight, self.bonus = decoder, weight, bonus
        self.memory, self.steps = memory.repeat_interleave(beam, 0), steps.repeat_interleave(beam, 0)
        self.scorer = PrefixScorer(log_probs, steps, beam)
        self.states: PrefixStates = self.scorer.empty()
        start = torch.full((self.count * beam, 1), self.symbols - 1, device=log_probs.device)
        self.prefixes = start
        self.scores = torch.full((self.count, beam), -torch.inf, device=log_probs.device)
        self.scores[:, 0] = 0.0
        self.attention = torch.zeros(self.count * beam, device=log_probs.device)

    def step(self, length: int, limit: Tensor, found: list[list[Line]]) -> None:
        """Extend every prefix by a symbol; those that end go to `found`, of the others the best stay."""
        ctc, spoken, blank = self.scorer.extend(self.states) if self.weight else (0.0, None, None)
        attention = self.attention[:, None] + (self._attended() if self.weight < 1 else 0.0)
        score = torch.zeros(len(self.prefixes), self.symbols, device=self.scores.device)
        score = score + (self.weight * ctc if self.weight else 0.0)
        score = score + ((1 - self.weight) * attention if self.weight < 1 else 0.0)
        score = (score + self.bonus * (length + 1)).unflatten(0, (self.count, self.beam))
        score = score.masked_fill(~torch.isfinite(self.scores)[..., None], -torch.inf)
        self._end(score[..., -1] - self.bonus, found)
        score[..., -1] = score[..., 0] = -torch.inf
        score = score.masked_fill((length >= limit)[:, None, None], -torch.inf)
        self.scores, place = score.flatten(1).topk(self.beam, dim=1)
        rows = (torch.arange(self.count, device=place.device)[:, None] * self.beam + place // self.symbols).flatten()
        last = (place % self.symbols).flatten()
        self.prefixes = torch.cat([self.prefixes[rows], last[:, None]], dim=1)
        if spoken is not None and blank is not None:
            self.states = PrefixStates(spoken[:, rows, last], blank[:, rows, last], last)
        if self.weight < 1:
            self.attention = attention[rows, last]

    def _attended(self) -> Tensor:
        """Log probabilities [N · beam, V] of what follows each prefix; only live ones are computed."""
        live = torch.isfinite(self.scores).flatten()
        found = torch.zeros(len(live), self.symbols, device=self.scores.device)
        found[live] = self.decoder(self.prefixes[live], self.memory[live], self.steps[live])[:, -1]
        return found

    def _end(self, scores: Tensor, found: list[list[Line]]) -> None:
        for utterance, row in enumerate(scores.tolist()):
            for place, score in enumerate(row):
                if score > -torch.inf:
                    symbols = self.prefixes[utterance * self.beam + place, 1:].tolist()
                    found[utterance].append(Line(symbols, score))
