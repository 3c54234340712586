"""The page of a diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isthmus.curation.near_duplicates import METHODS
from isthmus.data.images import BadImage
from isthmus.evaluation.diagnosis.findings import Findings
from isthmus.evaluation.inputs import Embedded
from isthmus.evaluation.pages.diagnosis_figures import calibration, cosines, hubs, map_of_space
from isthmus.metrics.results import Result
from isthmus.report import Picture, render_page, write_page

if TYPE_CHECKING:
    from isthmus.curation.collection import Collection
    from isthmus.curation.leaks import Leak
    from isthmus.evaluation.diagnosis.audit import Audit

SHOWN = 12  # seen images with their matches
TITLES = {
    "image_retrieval": "captions search for their image",
    "text_retrieval": "images search for their caption",
    "zeroshot": "images search for their label",
}


def write_report(found: Findings, written: Result, path: Path) -> None:
    """Write the page of a diagnosis. Raises `UsageError` where the extra `report` is not installed."""
    embedded = found.embedded
    page = render_page(
        "isthmus.evaluation.pages",
        "diagnosis.html.j2",
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
    """Cosines of captions with random images that are not theirs."""
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
    """Some images that training has seen with their training images, evenly from the closest to the least close."""
    closest: dict[int, Leak] = {}
    for leak in audit.leaks:
        if leak.row not in closest or leak.similarity > closest[leak.row].similarity:
            closest[leak.row] = leak
    ranked = sorted(closest.values(), key=lambda leak: (-leak.similarity, leak.row))
    chosen = [ranked[row] for row in np.unique(np.linspace(0, len(ranked) - 1, SHOWN).astype(int))] if ranked else []
    return [_beside(audit, leak) for leak in chosen]


def _beside(audit: Audit, leak: Leak) -> dict[str, Any]:
    """A copy and what it is a copy of. Of equal bytes one picture at hand is both."""
    sides = [_side(audit.evaluated, audit.evaluated.ids[leak.row]), _side(audit.train, leak.match)]
    if leak.how == METHODS[0]:
        picture = sides[0]["picture"] or sides[1]["picture"]
        sides = [side | {"picture": picture} for side in sides]
    return {"how": leak.how, "similarity": leak.similarity, "sides": sides}


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
