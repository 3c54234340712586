"""Is what was asked for there at all? The best match of a text, against the best matches of texts that are not there.

Whatever is asked, something is nearest. How near the nearest of n items comes to a text that none of them fits is the
greatest of n scores, and follows a Gumbel distribution (Coles 2001, An Introduction to Statistical Modeling of Extreme
Values). `NullBest` fits it to the best scores of everyday nouns over the same items: those that no caption holds, or,
without captions, the lower half of them (Efron 2004, "Large-scale simultaneous hypothesis testing": an empirical null).
So nothing need be stored in a model, and the number of items and the model's habits are accounted for. Where captions
tell which nouns are there, the best scores of those say how well this model knows what is there from what is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import numpy as np

LEAST = 20  # nouns that captions must hold, and must lack, before they are asked which nouns are there
KNOWN, UNKNOWN = (0.1, 0.9), (0.1, 0.5)  # quantiles that the distribution is fitted by
ALTERNATIVE = 0.5  # p-values of texts that fit: Beta(0.5, 1), where captions do not tell; benchmarks/absence_study.py
SHARPEST, VAGUEST = 0.05, 0.95  # what is measured of it is kept within
LEAST_P = 1e-12


def nouns() -> list[str]:
    """Everyday nouns, 157 of them: animals, things, places."""
    return resources.files("isthmus.metrics").joinpath("nouns.txt").read_text(encoding="utf-8").split()


def absent(names: list[str], captions: Iterable[str | None]) -> np.ndarray | None:
    """bool [names]: those that no caption holds, not even within a word; None where captions cannot tell.

    They cannot where there are none, or in another language: they hold, or lack, fewer than `LEAST` of the names.
    """
    wanted = dict.fromkeys(names)
    seen: set[str] = set()
    for caption in captions:
        text = (caption or "").lower()
        seen |= {name for name in wanted.keys() - seen if name in text} if text else set()
    missing = np.array([name not in seen for name in names])
    return missing if min(missing.sum(), (~missing).sum()) >= LEAST else None


@dataclass(frozen=True)
class NullBest:
    """The distribution of the best score of a text that nothing fits: Gumbel's location and scale.

    texts: how many it was fitted to. known: whether captions told which of the nouns are not there. alternative: a,
    where p-values of texts that fit follow Beta(a, 1); 1 where a model tells nothing.
    """

    location: float
    scale: float
    texts: int
    known: bool
    alternative: float = ALTERNATIVE

    def p_value(self, score: Any) -> np.ndarray:
        """float64, of the shape of `score`: how often a text that nothing fits has a best score of as much."""
        return -np.expm1(-np.exp(-(np.asarray(score, np.float64) - self.location) / self.scale))

    def grown(self, factor: float) -> NullBest:
        """The same for `factor` times as many items."""
        return replace(self, location=self.location + self.scale * float(np.log(factor)))

    def quantile(self, share: float) -> float:
        """The score below which the best of such a share of texts stays that nothing fits."""
        return self.location + self.scale * _standard(share)

    def probability(self, score: Any) -> np.ndarray:
        """float64: the probability that an item of this score fits, if before it was as likely as not.

        f / (1 + f) with f the density of the p-value where something fits: a · p^(a − 1), of the family by which
        Sellke, Bayarri and Berger (2001, "Calibration of p values") calibrate p-values. With a = 0.5 it is even at
        p = 0.25.
        """
        factor = self.alternative * np.maximum(self.p_value(score), LEAST_P) ** (self.alternative - 1)
        return factor / (1 + factor)


def null_best(best: np.ndarray, missing: np.ndarray | None = None) -> NullBest:
    """Fit the distribution to the best scores float [K] of nouns; missing: bool [K], those known not to be there.

    Where they are known, the others are there, and their p-values give `alternative`, by maximum likelihood.
    """
    if missing is None:
        return _fitted(np.asarray(best, np.float64), UNKNOWN, known=False)
    null = _fitted(np.asarray(best[missing], np.float64), KNOWN, known=True)
    there = null.p_value(best[~missing])
    if not len(there):
        return null
    sharpness = -1 / np.log(np.maximum(there, LEAST_P)).mean()
    return replace(null, alternative=float(np.clip(sharpness, SHARPEST, VAGUEST)))


def _fitted(used: np.ndarray, quantiles: tuple[float, float], known: bool) -> NullBest:
    low, high = quantiles
    at_low, at_high = np.quantile(used, [low, high])
    scale = max((at_high - at_low) / (_standard(high) - _standard(low)), 1e-6)
    return NullBest(float(at_low - scale * _standard(low)), float(scale), len(used), known)


def null_of(
    encode_text: Callable[[list[str]], np.ndarray], emb: Any, captions: Iterable[str | None] = ()
) -> NullBest | None:
    """The distribution for items [n, d] that texts are compared with by cosine, such as the pictures of a search.

    encode_text: list of N texts → [N, d], in the items' space. captions: of the items, if there are any. None where the
    encoder does not tell everyday nouns apart.
    """
    from isthmus.metrics.nearest import top_k  # loads torch, which reading a distribution does without

    names = nouns()
    best = top_k(encode_text(names), emb, 1)[0][:, 0]
    return null_best(best, absent(names, captions)) if np.ptp(best) >= 1e-6 else None


def _standard(share: float) -> float:
    """The quantile of the standard Gumbel distribution."""
    return float(-np.log(-np.log(share)))
