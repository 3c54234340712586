"""What a diagnosis found, and the page that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isthmus.data.images import BadImage
from isthmus.evaluation.calibration import abstain_threshold, reliability
from isthmus.evaluation.diagnosis.figures import calibration, cosines, hubs, map_of_space
from isthmus.evaluation.inputs import Embedded
from isthmus.report import Picture, render_page, write_page

if TYPE_CHECKING:
    from isthmus.curation.collection import Collection
    from isthmus.curation.leaks import Leak
    from isthmus.evaluation.diagnosis.audit import Audit

SHOWN = 6  # seen images with their matches
TITLES = {
    "image_retrieval": "a caption asks for its image",
    "text_retrieval": "an image asks for its caption",
    "zeroshot": "an image asks for its label",
}


@dataclass(frozen=True)
class Judged:
    """One kind of question: confidence and cosine of every first answer, whether it is right, and whose it is."""

    confidence: np.ndarray
    cosine: np.ndarray
    right: np.ndarray
    image_of: np.ndarray
    bins: list[dict[str, Any]]
    abstain: dict[str, Any]


@dataclass
class Findings:
    """Everything that was found; `to_dict` is the part that is numbers."""

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
        """Calibration of one kind of question, and when to say nothing."""
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


def write_report(found: Findings, written: dict[str, Any], path: Path) -> None:
    """Write the page of a diagnosis. Raises `UsageError` where the extra `report` is not installed."""
    embedded = found.embedded
    page = render_page(
        "isthmus.evaluation.diagnosis",
        "report.html.j2",
        command=f"isthmus eval {written['model']} diagnose {written['dataset']}",
        result=written,
        metrics=written["metrics"],
        ci95=written["ci95"],
        titles={name: TITLES[name] for name in found.judged},
        abstain=written["abstain"],
        space=map_of_space(embedded.image, embedded.text, embedded.image_of),
        cosines=cosines(1 - found.distances / 2, _others(embedded, written["seed"])),
        hubs=hubs(found.counts, _names(embedded), found.k),
        hub_names={side: _top(found.counts[side], names) for side, names in _names(embedded).items()},
        calibration=calibration(found.judged, TITLES),
        audit=None if found.audit is None else written["seen"],
        seen=[] if found.audit is None else _pictures(found.audit),
    )
    write_page(page, path)


def _others(embedded: Embedded, seed: int, count: int = 20_000) -> np.ndarray:
    """Cosines of captions with images that are not theirs, drawn at random."""
    rng = np.random.default_rng(seed)
    texts, images = rng.integers(len(embedded.text), size=count), rng.integers(len(embedded.image), size=count)
    apart = embedded.groups[embedded.image_of[texts]] != embedded.groups[images]
    x, y = embedded.image[images[apart]], embedded.text[texts[apart]]
    return np.einsum("ij,ij->i", x, y)


def _names(embedded: Embedded) -> dict[str, Sequence[str]]:
    """What to call images and captions."""
    captions = embedded.captions or [str(row) for row in range(len(embedded.text))]
    return {"image": embedded.image_ids, "text": captions}


def _top(counts: np.ndarray, names: Sequence[str], shown: int = 5) -> list[tuple[str, int]]:
    """The items that are found most often."""
    return [(names[row], int(counts[row])) for row in np.argsort(-counts, kind="stable")[:shown].tolist()]


def _pictures(audit: Audit) -> list[dict[str, Any]]:
    """Some images that training has seen, beside what it has seen: evenly from the closest to the least close."""
    closest: dict[int, Leak] = {}
    for leak in audit.leaks:
        if leak.row not in closest or leak.similarity > closest[leak.row].similarity:
            closest[leak.row] = leak
    ranked = sorted(closest.values(), key=lambda leak: (-leak.similarity, leak.row))
    chosen = [ranked[row] for row in np.unique(np.linspace(0, len(ranked) - 1, SHOWN).astype(int))] if ranked else []
    return [
        {
            "how": leak.how,
            "similarity": leak.similarity,
            "sides": [_side(audit.evaluated, audit.evaluated.ids[leak.row]), _side(audit.train, leak.match)],
        }
        for leak in chosen
    ]


def _side(one: Collection, name: str) -> dict[str, Any]:
    """An image's id, caption and, where its bytes are at hand, picture."""
    row = list(one.ids).index(name)
    captions = np.flatnonzero(one.owner == row)
    caption = (one.texts[int(captions[0])] or "") if len(captions) else ""
    picture = None
    if one.pictures is not None:
        with suppress(BadImage):
            picture = Picture(one.pictures.decode(row), caption)
    return {"id": name, "caption": caption, "picture": picture}
