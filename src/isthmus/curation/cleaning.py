"""Cleaning before the choice: filters, leaks, duplicates, balance. Everything left out is listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from isthmus.curation import leaks as leaking
from isthmus.curation.balance import Balance, balance, read_entries
from isthmus.curation.collection import Collection, ImageSpace, of_evaluation, of_pool
from isthmus.curation.duplicates import DuplicateGroups, find_duplicates
from isthmus.curation.encoding import Encoding, encoding_of
from isthmus.curation.filters import Filters, reject, rows_of
from isthmus.curation.leaks import Leak, find_leaks
from isthmus.curation.near_duplicates import NEAR, check_methods
from isthmus.curation.pools import Pool
from isthmus.data.feature_pairs import SIDES
from isthmus.errors import InputError, UsageError


@dataclass(frozen=True)
class Cleaning:
    """What to clean. Steps, in this order: filters, leaks, duplicates, balance; each works on what the step before
    left.

    dedup: "exact", "phash", "phash-loose", "embedding". near: least cosine of near-duplicates' features. against: sets
    to evaluate on (pairs, stores; their test split where they have one). keep_leaks: only report them. balance:
    metadata entries, a list or a file; t: see `isthmus.curation.balance`.
    """

    filters: Filters = field(default_factory=Filters)
    dedup: Sequence[str] = ()
    near: float = NEAR
    against: Sequence[Any] = ()
    keep_leaks: bool = False
    balance: str | Path | Sequence[str] | None = None
    t: int | None = None

    def __post_init__(self) -> None:
        check_methods(self.dedup)

    def __bool__(self) -> bool:
        return bool(self.dedup or self.against or self.balance or self.filters != Filters())

    @property
    def looks(self) -> bool:
        """Whether a step needs pictures."""
        return bool(self.against or self.filters.of_pictures or {"exact", "phash"} & {*self.dedup})

    def config(self) -> dict[str, Any]:
        """The settings, as the manifest records them."""
        named = self.balance if isinstance(self.balance, str | Path | None) else f"{len(self.balance)} entries"
        return {
            **{name: value for name, value in vars(self.filters).items() if value is not None},
            "dedup": list(self.dedup),
            "near": self.near,
            "against": [str(one) for one in self.against],
            "keep_leaks": self.keep_leaks,
            "balance": None if named is None else str(named),
        }


@dataclass
class Cleaned:
    """The result of cleaning. out: bool [captions], True where left out. rejected: (id, caption or None, reason) by
    filters and balance. sets: the evaluation sets."""

    pairs: Collection
    out: np.ndarray
    rejected: list[tuple[str, str | None, str]] = field(default_factory=list)
    sets: list[Collection] = field(default_factory=list)
    leaks: list[Leak] | None = None
    groups: DuplicateGroups | None = None
    balanced: Balance | None = None
    counts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def kept_by(self) -> list[str]:
        """The metadata entry that keeps each remaining caption, in order; empty without balancing."""
        return [one for one in self.balanced.because if one is not None] if self.balanced else []

    def tables(self) -> dict[str, pa.Table]:
        """`rejected`, `duplicates`, `doubtful` and `leaks.parquet`: those of the steps that ran."""
        schema = pa.schema({name: pa.string() for name in ("id", "caption", "reason")})
        rows = [dict(zip(schema.names, row, strict=True)) for row in self.rejected]
        found = {"rejected": pa.Table.from_pylist(rows, schema=schema)}
        if self.leaks is not None:
            found["leaks"] = leaking.table(self.leaks, self.pairs.ids)
        if self.groups is not None:
            found["duplicates"] = self.groups.table(self.pairs.ids)
            found["doubtful"] = self.groups.doubtful_table(self.pairs.ids)
        return found


def clean(pairs: Collection, cleaning: Cleaning, *, space: ImageSpace | None = None, seed: int = 0) -> Cleaned:
    """Clean the pairs of a pool. space: of the pool's image features, into which evaluation sets are brought.

    Raises InputError if a step lacks its data, or if nothing is left.
    """
    out = np.zeros(len(pairs.owner), bool)
    if pairs.usable is not None:
        out |= ~pairs.usable[pairs.owner]
    state = Cleaned(pairs, out)
    _filter(state, cleaning)
    if cleaning.against:
        _decontaminate(state, cleaning, space)
    if cleaning.dedup:
        _deduplicate(state, cleaning)
    if cleaning.balance is not None:
        _balance(state, cleaning, seed)
    if state.out.all():
        why = Counter(reason for _, _, reason in state.rejected).most_common(1)
        most = f"; most often: {why[0][0].rstrip('.')}" if why else ""
        raise InputError(f"{pairs.name}: cleaning left no pair{most}.")
    state.counts["config"] = cleaning.config()
    state.counts["left"] = int((~state.out).sum())
    return state


def clean_pool(
    pool: Pool, images: Any, cleaning: Cleaning, encoding: Encoding, *, seed: int = 0, **options: Any
) -> Cleaned:
    """Clean an opened pool.

    images: pairs with the pictures, or None. encoding: the encoders named for the pool. If images of evaluation sets
    need others, they are loaded by the pool's own records, with `options`.
    """
    if encoding.modalities[0] != SIDES[0] and cleaning.looks:
        raise UsageError(
            f"Filters of pictures, evaluation sets (--against) and --dedup exact and phash look at pictures; these are "
            f"pairs of {' and '.join(encoding.modalities)}."
        )
    space = _image_space(pool, encoding, options) if cleaning.against and "image" in pool.widths else None
    return clean(of_pool(pool, images), cleaning, space=space, seed=seed)


def _image_space(pool: Pool, encoding: Encoding, options: dict[str, Any]) -> ImageSpace:
    records = getattr(pool, "records", {}).get("image", [])
    fingerprints = [record["fingerprint"] for record in records]
    if encoding.image is not None:
        return ImageSpace(encoding, fingerprints or encoding.image.fingerprints)
    if records:
        with suppress(InputError):  # the encoder cannot be loaded; stored features can still be compared
            return ImageSpace(encoding_of({"image": records}, ["image"], **options), fingerprints)
    return ImageSpace(encoding, fingerprints)


def _filter(state: Cleaned, cleaning: Cleaning) -> None:
    pairs = state.pairs
    look = pairs.pictures is not None and bool(cleaning.dedup or cleaning.against)
    captions, pictures = reject(pairs, cleaning.filters, look=look)
    captions = {row: why for row, why in captions.items() if not state.out[row]}
    pictures = {row: why for row, why in pictures.items() if pairs.usable is None or pairs.usable[row]}
    state.rejected += [(pairs.ids[row], None, why) for row, why in pictures.items()]
    state.rejected += [(pairs.ids[pairs.owner[row]], pairs.texts[row], why) for row, why in captions.items()]
    state.out[list(captions)] = True
    state.out |= rows_of(pairs, pictures)
    state.counts["rejected_captions"], state.counts["rejected_pictures"] = len(captions), len(pictures)


def _decontaminate(state: Cleaned, cleaning: Cleaning, space: ImageSpace | None) -> None:
    state.sets = [of_evaluation(one, space) for one in cleaning.against]
    state.leaks, notes = find_leaks(state.pairs, _left(state), state.sets, near=cleaning.near)
    state.notes += notes
    leaked = {leak.row: leak.how for leak in state.leaks}
    if not cleaning.keep_leaks:
        state.out |= rows_of(state.pairs, leaked)
    by_set = Counter((leak.set, leak.how) for leak in state.leaks)
    state.counts["leaked"] = len(leaked)
    names = [one.name for one in state.sets]
    state.counts["leaks"] = {one: {how: n for (name, how), n in by_set.items() if name == one} for one in names}


def _deduplicate(state: Cleaned, cleaning: Cleaning) -> None:
    state.groups = find_duplicates(state.pairs, _left(state), cleaning.dedup, near=cleaning.near)
    state.out |= ~state.groups.kept[state.pairs.owner]
    members = state.groups.members()
    state.counts["duplicate_groups"] = len(members)
    state.counts["duplicates"] = sum(map(len, members)) - len(members)
    state.counts["doubtful_pairs"] = len(state.groups.doubtful)


def _balance(state: Cleaned, cleaning: Cleaning, seed: int) -> None:
    assert cleaning.balance is not None
    pairs, left = state.pairs, np.flatnonzero(~state.out)
    texts = [pairs.texts[row] for row in left.tolist()]
    names = [pairs.ids[pair] for pair in pairs.owner[left].tolist()]
    found = balance(texts, names, read_entries(cleaning.balance), t=cleaning.t, seed=seed)
    dropped = np.flatnonzero(~found.kept).tolist()
    reason = f"thinned: only entries with more than {found.t:,} matches, or none"
    state.rejected += [(names[row], texts[row], reason) for row in dropped]
    state.out[left[dropped]] = True
    state.balanced, state.counts["balance"] = found, found.summary()


def _left(state: Cleaned) -> np.ndarray:
    """The pairs that still have a caption, int64."""
    return np.unique(state.pairs.owner[~state.out])


def summary(counts: dict[str, Any]) -> str:
    """The counts of `Cleaned` in a sentence."""
    parts = [f"{counts['rejected_captions']:,} captions and {counts['rejected_pictures']:,} pictures rejected"]
    if "leaked" in counts:
        parts.append(f"{counts['leaked']:,} pairs that are also in evaluation sets")
    if "duplicates" in counts:
        parts.append(f"{counts['duplicates']:,} duplicates in {counts['duplicate_groups']:,} groups")
    if counts.get("doubtful_pairs"):
        parts.append(f"{counts['doubtful_pairs']:,} doubtful pairs kept apart (doubtful.parquet)")
    if "balance" in counts:
        parts.append(f"{counts['balance']['dropped']:,} captions thinned at t = {counts['balance']['t']:,}")
    return "; ".join(parts) + f"; {counts['left']:,} captions left."
