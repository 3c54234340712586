"""Calibration: confidence against accuracy, and thresholds below which to abstain."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from isthmus.errors import InputError, UsageError
from isthmus.metrics.bootstrap import estimate
from isthmus.metrics.scores import group_vector, same_width, tiles, unit_rows

BINS = 15  # as Guo et al. 2017
TILE = 2048
FEWEST = 20  # least answers to measure a precision with; with fewer, luck would set the threshold


def softmax_confidence(query_emb: Any, emb: Any, best: np.ndarray, scale: float) -> np.ndarray:
    """Probability that the model gives its first answer: exp(scale·best) / Σ exp(scale·cosine) over all of `emb`.

    query_emb [q, d], emb [n, d]; best float [q]: each query's greatest cosine. Returns float64 [q]. The sum is
    streamed: `TILE`² cosines at once, in float32.
    """
    found = np.empty(len(query_emb))
    for some in tiles(len(query_emb), 1, TILE):
        queries = unit_rows(query_emb[some], "query embeddings", first_row=some.start).float()
        shift = torch.from_numpy(best[some].astype(np.float32))[:, None]
        total = torch.zeros(len(queries), dtype=torch.float64)
        for columns in tiles(len(emb), 1, TILE):
            items = unit_rows(emb[columns], "embeddings", first_row=columns.start).float()
            same_width(queries, "query embeddings", items, "embeddings")
            total += torch.exp(scale * (queries @ items.T - shift)).sum(dim=1, dtype=torch.float64)
        found[some] = 1 / total.clamp(min=1).numpy()  # the first answer's own term is 1
    return found


def reliability(
    confidence: np.ndarray,
    right: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    bins: int = BINS,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Confidence against accuracy in equal bins of confidence (Guo et al., ICML 2017, arXiv:1706.04599).

    confidence: float [q] in 0 … 1; right: bool [q]; groups: ids [q], the unit of the bootstrap.

    Returns {"metrics": {"ece": Σ share of a bin · |its accuracy − its mean confidence|, "accuracy", "confidence",
    "overconfidence": confidence − accuracy}, "ci95", "bins": [{"low", "high", "n", "confidence", "accuracy"}] of the
    bins that occur}. A bootstrap's ece leans upwards, as every resample adds noise to its bins: its interval is
    therefore too high rather than too low. Raises InputError for values outside 0 … 1 or lengths that differ.
    """
    confidence, right = np.asarray(confidence, np.float64), np.asarray(right, bool)
    if confidence.shape != right.shape or not confidence.size:
        raise InputError(f"{confidence.size} confidences, {right.size} answers: one of each per query is needed.")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise InputError("A confidence lies outside 0 … 1.")
    unit = group_vector(groups, len(confidence), "groups")
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)

    def statistic(weights: np.ndarray) -> np.ndarray:
        size, sure, hit = _binned(place, weights[unit], confidence, right, bins)
        accuracy, mean = hit.sum() / size.sum(), sure.sum() / size.sum()
        return np.array([np.abs(hit - sure).sum() / size.sum(), accuracy, mean, mean - accuracy])

    names = ["ece", "accuracy", "confidence", "overconfidence"]
    metrics, ci95 = estimate(statistic, names, int(unit.max()) + 1, bootstrap, seed, shares=["accuracy"])
    size, sure, hit = _binned(place, np.ones(len(place)), confidence, right, bins)
    rows = [
        {"low": b / bins, "high": (b + 1) / bins, "n": int(n), "confidence": sure[b] / n, "accuracy": hit[b] / n}
        for b, n in enumerate(size)
        if n
    ]
    return {"metrics": metrics, "ci95": ci95, "bins": rows}


def _binned(place: np.ndarray, weight: np.ndarray, confidence: np.ndarray, right: np.ndarray, bins: int) -> Any:
    """For every bin: the number of answers, the sum of confidences, the number of right answers."""
    return (np.bincount(place, weights=weight * value, minlength=bins) for value in (1.0, confidence, right))


def precision_curve(score: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision and coverage where only answers with a score of at least t are given, for every t that occurs.

    Returns (t, precision, coverage), float64, t falling. Equal scores are accepted or rejected together.
    """
    order = np.argsort(-score, kind="stable")
    sorted_score, hits = score[order], np.cumsum(right[order])
    last = np.append(sorted_score[1:] != sorted_score[:-1], True)
    count = np.arange(1, len(score) + 1)
    return sorted_score[last], (hits / count)[last], (count / len(score))[last]


def abstain_threshold(
    score: np.ndarray, right: np.ndarray, precision: float, *, groups: np.ndarray | None = None, seed: int = 0
) -> dict[str, Any]:
    """The least score at which to answer, so that answers are right as often as wanted.

    The threshold is chosen on one half of the groups, among those that leave `FEWEST` answers or more, and measured on
    the other half, because on the same data it would look too good.

    Returns {"threshold", "wanted", "precision" and "coverage" (on the other half), "answered", "n"}; threshold None if
    no score reaches that precision, or if a half is empty. Raises UsageError for a precision outside (0, 1].
    """
    if not 0 < precision <= 1:
        raise UsageError(f"precision={precision}: a share of right answers, in (0, 1].")
    unit = group_vector(groups, len(score), "groups")
    chooses = (np.random.default_rng(seed).permutation(int(unit.max()) + 1) % 2 == 0)[unit]
    found: dict[str, Any] = {"threshold": None, "wanted": precision, "precision": None, "coverage": 0.0}
    found |= {"answered": 0, "n": int((~chooses).sum())}
    if chooses.all():
        return found
    at, reached, coverage = precision_curve(np.asarray(score, np.float64)[chooses], np.asarray(right, bool)[chooses])
    enough = np.flatnonzero((reached >= precision) & (np.rint(coverage * chooses.sum()) >= FEWEST))
    if not len(enough):
        return found
    found["threshold"] = float(at[enough[-1]])
    answered = ~chooses & (score >= found["threshold"])
    found["answered"], found["coverage"] = int(answered.sum()), float(answered.sum() / found["n"])
    found["precision"] = float(np.mean(right[answered])) if answered.any() else None
    return found
