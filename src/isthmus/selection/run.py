"""`select`: score every image encoder with every text encoder, rank the pairs, and write the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.columns import Columns
from isthmus.data.feature_pairs import SIDES, FeaturePairs
from isthmus.data.matrix import evenly
from isthmus.data.pairs import Pairs
from isthmus.embedding import plan as embedding_plan
from isthmus.encoders import Encoder
from isthmus.encoders.modality import Modality
from isthmus.errors import InputError, IsthmusError, UsageError
from isthmus.files import read_cached, write_sealed
from isthmus.owned import check_owned
from isthmus.progress import progress_bar
from isthmus.report import notebook, terminal
from isthmus.report.page import on_top
from isthmus.selection.candidates import (
    Candidate,
    Candidates,
    Log,
    check_any,
    first_ids,
    from_arrays,
    from_pairs,
    from_store,
    load_sides,
    pairs_of,
    wanted_ids,
)
from isthmus.selection.ranking import correlation, cost_of, pareto, ranked, tied_with_first
from isthmus.selection.scoring import DEFINITIONS, FALLBACK, LABELS, PROBE, PairScorer, Score, check_unimodal
from isthmus.selection.sides import EncoderSample
from isthmus.store import Store
from isthmus.store.joining import choose_ids
from isthmus.store.opening import SELECTION, holds_features, open_pairs, read_first
from isthmus.version import __version__

REPORT = "report.html"
SCORES_FORMAT = 1  # version of cached scores: raised when a score is computed in another way
Encoders = str | Encoder | Sequence[str | Encoder]


@dataclass(repr=False)
class Selection:
    """The result of `select`.

    pairs: one dictionary per encoder pair, best first (image, text, scores, cost, tied, pareto, …). encoders: by
    modality, one per candidate (name, width, layer, pool, network, cost, unimodal). agreement: by cheap score, its
    correlation with the probe. failed: encoders that could not be used. facts: n, config, seed, version, notes.
    frame, candidates: what `feature_pairs` needs. out: the folder that it was written to.
    """

    pairs: list[dict[str, Any]]
    encoders: Mapping[Any, list[dict[str, Any]]]
    agreement: dict[str, dict[str, Any]]
    failed: list[dict[str, str]]
    facts: dict[str, Any]
    candidates: Candidates = field(repr=False)
    out: str | None = None

    @property
    def best(self) -> dict[str, Any]:
        """The first choice."""
        return self.pairs[0]

    def feature_pairs(self, pair: Mapping[str, Any] | None = None) -> FeaturePairs:
        """Features of a ranked pair (default the first), as `train` takes them."""
        chosen = self.best if pair is None else pair
        sides = [next(c for c in self.candidates.encoders[m] if c.name == chosen[m]) for m in SIDES]
        return pairs_of(self.candidates.frame, *sides)

    def to_dict(self) -> dict[str, Any]:
        """What select.json holds."""
        return {
            **self.facts,
            "first_choice": {m: self.best[m] for m in SIDES},
            "pairs": self.pairs,
            "encoders": self.encoders,
            "agreement": self.agreement,
            "failed": self.failed,
        }

    def __repr__(self) -> str:
        return table(self)

    def _repr_html_(self) -> str:
        """The page inside the cell of a notebook."""
        found = notebook.page(Path(self.out) / REPORT) if self.out else None
        return found or f"<pre>{escape(str(self))}</pre>"


def select(
    data: Pairs | Store | str | Path | None = None,
    image: Encoders | Mapping[str, np.ndarray] = (),
    text: Encoders | Mapping[str, np.ndarray] = (),
    *,
    modalities: tuple[Modality, Modality] = SIDES,
    out: str | Path | None = None,
    only: str | Path | Sequence[str] | None = None,
    limit: int | None = None,
    seeds: int = 3,
    bootstrap: int = 1000,
    sample: int = 5000,
    seed: int = 0,
    device: str | None = None,
    trust_remote_code: bool = False,
    progress: bool | None = None,
    log: Log = lambda _line: None,
    command: str = "isthmus.select(…)",
    image_of: Sequence[int] | np.ndarray | None = None,
    ids: Sequence[str] | None = None,
    groups: Sequence[object] | np.ndarray | None = None,
    captions: Sequence[str] | None = None,
    labels: Sequence[str | None] | None = None,
    splits: Sequence[str | None] | None = None,
    columns: str | Columns | None = None,
    images: str | Path | None = None,
    split: str | None = None,
    pages: str | int | None = None,
    range: str | Sequence[float] | None = None,
) -> Selection:
    """Rank encoder pairs before anything is trained.

    Use this when you have data and more than one encoder to choose from; `train` then takes its folder. It trains small
    probes: minutes, where training every pair of encoders would take hours.

        >>> found = ist.select("captions.parquet", ["hf:facebook/dinov2-base?layer=*", "timm:convnext_base.fb_in22k"],
        ...                    ["st:all-MiniLM-L6-v2", "st:all-mpnet-base-v2"], out="choice/")
        >>> print(found)
        >>> model = ist.train("choice/", out="model/")

    Args:
        data: pairs (see `read_pairs`), or a store. None where `image` and `text` are dictionaries of arrays.
        image, text: encoders or their URIs (`layer=*` for every layer); of a store, which of its encoders (default
            all); without `data`, features by name: {"dino": [N, D], …}.
        modalities: which two are joined; the first stands in the place of the image, the second in that of the text.
        out: folder for select.json, report.html, the store (unless `data` is one) and the scores so far, with which a
            second run continues. Needed for pairs.
        only: ids to use. limit: use at most so many pairs, drawn by hash. Test pairs are never looked at.
        seeds: how many probes are trained per pair; 0 for none, and the ranking is by CCA.
        bootstrap: draws behind the intervals; 0 for none.
        sample: images that training-free scores are computed on, at most; 5,000 as freeze-align.
        seed: of the validation split, the draws and the first probe.
        image_of, ids, groups, captions, labels, splits: with arrays alone, as `FeaturePairs.from_arrays` takes them.
        progress, log, command: of what is printed meanwhile and written into the page.
        columns, images, split, pages, range: of reading pairs, as in `read_pairs`.

    Returns a `Selection`; `print` shows its table. An encoder that fails is listed in `.failed`; the others continue.

    Raises:
        UsageError: a name or option that does not exist, or `out` missing.
        InputError: no encoder left, fewer than 10 training pairs, or no validation pairs.
    """
    if seeds < 0 or bootstrap < 0 or sample < 10:
        raise UsageError(f"seeds = {seeds}, bootstrap = {bootstrap}, sample = {sample}: at least 0, 0 and 10.")
    options = {"device": device, "trust_remote_code": trust_remote_code}
    given = {
        "image_of": image_of,
        "ids": ids,
        "groups": groups,
        "captions": captions,
        "labels": labels,
        "splits": splits,
    }
    fields = {name: value for name, value in given.items() if value is not None}
    chosen = {"only": only, "limit": limit, "seed": seed, "modalities": tuple(modalities)}
    data = read_first(data, "required", columns=columns, images=images, split=split, pages=pages, range=range)
    candidates = gather(data, image, text, out, chosen, fields, progress, log, options)
    scorer = make_scorer(candidates.frame, seeds, bootstrap, sample, seed)
    cache = Cache(None if out is None else Path(out) / "scores", scorer)
    scored = score_all(candidates, scorer, cache, progress)
    encoders = {m: [_encoder_row(c, cache, scorer, log) for c in listed] for m, listed in candidates.encoders.items()}
    config = {"seeds": seeds, "bootstrap": bootstrap, "sample": sample, "limit": limit}
    selection = assemble(scored, encoders, candidates, scorer, config, command)
    if tuple(modalities) != SIDES:
        selection.facts["modalities"] = list(modalities)
    if out is not None:
        write(selection, Path(out))
        selection.out = str(out)
    return selection


def plan(
    data: Pairs | str | Path,
    image: Sequence[str] = (),
    text: Sequence[str] = (),
    *,
    only: str | Path | Sequence[str] | None = None,
    limit: int | None = None,
    seeds: int = 3,
    seed: int = 0,
    modalities: tuple[Modality, Modality] = SIDES,
    columns: str | Columns | None = None,
    images: str | Path | None = None,
    split: str | None = None,
    pages: str | int | None = None,
    range: str | Sequence[float] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """What `select` with the same arguments would do: pairs, encoders, and what embedding them would cost.

    Loads the encoders and encodes a small sample; writes nothing.
    """
    data = read_first(data, "required", columns=columns, images=images, split=split, pages=pages, range=range)
    if holds_features(data):
        stored = from_store(data, _listed(image), _listed(text), modalities=modalities)
        counts = [len(stored.encoders[m]) for m in SIDES]
        cost: dict[str, Any] = {"images": len(stored.frame)}
    else:
        pairs = open_pairs(data)
        pairs = pairs.subset(wanted_ids(pairs, only, limit, seed))
        failed: list[dict[str, str]] = []
        views = list(load_sides((image, text), modalities, failed, **options).values())
        counts = [len(listed) for listed in views]
        cost = asdict(embedding_plan(pairs, encoders=[view for listed in views for view in listed]))
        cost["failed"] = [f"{one['encoder']}: {one['reason']}" for one in failed]
    both = counts[0] * counts[1]
    return {
        "image_encoders": counts[0],
        "text_encoders": counts[1],
        "encoder_pairs": both,
        "probes": both * seeds,
    } | cost


def gather(
    data: Any,
    image: Any,
    text: Any,
    out: str | Path | None,
    chosen: dict[str, Any],
    fields: dict[str, Any],
    progress: bool | None,
    log: Log,
    options: dict[str, Any],
) -> Candidates:
    """The candidates, from pairs, a store or arrays."""
    if data is None:
        found = from_arrays(image, text, **fields)
    elif fields:
        raise UsageError(f"{', '.join(fields)}: only for features that are given as arrays.")
    elif holds_features(data):
        found = from_store(data, _listed(image), _listed(text), modalities=chosen["modalities"])
    elif out is None:
        raise UsageError("select needs `out`, a folder: the features of the pairs are stored there.")
    else:
        home = Path(out) / "store"
        return from_pairs(
            data, _listed(image), _listed(text), store=home, progress=progress, log=log, **chosen, **options
        )
    if chosen["only"] is not None:
        found.frame = choose_ids(found.frame, chosen["only"])
    kept = found.frame.split(seed=chosen["seed"])
    ids = [id for name in ("train", "val") if name in kept for id in kept[name].image_ids]
    found.frame = choose_ids(found.frame, first_ids(ids, chosen["limit"], chosen["seed"]))
    return found


def _listed(named: Any) -> list[Any]:
    return [named] if isinstance(named, str) or not isinstance(named, Sequence) else list(named)


def make_scorer(frame: FeaturePairs, seeds: int, bootstrap: int, sample: int, seed: int) -> PairScorer:
    """Train and validation parts of the images that have captions, and the sample for training-free scores."""
    described = np.unique(frame.image_of)
    parts = frame.subset(described).split(seed=seed)
    if "train" not in parts or "val" not in parts:
        missing = "training" if "train" not in parts else "validation"
        raise InputError(f"No {missing} pairs: held-out scores need both. Add pairs, or a `split` column with both.")
    train, val = parts["train"], parts["val"]
    few = train.subset(evenly(len(train), sample))
    return PairScorer(few, train, val, range(seed, seed + seeds), bootstrap, seed)


def score_all(
    candidates: Candidates, scorer: PairScorer, cache: Cache, progress: bool | None
) -> dict[tuple[str, str], dict[str, Score]]:
    """Scores by (image, text). An encoder whose features cannot be compared is moved to `failed`."""
    images, seconds = (list(candidates.encoders[side]) for side in SIDES)
    texts = [side for candidate in seconds if (side := _side(candidate, candidates, scorer))]
    check_any(candidates.encoders, candidates.failed)
    found: dict[tuple[str, str], dict[str, Score]] = {}
    with progress_bar(progress, total=len(images) * len(texts), desc="encoder pairs", unit="pair") as bar:
        for candidate in images:
            image = _side(candidate, candidates, scorer)
            for text in texts if image else []:
                assert image is not None
                found[image.name, text.name] = cache.scores(image, text, partial(scorer.pair, image, text))
                bar.update()
            scorer.closed_forms.forget(candidate.name)
    check_any(candidates.encoders, candidates.failed)
    return found


def _side(candidate: Candidate, candidates: Candidates, scorer: PairScorer) -> EncoderSample | None:
    try:
        return EncoderSample(candidate, scorer.sample)
    except IsthmusError as error:
        candidates.fail(candidate, error)
        return None


class Cache:
    """Scores in a folder, keyed by what they were computed from: a stopped run continues, a repeated one is quick."""

    def __init__(self, folder: Path | None, scorer: PairScorer) -> None:
        self.folder = folder
        if folder is not None:
            check_owned(folder.parent, {folder.name})
        part = scorer.train, scorer.val
        data = [[p.image_ids, p.caption_ids, p.bootstrap_group.tolist(), p.labels] for p in part]
        settings = [SCORES_FORMAT, list(scorer.seeds), scorer.bootstrap, scorer.seed, len(scorer.sample)]
        self.context, self.bootstrap = _digest([data, settings]), scorer.bootstrap
        self.names = {name for name in LABELS if name != PROBE or scorer.seeds}

    def scores(
        self, image: EncoderSample, text: EncoderSample, compute: Callable[[], dict[str, Score]]
    ) -> dict[str, Score]:
        """The scores of a pair, computed unless they are in the folder."""

        def fresh() -> dict[str, Any]:
            found = compute()
            return {name: asdict(score) | {"replicates": score.replicates.tolist()} for name, score in found.items()}

        def parse(found: dict[str, Any]) -> dict[str, Score]:
            if set(found) != self.names:
                raise LookupError(found)
            return {name: Score.from_dict(one, self.bootstrap) for name, one in found.items()}

        return parse(self.get(["pair", image.digest, text.digest], fresh, parse))

    def get(self, key: list[str], compute: Callable[[], Any], parse: Callable[[Any], Any]) -> Any:
        """The result of `compute`, from the folder if it is there, intact, and `parse` can read it."""
        if self.folder is None:
            return compute()
        path = self.folder / f"{_digest([self.context, *key])}.json"
        if held := read_cached(path):
            with suppress(LookupError, TypeError, ValueError, AttributeError):
                parse(held["value"])
                return held["value"]
        value = compute()
        write_sealed(path, {"value": value})
        return value


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=12).hexdigest()


def _encoder_row(candidate: Candidate, cache: Cache, scorer: PairScorer, log: Log) -> dict[str, Any]:
    """What select.json says about one encoder."""
    record, cost = candidate.record, candidate.cost
    key = ["unimodal", EncoderSample(candidate, scorer.sample).digest]
    return {
        "name": candidate.name,
        "fingerprint": record.get("fingerprint"),
        "network": candidate.network,
        "layer": record.get("layer"),
        "pool": record.get("pool"),
        "width": sum(candidate.parts),
        "cost": {"parameters": cost.parameters, "operations": cost.operations, "licence": cost.licence},
        "unimodal": cache.get(key, lambda: scorer.unimodal(candidate), check_unimodal),
    }


def assemble(
    scored: dict[tuple[str, str], dict[str, Score]],
    encoders: Mapping[Any, list[dict[str, Any]]],
    candidates: Candidates,
    scorer: PairScorer,
    config: dict[str, Any],
    command: str,
) -> Selection:
    """Rank the scored pairs."""
    main = PROBE if scorer.seeds else FALLBACK
    names = list(scored)
    order = ranked([scored[name][main].value for name in names])
    names = [names[i] for i in order]
    info = {(m, row["name"]): row for m, rows in encoders.items() for row in rows}
    costs = [cost_of(*(info[side, name] for side, name in zip(SIDES, both, strict=True))) for both in names]
    units = {unit for _, unit in costs}
    unit = units.pop() if len(units) == 1 else "width"
    prices = [
        price if unit != "width" else float(sum(info[m, name]["width"] for m, name in zip(SIDES, both, strict=True)))
        for (price, _), both in zip(costs, names, strict=True)
    ]
    front = pareto([scored[name][main].value for name in names], prices)
    tied = tied_with_first([scored[name][main].replicates for name in names])
    pairs = [
        {
            "rank": place + 1,
            "image": image,
            "text": text,
            "tied_with_first": tied[place],
            "pareto": front[place],
            "cost": prices[place],
            "scores": {name: score.to_dict() for name, score in scored[image, text].items()},
        }
        for place, (image, text) in enumerate(names)
    ]
    facts = _facts(candidates, scorer, config, command, main, unit, encoders)
    return Selection(pairs, encoders, _agreement(pairs, info, scorer), candidates.failed, facts, candidates)


def _agreement(pairs: list[dict[str, Any]], info: dict[Any, dict[str, Any]], scorer: PairScorer) -> dict[str, Any]:
    """Correlation of each cheap score with the probe's R@10 over the pairs; {} without a probe."""
    if not scorer.seeds or len(pairs) < 3:
        return {}
    families = [[info[m, row[m]]["network"] for row in pairs] for m in SIDES]
    probe = [row["scores"][PROBE]["value"] for row in pairs]
    cheap = [name for name in DEFINITIONS if name != PROBE]
    return {
        name: correlation(
            [row["scores"][name]["value"] for row in pairs],
            probe,
            families,
            resamples=scorer.bootstrap,
            seed=scorer.seed,
        )
        for name in cheap
    }


def _facts(
    candidates: Candidates,
    scorer: PairScorer,
    config: dict[str, Any],
    command: str,
    main: str,
    unit: str,
    encoders: Mapping[Any, list[dict[str, Any]]],
) -> dict[str, Any]:
    notes = []
    if all(row["unimodal"] is None for rows in encoders.values() for row in rows):
        notes.append("No labels in both splits: the unimodal scores (k-NN, linear probe) are left out.")
    if candidates.skipped:
        notes.append(f"{len(candidates.skipped):,} images or captions were skipped.")
    return {
        "isthmus": __version__,
        "command": command,
        "seed": scorer.seed,
        "config": config,
        "n": {
            "train_images": len(scorer.train),
            "val_images": len(scorer.val),
            "val_captions": len(scorer.val.image_of),
            "val_groups": scorer.val_draws.count,
            "sample_images": len(scorer.sample),
            "rbf_images": len(scorer.few),
        },
        "ranked_by": main,
        "cost_unit": unit,
        "scores": {name: DEFINITIONS[name] for name in LABELS if name != PROBE or scorer.seeds},
        "notes": notes,
        "store": None if candidates.store is None else str(candidates.store),
    }


def write(selection: Selection, out: Path) -> None:
    """select.json, and report.html where the packages for it are installed."""
    written = selection.to_dict()
    home = selection.candidates.store
    if home is not None:  # our own store is named relative to the folder, so that both can move
        inside = home.resolve().is_relative_to(out.resolve())
        written["store"] = str(home.resolve().relative_to(out.resolve()) if inside else home.resolve())
    write_sealed(out / SELECTION, written)
    from isthmus.selection.report import write_report

    with on_top():
        write_report(written, out / REPORT)


def table(selection: Selection, most: int = 20) -> str:
    """The ranking as text."""
    by = selection.facts["ranked_by"]
    shown = [by, *(name for name in LABELS if name in selection.best["scores"] and name != by)]
    rows = []
    for row in selection.pairs[:most]:
        marks = ("=" if row["tied_with_first"] and row["rank"] > 1 else "") + ("*" if row["pareto"] else "")
        values = [row["scores"][name]["value"] for name in shown]
        texts = [f"{100 * v:.1f}" if "recall" in name else f"{v:.3f}" for name, v in zip(shown, values, strict=True)]
        main = row["scores"][by]["ci95"]
        span = f"{100 * main[0]:.1f}–{100 * main[1]:.1f}" if main else ""
        rows.append([f"{row['rank']}{marks}", row["image"], row["text"], texts[0], span, *texts[1:]])
    first, second = selection.facts.get("modalities", SIDES)
    heads = ["", f"{first} encoder", f"{second} encoder", LABELS[by], "95 %", *(LABELS[name] for name in shown[1:])]
    narrow, others = terminal.narrowed(heads, rows, 3)
    lines = [narrow, *([terminal.wrapped(f"also scored, see select.json: {'; '.join(others)}")] if others else [])]
    if len(selection.pairs) > most:
        lines.append(f"… and {len(selection.pairs) - most} more pairs")
    told = [
        f"ranked by {LABELS[by]}; = ties with the first; * no other pair is better and cheaper "
        f"({selection.facts['cost_unit']})",
        *selection.facts["notes"],
        *(f"left out: {one['encoder']}: {one['reason']}" for one in selection.failed),
    ]
    lines += [terminal.wrapped(one, "  ") for one in told]
    return "\n".join(lines)
