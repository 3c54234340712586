"""The least score of a chosen pair, from the scores of concepts that are not in the pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from isthmus.curation.encoding import Encoding
from isthmus.curation.pools import Pool, PoolSide
from isthmus.curation.prototypes import Prototypes, image_side, sampled_captions
from isthmus.curation.scan import ConceptScorer, best_scores
from isthmus.errors import UsageError
from isthmus.metrics.absence import absent, nouns, null_best
from isthmus.metrics.zeroshot import class_embeddings, load_templates

SHARE = 0.9  # of the concepts that are not there, so many get no pair
ROWS = 200_000  # scored for it; what more rows would reach follows from the distribution


@dataclass(frozen=True)
class Floor:
    """least: the least score, None without a limit. kind: "auto", "given" or "none". reason: in words."""

    least: float | None
    kind: Literal["auto", "given", "none"]
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """As the manifest has it."""
        return asdict(self)


def choose_floor(
    asked: float | str | None,
    pool: Pool,
    prototypes: Prototypes,
    sides: tuple[PoolSide, ...],
    combine: str,
    encoding: Encoding,
    templates: Any,
) -> Floor:
    """The floor: a number as asked, None for none, or "auto".

    "auto" is the score that the best row of nine in ten everyday nouns stays below that are not in the pool
    (`NullBest`). It needs concepts that are texts on every side, or whose image side is made from the pool, as that of
    the nouns is then; for others there is none, and the reason says so.
    """
    if asked is None:
        return Floor(None, "none", "none, as asked")
    if asked != "auto":
        if isinstance(asked, str):
            raise UsageError(f"floor={asked!r}: a number, 'auto' or None.")
        return Floor(float(asked), "given", "as asked")
    foreign = set(sides) - set(prototypes.named)
    if encoding.text is None or (foreign and not prototypes.from_pool):
        return Floor(None, "none", "none: these concepts are no texts, to which others could be compared")
    names = nouns()
    prompts = load_templates(templates) if isinstance(templates, str) else templates
    unit = class_embeddings(
        encoding.text, names, load_templates("default") if isinstance(prompts, Mapping) else prompts
    )
    compared = Prototypes(names, dict.fromkeys(set(sides) - foreign, unit), "everyday nouns")
    if foreign:
        compared = image_side(pool, compared, rows=ROWS)
    best, seen = best_scores(pool, ConceptScorer({side: compared.sides[side] for side in sides}, combine), ROWS)
    missing = absent(names, sampled_captions(pool))
    if not seen or np.ptp(best) < 1e-6:
        return Floor(None, "none", "none: the text encoder does not tell everyday nouns apart")
    null = null_best(best, missing).grown(len(pool) / seen)
    of = f"{null.texts} everyday nouns " + (
        "that no caption of the pool holds" if null.known else "(no captions say which of them are not there)"
    )
    return Floor(null.quantile(SHARE), "auto", f"nine in ten concepts that are not there have no such pair; from {of}")
