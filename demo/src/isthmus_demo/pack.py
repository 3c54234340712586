"""The demo's pairs: their description, and smaller choices of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

import pyarrow as pa

DESCRIPTION = (
    "Open Clip Art (public domain): drawings of at most 256 pixels, captions made of their titles, "
    "descriptions and keywords, near-duplicates grouped and split by group."
)


def some_groups(images: pa.Table, limit: int) -> list[str]:
    """Ids of at most `limit` images: whole groups in the order of their hash, from each split in proportion.

    images: columns id, group (null: a group of its own) and split. A group that does not fit any more is passed over,
    so that no series of hundreds fills a small choice. Every split gets at least two images.
    """
    splits: dict[str | None, dict[str, list[str]]] = {}
    for row in images.select(["id", "group", "split"]).to_pylist():
        splits.setdefault(row["split"], {}).setdefault(row["group"] or row["id"], []).append(row["id"])
    chosen: list[str] = []
    for groups in splits.values():
        room = max(2, limit * sum(map(len, groups.values())) // len(images))
        for group in sorted(groups, key=_hash):
            if len(groups[group]) <= room:
                chosen += groups[group]
                room -= len(groups[group])
    return chosen


def _hash(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def share_with_class(captions: Sequence[str], classes: Iterable[str]) -> float:
    """Share of `captions` that hold the name of a class (or its plural with s) as whole words, any case."""
    names = "|".join(re.escape(name) for name in classes)
    pattern = re.compile(rf"\b(?:{names})s?\b", re.IGNORECASE)
    return sum(bool(pattern.search(caption)) for caption in captions) / len(captions)
