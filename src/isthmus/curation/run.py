"""`curate`: from a pool and a list of concepts to the pairs worth training on."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from isthmus import __version__
from isthmus.curation.assign import Selection, assign
from isthmus.curation.cleaning import Cleaned, Cleaning, clean_pool, told
from isthmus.curation.encoding import Encoding, encoding_of, load_encoding
from isthmus.curation.mixing import Source, drawn
from isthmus.curation.parts import scan_on_ray
from isthmus.curation.pools import SIDES, Pool, Side, open_pool, side_names
from isthmus.curation.prototypes import KINDS, SHOTS, Prototypes, image_side, make_prototypes
from isthmus.curation.scan import Scorer, nearest_counts, scan, tiles
from isthmus.curation.topk import TopK, buffer_bytes
from isthmus.embedding.engines import check_engine
from isthmus.encoders.base import Modality
from isthmus.errors import InputError, UsageError
from isthmus.files import atomic_path, write_json
from isthmus.store.disk import full_disk_named, write_parquet
from isthmus.store.manifest import is_store
from isthmus.store.reader import Store

PER_CONCEPT = 2000  # freeze-align's quota, and its K = 25 times that
KEEP_FACTOR = 25
SELECTED, MANIFEST, REPORT = "selected.parquet", "manifest.json", "report.html"


@dataclass
class Curated:
    """What `curate` chose.

    ids, concept, score, reason: a row per pair, in the order of choosing. per_concept: counts by name, rarest
    concept first. short: names of concepts that stayed below the quota, with their count. manifest: all of
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

    def __str__(self) -> str:
        facts = self.manifest
        where = f"{self.out}/{SELECTED}: " if self.out else ""
        sides = ", ".join(facts["config"]["sides"]) if self.per_concept else ""
        concepts = f", for {len(self.per_concept):,} concepts ({sides} side)" if self.per_concept else ""
        lines = [f"{where}{len(self):,} pairs of a pool of {facts['pool']['rows']:,} rows{concepts}."]
        if facts["pool"]["missing"]:
            lines.append(f"{facts['pool']['missing']:,} rows were no candidates: no features, or left out before.")
        if "cleaning" in facts:
            lines.append("Cleaning: " + told(facts["cleaning"]))
        if self.short:
            some = ", ".join(f"{name} ({count:,})" for name, count in list(self.short.items())[:5])
            more = f" and {len(self.short) - 5:,} more" if len(self.short) > 5 else ""
            lines.append(f"{len(self.short):,} concepts stayed below {facts['config']['per_concept']:,}: {some}{more}.")
        return "\n".join([*lines, *facts["notes"]])


@dataclass(frozen=True)
class Choices:
    """What decides the selection, beside pool and concepts; recorded in the manifest."""

    per_concept: int
    keep: int
    floor: float | None
    rank: int | str | None
    sides: tuple[Side, ...]
    combine: str
    shots: int
    templates: str | list[str]
    seed: int


def curate(
    pool: Any,
    concepts: Any = None,
    *,
    out: str | Path | None = None,
    encoder: Any = None,
    per_concept: int = PER_CONCEPT,
    keep: int | None = None,
    floor: float | None = None,
    rank: int | str | None = None,
    sides: str | None = None,
    combine: str = "min",
    mix: Sequence[Source | str] = (),
    templates: str | Path | Sequence[str] = "default",
    shots: int = SHOTS,
    images: Any = None,
    cleaning: Cleaning | None = None,
    engine: str = "local",
    seed: int = 0,
    resume: bool = True,
    progress: bool = False,
    **options: Any,
) -> Curated:
    """Choose pairs by concept: the best rows of each, rarest concept first, each pair once.

    The method is freeze-align's (Maniparambil et al. 2024, concept-rich data curation), exact and in one pass of
    bounded memory: `TopK` says how, `scan` when two runs agree bit for bit.

    Args:
        pool: what `open_pool` takes: a store, arrays, embedding folders, metadata with captions, pairs. Images of
            the test split are never chosen.
        concepts: what `make_prototypes` takes: names, labelled images, "auto:N", "captions:N". None: all that
            cleaning leaves is chosen.
        out: folder for `selected.parquet`, `manifest.json`, `report.html` and the candidates, by which an
            interrupted run goes on and a run with another quota or floor needs no second pass. None writes nothing.
        encoder: the encoder(s) of the pool's features, by URI or loaded; a dual encoder's folder projects them
            into its joint space. A store names its own.
        per_concept: most pairs for one concept.
        keep: K, the best rows kept for each concept; default 25 × per_concept.
        floor: least cosine of a pair to its concept.
        rank: how rare a concept is: its score at this rank, or "mean" (see `assign`).
        sides: "caption", "image" or "both"; default caption where concepts and pool have that side.
        combine: "min" or "mean" of both sides.
        mix: sources to add, `Source`s or "NAME=FOLDER:N".
        templates, shots: of prototypes, see `make_prototypes`.
        images: pairs that hold the pictures, for the report and for cleaning.
        cleaning: filters, decontamination, duplicates and balance before the choice (`Cleaning`). What they leave
            out is in `rejected.parquet`, `leaks.parquet` and `duplicates.parquet`. Sources mixed in are not cleaned.
        engine: "local", or "ray": parts of the pool on the workers of a Ray cluster, which open it by its path.
        seed: of clusters, shots, balance and mixing.
        options: device, trust_remote_code of encoders.

    Raises:
        InputError: a pool, concepts or encoder that cannot be used; nothing reaches the floor.
        UsageError: an option that does not exist or is out of range.
    """
    started = time.monotonic()
    check_engine(engine)
    if per_concept < 1 or (keep is not None and keep < 1):
        raise UsageError(f"per_concept={per_concept}, keep={keep}: each is at least 1.")
    encoding = _encoding(encoder, options)
    sources = [Source.parse(one) if isinstance(one, str) else one for one in mix]
    opened = open_pool(pool, encoding)
    cleaned = clean_pool(opened, pool, images, cleaning, encoding, seed=seed, **options) if cleaning else None
    if concepts is None:
        result = _all_left(opened, cleaned)
        _mix(result, sources, seed)
        return _finished(result, started, out, cleaned, images)
    encoding = _completed(opened, concepts, encoding, sides, options)
    prototypes, chosen_sides = _prototypes(
        opened, concepts, encoding, sides, templates=templates, shots=shots, seed=seed
    )
    choices = Choices(
        per_concept=per_concept,
        keep=min(keep or KEEP_FACTOR * per_concept, len(opened)),
        floor=floor,
        rank=rank,
        sides=chosen_sides,
        combine=combine,
        shots=shots,
        templates=templates if isinstance(templates, str) else [str(one) for one in np.atleast_1d(np.array(templates))],
        seed=seed,
    )
    scorer = Scorer({side: prototypes.sides[side] for side in chosen_sides}, combine)
    where = _Where(
        engine, partial(_reopened, pool, encoder, options), Path(out) if out is not None and resume else None
    )
    top = _scanned(opened, scorer, choices, cleaned, where, progress)
    selection, repeated = _assigned(opened, top, choices)
    result = _result(opened, prototypes, choices, top, selection)
    if repeated:
        result.manifest["notes"].append(f"{repeated:,} rows repeat an id; each id was chosen once.")
    _mix(result, sources, seed)
    result.manifest["before"] = _before(opened, scorer, prototypes)
    return _finished(result, started, out, cleaned, images, (opened, selection, prototypes.names))


def plan(
    pool: Any,
    concepts: Any,
    *,
    encoder: Any = None,
    per_concept: int = PER_CONCEPT,
    keep: int | None = None,
    sides: str | None = None,
    templates: str | Path | Sequence[str] = "default",
    shots: int = SHOTS,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """What `curate` with the same arguments would do: rows, concepts, sides, most of the memory, time of the pass.

    Makes the prototypes and scores a few tiles, so that what fails would fail here; writes nothing.
    """
    encoding = _encoding(encoder, options)
    opened = open_pool(pool, encoding)
    encoding = _completed(opened, concepts, encoding, sides, options)
    prototypes, chosen = _prototypes(opened, concepts, encoding, sides, templates=templates, shots=shots, seed=seed)
    scorer = Scorer({side: prototypes.sides[side] for side in chosen})
    kept = min(keep or KEEP_FACTOR * per_concept, len(opened))
    started = time.perf_counter()
    sample = min(len(opened), 4 * scorer.tile)
    for start, stop in tiles(0, sample, scorer.tile):
        scorer(opened, start, stop)
    seconds = (time.perf_counter() - started) / max(1, sample) * len(opened)
    return {
        "rows": len(opened),
        "concepts": len(prototypes),
        "concepts_from": prototypes.source,
        "sides": list(chosen),
        "most_pairs": min(len(opened), per_concept * len(prototypes)),
        "candidates_per_concept": kept,
        "memory_bytes": buffer_bytes(len(prototypes), kept, scorer.tile),
        "scoring_seconds": round(seconds, 1),
        "notes": prototypes.notes,
    }


def _encoding(encoder: Any, options: dict[str, Any]) -> Encoding:
    names = [] if encoder is None else list(encoder) if isinstance(encoder, list | tuple) else [encoder]
    return load_encoding(names, **options) if names else Encoding()


def _prototypes(
    pool: Pool, concepts: Any, encoding: Encoding, sides: str | None, **options: Any
) -> tuple[Prototypes, tuple[Side, ...]]:
    """The concepts' vectors on every side that is asked for, in the spaces of the pool's features."""
    if sides is not None:
        side_names(pool, sides)
    prototypes = make_prototypes(concepts, pool, encoding, **options)
    found = [side for side in SIDES if side in prototypes.sides and side in pool.widths]
    if sides is None and not found:
        raise InputError(f"{pool.name}: has {' and '.join(pool.widths)} features, the concepts none of these sides.")
    wanted = side_names(pool, sides or found[0])
    if "image" in wanted and "image" not in prototypes.sides and "caption" in pool.widths:
        prototypes = image_side(pool, prototypes)
    for side in wanted:
        if side not in prototypes.sides:
            raise InputError(
                f"{prototypes.source}: these concepts say nothing about the {side} side. Choose --sides "
                f"{' or '.join(prototypes.sides)}, or name the encoder of that side (--encoder URI)."
            )
    return prototypes, wanted


def _completed(pool: Pool, concepts: Any, encoding: Encoding, sides: str | None, options: Any) -> Encoding:
    """The encoders that the concepts need, those not named taken from the store's own records."""
    records = getattr(pool, "records", {})
    if encoding.joint or isinstance(concepts, Prototypes):
        return encoding
    kind = str(concepts).partition(":")[0] if isinstance(concepts, str) else ""
    labelled = isinstance(concepts, str | Path) and kind not in KINDS and Path(concepts).suffix != ".txt"
    if labelled and not Path(concepts).exists():
        raise InputError(f"{concepts}: no such file or folder of concepts.")
    needed: list[Modality] = []
    if labelled and not is_store(Path(concepts)):
        needed.append("image")
    if kind != "auto" and (not labelled or sides in ("caption", "both")):
        needed.append("text")
    wanted = [modality for modality in needed if getattr(encoding, modality) is None and records.get(modality)]
    if not wanted:
        return encoding
    own = encoding_of(records, wanted, **options)
    return Encoding(encoding.text or own.text, encoding.image or own.image, name=encoding.name)


@dataclass(frozen=True)
class _Where:
    """Who scans the pool, how a worker opens it, and the folder of the candidates."""

    engine: str
    open_pool: Callable[[], Pool]
    out: Path | None


def _reopened(pool: Any, encoder: Any, options: dict[str, Any]) -> Pool:
    return open_pool(pool.path if isinstance(pool, Store) else pool, _encoding(encoder, options))


def _scanned(
    pool: Pool, scorer: Scorer, choices: Choices, cleaned: Cleaned | None, where: _Where, progress: bool
) -> TopK:
    """The candidates: scanned, or read from an earlier run on the same pool, concepts and K."""
    digest = hashlib.blake2b(digest_size=16)
    for matrix in scorer.prototypes.values():
        digest.update(np.ascontiguousarray(matrix, np.float32).tobytes())
    about = {
        "pool": pool.fingerprint,
        "rows": len(pool),
        "concepts": digest.hexdigest(),
        "sides": list(choices.sides),
        "combine": choices.combine,
        "keep": choices.keep,
    }
    if cleaned is not None:
        about["excluded"] = hashlib.blake2b(np.packbits(cleaned.out).tobytes(), digest_size=16).hexdigest()
    options: dict[str, Any] = {"excluded": None if cleaned is None else cleaned.out, "progress": progress}
    if where.out is not None:
        name = hashlib.blake2b(json.dumps(about).encode(), digest_size=6).hexdigest()
        options |= {"checkpoint": where.out / f"candidates-{name}.topk", "about": about}
    if where.engine == "ray":
        threads = torch.get_num_threads()
        top = scan_on_ray(where.open_pool, len(pool), scorer, choices.keep, threads=threads, **options)
    else:
        top = scan(pool, scorer, choices.keep, **options)
    for stale in where.out.glob("candidates-*.topk") if where.out is not None else ():
        if stale != options["checkpoint"]:
            stale.unlink()
    return top


def _all_left(pool: Pool, cleaned: Cleaned | None) -> Curated:
    """Without concepts: every pair that cleaning has left, in the order of the pool."""
    if cleaned is None:
        raise UsageError("Nothing to choose by: name concepts (--concepts), or something to clean.")
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


def _assigned(pool: Pool, top: TopK, choices: Choices) -> tuple[Selection, int]:
    """The selection, and how many rows were passed over because their id was chosen already."""
    again: set[int] = set()
    while True:
        taken = np.zeros(pool.pairs, bool)
        taken[list(again)] = True
        selection = assign(
            top, choices.per_concept, floor=choices.floor, rank=choices.rank, units=pool.units, taken=taken
        )
        first: dict[str, int] = {}
        repeats = [
            row
            for row, id in zip(selection.rows.tolist(), pool.ids(selection.rows), strict=True)
            if first.setdefault(id, row) != row
        ]
        if not repeats:
            break
        again |= set(pool.units(np.array(repeats)).tolist())
    if not len(selection.rows):
        best = max((float(top.best(concept)[0][:1].max(initial=-1)) for concept in range(top.concepts)), default=-1)
        raise InputError(
            f"{pool.name}: no pair was chosen of {len(pool):,} rows, {top.missing:,} of them without features; the "
            f"best score is {best:.3f}{f', the floor {choices.floor}' if choices.floor is not None else ''}."
        )
    return selection, len(again)


def _result(pool: Pool, prototypes: Prototypes, choices: Choices, top: TopK, selection: Selection) -> Curated:
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
        "sha256_of_ids": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
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


def _mix(result: Curated, sources: Sequence[Source], seed: int) -> None:
    """Add the sources' pairs to the result. An id means a pair of its own source."""
    if not sources:
        return
    names = ["curated", *(source.name for source in sources)]
    if len(set(names)) < len(names):
        raise UsageError(f"--mix: names must differ, and from 'curated': {', '.join(names[1:])}.")
    result.source = ["curated"] * len(result)
    result.manifest["mix"] = {"curated": {"selected": len(result)}}
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


def _before(pool: Pool, scorer: Scorer, prototypes: Prototypes) -> dict[str, Any]:
    """How the pool itself spreads over the concepts: each row counts for its nearest."""
    counts, seen = nearest_counts(pool, scorer)
    return {"rows": seen, "nearest": dict(zip(prototypes.names, counts.tolist(), strict=True))}


def _finished(
    result: Curated,
    started: float,
    out: str | Path | None,
    cleaned: Cleaned | None,
    images: Any,
    chosen: tuple[Pool, Selection, Sequence[str]] | None = None,
) -> Curated:
    """The result with what cleaning did, written if there is a folder for it."""
    if cleaned is not None:
        result.manifest["cleaning"] = cleaned.counts
        result.manifest["notes"] += cleaned.notes
    result.manifest["seconds"] = round(time.monotonic() - started, 1)
    if out is not None:
        result.out = str(out)
        _write(result, cleaned, images, chosen, Path(out))
    return result


def _write(
    result: Curated,
    cleaned: Cleaned | None,
    images: Any,
    chosen: tuple[Pool, Selection, Sequence[str]] | None,
    out: Path,
) -> None:
    from isthmus.curation.report import write_report

    table = pa.table(
        {
            "id": pa.array(result.ids, pa.string()),
            "concept": pa.array(result.concept, pa.string()),
            "score": pa.array(result.score, pa.float32()),
            "reason": pa.array(result.reason, pa.string()),
        }
    )
    if result.source is not None:
        table = table.append_column("source", pa.array(result.source, pa.string()))
        for name in dict.fromkeys(result.source):
            mask = pa.array([one == name for one in result.source])
            _write_table(table.filter(mask), out / "sources" / f"{name}.parquet")
    _write_table(table, out / SELECTED)
    for name, listed in cleaned.tables().items() if cleaned is not None else ():
        _write_table(listed, out / f"{name}.parquet")
    write_json(out / MANIFEST, result.manifest)
    command = " ".join(["isthmus", *sys.argv[1:]]) if Path(sys.argv[0]).name == "isthmus" else "isthmus.curate(…)"
    write_report(result, chosen, cleaned, out / REPORT, images=images, command=command)


def _write_table(table: pa.Table, path: Path) -> None:
    with full_disk_named(path), atomic_path(path) as aside:
        write_parquet(table, aside)
