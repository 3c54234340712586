"""The result of a curation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from isthmus.curation.assign import Assignment
from isthmus.curation.cleaning import Cleaned, summary
from isthmus.curation.mixing import CURATED, MixedSource, drawn
from isthmus.curation.pools import Pool, PoolSide
from isthmus.curation.prototypes import Prototypes
from isthmus.curation.topk import TopK
from isthmus.data.frames import as_pandas
from isthmus.errors import UsageError
from isthmus.report import notebook
from isthmus.version import __version__

SELECTED, REPORT = "selected.parquet", "report.html"


@dataclass(repr=False)
class Curated:
    """What `curate` chose.

    ids, concept, score, reason: a row per pair, in the order of choosing. per_concept: counts by name, rarest
    concept first. short: names of concepts with fewer pairs than the quota, with their count. manifest: all of
    `manifest.json`.
    """

    ids: list[str]
    concept: list[str | None]
    score: list[float | None]
    reason: list[str]
    source: list[str] | None
    per_concept: dict[str, int]
    short: dict[str, int]
    manifest: dict[str, Any] = field(repr=False)
    out: str | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def _repr_html_(self) -> str:
        """The page inside the cell of a notebook."""
        found = notebook.page(Path(self.out) / REPORT) if self.out else None
        return found or f"<pre>{escape(str(self))}</pre>"

    def to_pandas(self) -> Any:
        """A pandas data frame with a row per chosen pair: id, concept, score, reason."""
        columns = {"id": self.ids, "concept": self.concept, "score": self.score, "reason": self.reason}
        return as_pandas(pa.table(columns))

    def __repr__(self) -> str:
        facts = self.manifest
        where = f"{self.out}/{SELECTED}: " if self.out else ""
        sides = ", ".join(facts["config"]["sides"]) if self.per_concept else ""
        concepts = f", for {len(self.per_concept):,} concepts ({sides} side)" if self.per_concept else ""
        lines = [f"{where}{len(self):,} pairs of a pool of {facts['pool']['rows']:,} rows{concepts}."]
        if facts["pool"]["missing"]:
            missing = f"{facts['pool']['missing']:,} rows could not be chosen"
            lines.append(f"{missing}: they have no features, or were left out earlier.")
        if "cleaning" in facts:
            lines.append("Cleaning: " + summary(facts["cleaning"]))
        if (floor := facts.get("floor")) and floor["kind"] != "given":
            least = "Least score" if floor["least"] is None else f"Least score {floor['least']:.3f}"
            lines.append(f"{least}: {floor['reason']}" + (" (--floor none: no limit)." if floor["least"] else "."))
        if self.short:
            some = ", ".join(f"{name} ({count:,})" for name, count in list(self.short.items())[:5])
            more = f" and {len(self.short) - 5:,} more" if len(self.short) > 5 else ""
            quota = f"{facts['config']['per_concept']:,}"
            lines.append(f"{len(self.short):,} concepts have fewer than {quota} pairs: {some}{more}.")
        return "\n".join([*lines, *facts["notes"]])


@dataclass(frozen=True)
class Choices:
    """The settings of the selection, apart from pool and concepts; recorded in the manifest."""

    per_concept: int
    keep: int
    floor: float | None
    rank: int | str | None
    sides: tuple[PoolSide, ...]
    combine: str
    shots: int
    templates: str | list[str]
    seed: int


def by_concept(pool: Pool, prototypes: Prototypes, choices: Choices, top: TopK, selection: Assignment) -> Curated:
    """The pairs chosen for concepts."""
    counts = selection.counts()
    ids = pool.ids(selection.rows)
    names = prototypes.names
    reference = [float(score) if np.isfinite(score) else None for score in selection.reference]
    concepts = [
        {
            "concept": names[concept],
            "selected": int(counts[concept]),
            "available": int(selection.available[concept]),
            "rank_score": reference[concept],
        }
        for concept in selection.order.tolist()
    ]
    per_concept = {one["concept"]: one["selected"] for one in concepts}
    manifest = {
        "isthmus": __version__,
        "pool": {"name": pool.name, "rows": len(pool), "missing": top.missing, "fingerprint": pool.fingerprint},
        "concepts_from": prototypes.source,
        "config": _plain(choices),
        "selected": len(ids),
        "concepts": concepts,
        "fallen_short": [one["concept"] for one in concepts if one["selected"] < choices.per_concept],
        "notes": list(prototypes.notes),
    }
    return Curated(
        ids=ids,
        concept=[names[concept] for concept in selection.concept.tolist()],
        score=[float(score) for score in selection.score],
        reason=[f"rank {rank:,} for its concept" for rank in selection.rank.tolist()],
        source=None,
        per_concept=per_concept,
        short={name: count for name, count in per_concept.items() if count < choices.per_concept},
        manifest=manifest,
    )


def _plain(choices: Choices) -> dict[str, Any]:
    return {**vars(choices), "sides": list(choices.sides)}


def add_sources(result: Curated, sources: Sequence[MixedSource], seed: int) -> None:
    """Add the sources' pairs to the result. Equal ids of different sources are different pairs."""
    if not sources:
        return
    result.source = [CURATED] * len(result)
    result.manifest["mix"] = {CURATED: {"selected": len(result)}}
    for source in sources:
        ids = drawn(source, seed)
        result.ids += ids
        result.concept += [None] * len(ids)
        result.score += [None] * len(ids)
        result.reason += [f"source {source.name}"] * len(ids)
        result.source += [source.name] * len(ids)
        result.manifest["mix"][source.name] = {"from": str(source.pairs), "quota": source.count, "selected": len(ids)}
        if source.count is not None and len(ids) < source.count:
            result.manifest["notes"].append(f"source {source.name} has only {len(ids):,} of {source.count:,} pairs.")
    result.manifest["selected"] = len(result)


def all_left(pool: Pool, cleaned: Cleaned | None) -> Curated:
    """Without concepts, choose every pair that cleaning left, in the order of the pool."""
    if cleaned is None:
        raise UsageError("Nothing to choose by: name concepts (--concepts) or a cleaning step.")
    left = np.flatnonzero(~cleaned.out)
    pairs, first = np.unique(cleaned.pairs.owner[left], return_index=True)
    because = dict(zip(left.tolist(), cleaned.kept_by, strict=True)) if cleaned.kept_by else {}
    reasons = [because.get(row) for row in left[first].tolist()]
    manifest = {
        "isthmus": __version__,
        "pool": {
            "name": pool.name,
            "rows": len(pool),
            "missing": int(cleaned.out.sum()),
            "fingerprint": pool.fingerprint,
        },
        "selected": len(pairs),
        "notes": [],
    }
    return Curated(
        ids=[cleaned.pairs.ids[pair] for pair in pairs.tolist()],
        concept=[None] * len(pairs),
        score=[None] * len(pairs),
        reason=[f"kept for {entry!r}" if entry else "left by cleaning" for entry in reasons],
        source=None,
        per_concept={},
        short={},
        manifest=manifest,
    )
