"""What a fusion run is judged by on held-out pairs: answers, matching, retrieval by the unimodal ends, hidden words."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from isthmus.data.feature_pairs import SIDES
from isthmus.training.contrastive.validation import guessed as guessed_recall
from isthmus.training.contrastive.validation import recalls
from isthmus.training.fusion.batches import StateBatches, positive_groups, scored
from isthmus.training.fusion.data import LayeredPairs
from isthmus.training.fusion.negatives import draw_negatives

MOST = 5000  # texts that are judged, evenly spaced
AT_ONCE = 64


class JudgedFusion(Protocol):
    """What is read of an objective."""

    plan: Any
    module: Any
    device: torch.device
    answers: list[str]
    train: LayeredPairs
    held_out: StateBatches

    def hidden_words(self, data: LayeredPairs, rows: np.ndarray) -> tuple[Any, Tensor]: ...


@torch.no_grad()
def validated(objective: JudgedFusion, val: LayeredPairs) -> dict[str, float]:
    """Metrics of the module as it is, in eval mode; draws leave torch's generator as it was."""
    weights = objective.plan.recipe.objectives
    batches = objective.held_out
    found: dict[str, float] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if weights.answers:
            found |= _answered(objective, val, batches)
        if weights.contrast:
            found |= _retrieved(objective, val, batches)
        if weights.matching:
            found |= _matched(objective, val, batches)
        if weights.words:
            found |= _words(objective, val, batches)
    return found


def guessed(objective: JudgedFusion, val: LayeredPairs) -> dict[str, float]:
    """What the most frequent answer, a coin and a random order reach."""
    weights, found = objective.plan.recipe.objectives, {}
    if weights.answers:
        told = [max(one, key=lambda name: one[name]) for one in objective.train.answers if one]
        most = Counter(told).most_common(1)[0][0]
        asked = [one for one in val.answers if one]
        found["val_accuracy"] = float(np.mean([one.get(most, 0.0) for one in asked])) if asked else 0.0
    if weights.contrast:
        found |= guessed_recall(val.pairs)
    if weights.matching:
        found["val_matching"] = 0.5
    return found


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST)).astype(np.int64)]
    return [chosen[start : start + AT_ONCE] for start in range(0, len(chosen), AT_ONCE)]


def _states(val: LayeredPairs, batches: StateBatches, rows: np.ndarray) -> dict[str, Any]:
    places = val.pairs.image_of[rows], rows
    return {side: batches.take(side, one) for side, one in zip(SIDES, places, strict=True)}


def _answered(objective: JudgedFusion, val: LayeredPairs, batches: StateBatches) -> dict[str, float]:
    """The mean score of the likeliest answer; answers that were not learned are wrong."""
    network, right = objective.module.network, []
    asked = np.flatnonzero([bool(one) for one in val.answers])
    for rows in _parts(asked) if len(asked) else []:
        logits = network.answer_logits(network(_states(val, batches, rows), pooled_only=True))
        scores = scored([val.answers[row] for row in rows], objective.answers)
        right.append(scores.gather(1, logits.argmax(1).cpu()[:, None])[:, 0])
    return {"val_accuracy": float(torch.cat(right).mean()) if right else 0.0}


def _retrieved(objective: JudgedFusion, val: LayeredPairs, batches: StateBatches) -> dict[str, float]:
    network = objective.module.network
    counts = {"image": len(val.pairs), "text": len(val)}
    ends = {
        side: torch.cat(
            [
                network.ends({side: batches.take(side, rows)})[side].cpu()
                for rows in np.array_split(np.arange(counts[side]), max(1, counts[side] // AT_ONCE))
            ]
        ).float()
        for side in SIDES
    }
    return recalls(ends[SIDES[0]], ends[SIDES[1]], val.pairs)


def _matched(objective: JudgedFusion, val: LayeredPairs, batches: StateBatches) -> dict[str, float]:
    """Balanced accuracy: texts with their pictures, and with another one drawn evenly from the same part."""
    network, of_image, of_text = objective.module.network, *positive_groups(val)
    yes: list[Tensor] = []
    no: list[Tensor] = []
    for rows in _parts(np.arange(len(val))):
        states = _states(val, batches, rows)
        yes.append(network.match_logits(network(states, pooled_only=True)).cpu() > 0)
        positive = of_text[rows][:, None] == of_image[rows]
        picked, there = draw_negatives(None, positive, torch.rand(len(rows), dtype=torch.float64))
        other = batches.take(SIDES[0], val.pairs.image_of[rows[picked.numpy()]])
        no.append((network.match_logits(network({**states, SIDES[0]: other}, pooled_only=True)).cpu() < 0)[there])
    return {"val_matching": (float(torch.cat(yes).float().mean()) + float(torch.cat(no).float().mean())) / 2}


def _words(objective: JudgedFusion, val: LayeredPairs, batches: StateBatches) -> dict[str, float]:
    """The share of hidden words that are told."""
    network, right = objective.module.network, []
    assert network.words is not None
    for rows in _parts(np.arange(len(val))):
        states, labels = objective.hidden_words(val, rows)
        fused = network({**_states(val, batches, rows), SIDES[1]: states})
        logits = network.words(fused.states[SIDES[1]][labels >= 0])
        right.append((logits.argmax(1) == labels[labels >= 0]).cpu())
    return {"val_words": float(torch.cat(right).float().mean())}
