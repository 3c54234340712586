"""`curate`: choose the pairs worth training on from a pool, by a list of concepts."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from isthmus.curation.assign import Assignment, assign
from isthmus.curation.cleaning import Cleaned, Cleaning, clean_pool
from isthmus.curation.curated import Choices, Curated, add_sources, all_left, by_concept
from isthmus.curation.encoding import Encoding, encoding_of, load_encoding
from isthmus.curation.floor import choose_floor
from isthmus.curation.mixing import MixedSource, parse_sources
from isthmus.curation.output import write
from isthmus.curation.parts import scan_on_ray
from isthmus.curation.pools import SIDES, Pool, PoolSide, side_names
from isthmus.curation.prototypes import KINDS, SHOTS, Prototypes, image_side, make_prototypes
from isthmus.curation.scan import ConceptScorer, nearest_counts, scan, tiles
from isthmus.curation.sources import open_pool
from isthmus.curation.topk import TopK, buffer_bytes
from isthmus.data.columns import Columns
from isthmus.data.feature_pairs import SIDES as MODALITIES
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.pairs import Pairs
from isthmus.embedding.engines import check_engine
from isthmus.encoders.base import Encoder
from isthmus.encoders.modality import Modality
from isthmus.errors import InputError, UsageError
from isthmus.files import writing
from isthmus.store.opening import holds_features, read_first
from isthmus.store.reader import Store

PER_CONCEPT = 2000  # freeze-align's quota, and its K = 25 times that
KEEP_FACTOR = 25


def curate(
    pool: Pool | Store | FeaturePairs | Pairs | str | Path,
    concepts: Prototypes | str | Path | Sequence[str] | None = None,
    *,
    out: str | Path | None = None,
    encoder: str | Encoder | Sequence[str | Encoder] | None = None,
    modalities: tuple[Modality, Modality] = MODALITIES,
    per_concept: int = PER_CONCEPT,
    keep: int | None = None,
    floor: float | Literal["auto"] | None = "auto",
    rank: int | str | None = None,
    sides: Literal["caption", "image", "both"] | None = None,
    combine: Literal["min", "mean"] = "min",
    mix: Sequence[MixedSource | str] = (),
    templates: str | Path | Sequence[str] = "default",
    shots: int = SHOTS,
    images: Pairs | str | Path | None = None,
    cleaning: Cleaning | None = None,
    engine: Literal["local", "ray"] = "local",
    seed: int = 0,
    resume: bool = True,
    progress: bool | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    columns: str | Columns | None = None,
    split: str | None = None,
    pages: str | int | None = None,
    range: str | Sequence[float] | None = None,
) -> Curated:
    """Choose pairs by concept: the best rows of each, rarest concept first, each pair once.

    Use this when you have more pairs than you want to train on, or pairs that repeat, leak into your test data or have
    poor captions. `cleaning` removes pairs; `concepts` chooses the best of the rest.

        >>> chosen = ist.curate("store/", "classnames.txt", per_concept=200, out="curated/")
        >>> model = ist.train("store/", only="curated/selected.parquet", out="model/")

    The method is freeze-align's (Maniparambil et al. 2024, concept-rich data curation), exact and in one pass of
    bounded memory: `TopK` explains how, and `scan` when two runs agree to the bit.

    Args:
        pool: what `open_pool` takes: a store, arrays, embedding folders, metadata with captions, pairs. Images of
            the test split are never chosen.
        concepts: what `make_prototypes` takes: names, labelled images, "auto:N", "captions:N". None: everything that
            cleaning leaves is chosen.
        out: folder for `selected.parquet`, `manifest.json`, `report.html` and the candidates. With them an interrupted
            run continues, and a run with another quota or floor needs no second pass. None writes nothing.
        encoder: the encoder(s) of the pool's features, by URI or loaded; a dual encoder's folder projects them
            into its joint space. A store knows its own.
        modalities: of a store or pairs, which two the pairs are of; the first stands in the place of the image, the
            second in that of the caption. A dual encoder brings its own. Names of concepts need texts there.
        per_concept: most pairs for one concept.
        keep: K, the best rows kept for each concept; default 25 × per_concept.
        floor: least cosine of a pair to its concept. "auto": nine in ten concepts that are not in the pool get no pair
            (see `choose_floor`). None: no limit, so that quotas fill up with whatever is nearest.
        rank: how rare a concept is: its score at this rank, or "mean" (see `assign`).
        sides: "caption", "image" or "both"; default: caption, if concepts and pool have that side.
        combine: "min" or "mean" of both sides.
        mix: sources to add, `MixedSource`s or "NAME=FOLDER:N".
        templates, shots: of prototypes, see `make_prototypes`.
        images: pairs with the pictures, for the report and for cleaning.
        cleaning: filters, decontamination, duplicates and balance before the choice (`Cleaning`). What is left out is
            listed in `rejected.parquet`, `leaks.parquet` and `duplicates.parquet`. Sources mixed in are not cleaned.
        engine: "local", or "ray": parts of the pool on the workers of a Ray cluster, which open it by its path.
        seed: of clusters, shots, balance and mixing.
        device, trust_remote_code: for loading encoders.
        columns, split, pages, range: of reading pairs, as in `read_pairs`: the pool, or `images` where the pool holds
            features.

    Raises:
        InputError: a pool, concepts or encoder that cannot be used; nothing reaches the floor.
        UsageError: an option that does not exist or is out of range.
    """
    started = time.monotonic()
    options: dict[str, Any] = {"device": device, "trust_remote_code": trust_remote_code}
    check_engine(engine)
    if per_concept < 1 or (keep is not None and keep < 1):
        raise UsageError(f"per_concept={per_concept}, keep={keep}: each is at least 1.")
    pool, images = _read(pool, images, {"columns": columns, "split": split, "pages": pages, "range": range})
    encoding = load_encoding(encoder, _texts_second(modalities), **options)
    sources = parse_sources(mix)
    opened = open_pool(pool, encoding)
    cleaned = clean_pool(opened, images, cleaning, encoding, seed=seed, **options) if cleaning else None
    finish = partial(_finished, opened, sources, seed, started, out, cleaned, images)
    if concepts is None:
        return finish(all_left(opened, cleaned))
    encoding = _completed(opened, concepts, encoding, sides, options)
    prototypes, chosen_sides = _prototypes(
        opened, concepts, encoding, sides, templates=templates, shots=shots, seed=seed
    )
    least = choose_floor(floor, opened, prototypes, chosen_sides, combine, encoding, templates)
    choices = Choices(
        per_concept=per_concept,
        keep=min(keep or KEEP_FACTOR * per_concept, len(opened)),
        floor=least.least,
        rank=rank,
        sides=chosen_sides,
        combine=combine,
        shots=shots,
        templates=templates if isinstance(templates, str) else [str(one) for one in np.atleast_1d(np.array(templates))],
        seed=seed,
    )
    scorer = ConceptScorer({side: prototypes.sides[side] for side in chosen_sides}, combine)
    reopen = partial(_reopened, pool, encoder, encoding.modalities, options)
    where = _Where(engine, reopen, Path(out) if out is not None and resume else None)
    top = _scanned(opened, scorer, choices, cleaned, where, progress)
    selection, repeated = _assigned(opened, top, choices)
    result = by_concept(opened, prototypes, choices, top, selection)
    if repeated:
        result.manifest["notes"].append(f"{repeated:,} rows repeat an id; each id was chosen once.")
    result.manifest["floor"] = least.to_dict()
    result.manifest["before"] = _before(opened, scorer, prototypes)
    return finish(result, (opened, selection, prototypes.names))


def plan(
    pool: Any,
    concepts: Any,
    *,
    encoder: Any = None,
    modalities: tuple[Modality, Modality] = MODALITIES,
    per_concept: int = PER_CONCEPT,
    keep: int | None = None,
    sides: str | None = None,
    templates: str | Path | Sequence[str] = "default",
    shots: int = SHOTS,
    seed: int = 0,
    columns: str | Columns | None = None,
    split: str | None = None,
    pages: str | int | None = None,
    range: str | Sequence[float] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """What `curate` with the same arguments would do: rows, concepts, sides, most of the memory, time of the pass.

    Makes the prototypes and scores a few tiles, so that errors show here already; writes nothing.
    """
    pool, _ = _read(pool, None, {"columns": columns, "split": split, "pages": pages, "range": range})
    encoding = load_encoding(encoder, _texts_second(modalities), **options)
    opened = open_pool(pool, encoding)
    encoding = _completed(opened, concepts, encoding, sides, options)
    prototypes, chosen = _prototypes(opened, concepts, encoding, sides, templates=templates, shots=shots, seed=seed)
    scorer = ConceptScorer({side: prototypes.sides[side] for side in chosen})
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


def _read(pool: Any, images: Any, reading: dict[str, Any]) -> tuple[Any, Any]:
    """Pool and pictures; what of them is to be read as `reading` says is pairs then."""
    if images is not None and holds_features(pool):
        return pool, read_first(images, **reading)
    return read_first(pool, **reading), images


def _prototypes(
    pool: Pool, concepts: Any, encoding: Encoding, sides: str | None, **options: Any
) -> tuple[Prototypes, tuple[PoolSide, ...]]:
    """The concepts' vectors for each wanted side, in the spaces of the pool's features."""
    if sides is not None:
        side_names(pool, sides)
    prototypes = make_prototypes(concepts, pool, encoding, **options)
    found = [side for side in SIDES if side in prototypes.sides and side in pool.widths]
    if sides is None and not found:
        raise InputError(f"{pool.name}: has {' and '.join(pool.widths)} features, the concepts have neither.")
    wanted = side_names(pool, sides or found[0])
    if "image" in wanted and "image" not in prototypes.sides and "caption" in pool.widths:
        prototypes = image_side(pool, prototypes)
    for side in wanted:
        if side not in prototypes.sides:
            raise InputError(
                f"{prototypes.source}: these concepts have no vectors for the {side} side. Choose --sides "
                f"{' or '.join(prototypes.sides)}, or name the encoder of that side (--encoder URI)."
            )
    return prototypes, wanted


def _completed(pool: Pool, concepts: Any, encoding: Encoding, sides: str | None, options: Any) -> Encoding:
    """The encoders that the concepts need; those not named come from the store's own records."""
    records = getattr(pool, "records", {})
    if encoding.joint or isinstance(concepts, Prototypes):
        return encoding
    kind = str(concepts).partition(":")[0] if isinstance(concepts, str) else ""
    labelled = isinstance(concepts, str | Path) and kind not in KINDS and Path(concepts).suffix != ".txt"
    if labelled and not Path(concepts).exists():
        raise InputError(f"{concepts}: no such file or folder of concepts.")
    needed: list[str] = []
    if labelled and not holds_features(concepts):
        needed.append("image")
    if encoding.of_texts and kind != "auto" and (not labelled or sides in ("caption", "both")):
        needed.append("text")
    wanted = [side for side in needed if getattr(encoding, side) is None and records.get(side)]
    if not wanted:
        return encoding
    own = encoding_of(records, wanted, **options)
    both = encoding.text or own.text, encoding.image or own.image
    return Encoding(*both, name=encoding.name, modalities=encoding.modalities)


@dataclass(frozen=True)
class _Where:
    """The engine that scans the pool, how a worker opens the pool, and the folder of the candidates."""

    engine: str
    open_pool: Callable[[], Pool]
    out: Path | None


def _reopened(pool: Any, encoder: Any, modalities: tuple[Modality, Modality], options: dict[str, Any]) -> Pool:
    return open_pool(pool.path if isinstance(pool, Store) else pool, load_encoding(encoder, modalities, **options))


def _texts_second(modalities: Sequence[Modality]) -> tuple[Modality, Modality]:
    """The two, texts in the place of the captions."""
    first, second = modalities
    return (second, first) if first == MODALITIES[1] else (first, second)


def _scanned(
    pool: Pool, scorer: ConceptScorer, choices: Choices, cleaned: Cleaned | None, where: _Where, progress: bool | None
) -> TopK:
    """The candidates, from a scan or from an earlier run on the same pool, concepts and K."""
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
            with writing(stale):
                stale.unlink()
    return top


def _assigned(pool: Pool, top: TopK, choices: Choices) -> tuple[Assignment, int]:
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
            f"best score is {best:.3f}"
            + (f", the floor {choices.floor:.3f}; name another (--floor)." if choices.floor is not None else ".")
        )
    return selection, len(again)


def _before(pool: Pool, scorer: ConceptScorer, prototypes: Prototypes) -> dict[str, Any]:
    """How the pool itself is distributed over the concepts: each row counts for its nearest one."""
    counts, seen = nearest_counts(pool, scorer)
    return {"rows": seen, "nearest": dict(zip(prototypes.names, counts.tolist(), strict=True))}


def _finished(
    pool: Pool,
    sources: Sequence[MixedSource],
    seed: int,
    started: float,
    out: str | Path | None,
    cleaned: Cleaned | None,
    images: Any,
    result: Curated,
    chosen: tuple[Pool, Assignment, Sequence[str]] | None = None,
) -> Curated:
    """The result with the sources added, the manifest completed, and written if there is a folder for it."""
    add_sources(result, sources, seed)
    result.manifest["notes"] += getattr(pool, "notes", [])
    result.manifest["skipped"] = [list(one) for one in getattr(pool, "skipped", [])]
    if cleaned is not None:
        result.manifest["cleaning"] = cleaned.counts
        result.manifest["notes"] += cleaned.notes
    result.manifest["seconds"] = round(time.monotonic() - started, 1)
    if out is not None:
        result.out = str(out)
        write(result, cleaned, images, chosen, Path(out))
    return result
