"""What a diagnosis found, as numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isthmus.evaluation.diagnosis.audit import Audit
from isthmus.evaluation.inputs import Embedded
from isthmus.metrics.calibration import abstain_threshold, reliability


@dataclass(frozen=True)
class Judged:
    """Answers of one kind: confidence and cosine of every first answer, whether it is right, and whose it is."""

    confidence: np.ndarray
    cosine: np.ndarray
    right: np.ndarray
    image_of: np.ndarray
    bins: list[dict[str, Any]]
    abstain: dict[str, Any]


@dataclass
class Findings:
    """Everything that was found; `to_dict` gives the numbers."""

    embedded: Embedded
    k: int
    precision: float
    metrics: dict[str, float] = field(default_factory=dict)
    ci95: dict[str, list[float]] = field(default_factory=dict)
    distances: np.ndarray = field(default_factory=lambda: np.empty(0))
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    judged: dict[str, Judged] = field(default_factory=dict)
    audit: Audit | None = None

    def add(self, metrics: dict[str, float], ci95: dict[str, list[float]]) -> None:
        self.metrics |= metrics
        self.ci95 |= ci95

    def judge(
        self,
        name: str,
        confidence: np.ndarray,
        cosine: np.ndarray,
        right: np.ndarray,
        groups: np.ndarray,
        image_of: np.ndarray,
        resampling: dict[str, int],
    ) -> None:
        """Calibration of one kind of answers, and the threshold below which to abstain."""
        found = reliability(confidence, right, groups=groups, **resampling)
        self.add(
            {f"{name}_{key}": value for key, value in found["metrics"].items()},
            {f"{name}_{key}": value for key, value in found["ci95"].items()},
        )
        chosen: dict[str, Any] = {"groups": groups, "seed": resampling["seed"]}
        abstain = {
            "probability": abstain_threshold(confidence, right, self.precision, **chosen),
            "cosine": abstain_threshold(cosine, right, self.precision, **chosen),
        }
        self.judged[name] = Judged(confidence, cosine, right, image_of, found["bins"], abstain)

    def to_dict(self) -> dict[str, Any]:
        """metrics, ci95, n, k_occurrences' k, reliability bins, thresholds, and the audit's counts and notes."""
        embedded = self.embedded
        n = {"images": len(embedded.image), "texts": len(embedded.text), "groups": len(np.unique(embedded.groups))}
        found: dict[str, Any] = {
            "metrics": self.metrics,
            "ci95": self.ci95,
            "n": n,
            "k": self.k,
            "reliability": {name: one.bins for name, one in self.judged.items()},
            "abstain": {name: one.abstain for name, one in self.judged.items()},
        }
        if self.audit is not None:
            leaks = [
                {"id": self.audit.evaluated.ids[leak.row], "match": leak.match, "how": leak.how, "similarity": s}
                for leak in self.audit.leaks
                for s in [float(leak.similarity)]
            ]
            found["seen"] = {"n": self.audit.counts(), "notes": self.audit.notes, "pairs": leaks}
        return found
