"""Named sources added to the curated pairs, each with a quota (freeze-align: 6 M curated, 14 M caption-faithful)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.pairs import Pairs
from isthmus.errors import InputError, UsageError
from isthmus.store.opening import open_source
from isthmus.store.reader import Store

CURATED = "curated"  # the source name of the pairs chosen by concept


@dataclass(frozen=True)
class MixedSource:
    """A source to mix in: `count` pairs of `pairs`, None for all. name: its value in the column `source`."""

    name: str
    pairs: Any
    count: int | None = None

    @classmethod
    def parse(cls, text: str) -> MixedSource:
        """`NAME=FOLDER:N`, or `NAME=FOLDER` for all of it. Raises UsageError for anything else."""
        name, equals, rest = text.partition("=")
        folder, colon, number = rest.rpartition(":")
        counted = bool(colon) and number.isdigit()
        rest, count = (folder, int(number)) if counted else (rest, None)
        if not (name and equals and rest) or count == 0 or not name.replace("-", "").replace("_", "").isalnum():
            raise UsageError(f"--mix {text!r}: write NAME=FOLDER:N, as in cc3m=cc3m-store:2000000.")
        return cls(name, rest, count)


def parse_sources(mix: Sequence[MixedSource | str]) -> list[MixedSource]:
    """Sources as given or written; UsageError if two have the same name, or one has the name of the curated pairs."""
    sources = [MixedSource.parse(one) if isinstance(one, str) else one for one in mix]
    names = [source.name for source in sources]
    if len({CURATED, *names}) <= len(names):
        raise UsageError(f"--mix: names must differ, and from {CURATED!r}: {', '.join(names)}.")
    return sources


def drawn(source: MixedSource, seed: int = 0) -> list[str]:
    """Ids of a source's pairs, in the order of a hash of (seed, name, id): no order of files changes the choice.

    Pairs of the test split are left out. Fewer than the quota if the source is smaller. Raises InputError for a source
    that cannot be read or has no pair.
    """
    ids = _training_ids(source.pairs)
    if not ids:
        raise InputError(f"{source.name}: {source.pairs} has no pair that training may use.")
    ids.sort(key=lambda id: (hashlib.blake2b(f"{seed}\n{source.name}\n{id}".encode(), digest_size=16).digest(), id))
    return ids[: source.count]


def _training_ids(pairs: Any) -> list[str]:
    if isinstance(pairs, str | Path):
        pairs = open_source(pairs, "required")
    if isinstance(pairs, FeaturePairs):
        ids, splits = pairs.image_ids, pairs.splits or [None] * len(pairs)
    elif isinstance(pairs, Store | Pairs):
        ids, splits = pairs.images["id"].to_pylist(), pairs.images["split"].to_pylist()
    else:  # a pool
        ids, splits = pairs.ids(np.arange(len(pairs))), [None] * len(pairs)
    return [id for id, split in zip(ids, splits, strict=True) if split != "test"]
