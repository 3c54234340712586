"""Decontamination: pairs of the pool whose image or caption is also in an evaluation set."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from isthmus.curation.collection import Collection
from isthmus.curation.near_duplicates import METHODS, NEAR, alike, available
from isthmus.data.contents import LEAST_WORDS

CAPTION = "caption"


@dataclass(frozen=True)
class Leak:
    """Row `row` of the pool is in evaluation set `set` as `match`. similarity: 1 for equal bytes or captions."""

    row: int
    set: str
    match: str
    how: str
    similarity: float


def find_leaks(
    pairs: Collection, rows: np.ndarray, sets: Sequence[Collection], *, near: float = NEAR
) -> tuple[list[Leak], list[str]]:
    """Compare the pairs `rows` with every evaluation set by everything known of both sides.

    Images: equal bytes, perceptual hash, features of a cosine of at least `near`. Captions: equal apart from letter
    case, the encoding of accents, punctuation and spaces, if they have four words or more. Returns the closest match by
    each method, in order of rows; and notes on what could not be compared.
    """
    leaks: list[Leak] = []
    notes: list[str] = []
    for one in sets:
        for method in METHODS:
            reason = available(method, pairs, one)
            if reason:
                notes.append(f"leaks from {one.name}: not compared by {method} ({reason.rstrip('.')}).")
                continue
            leaks += _by_image(pairs, rows, one, method, near)
        leaks += _by_caption(pairs, rows, one)
    leaks.sort(key=lambda leak: (leak.row, leak.set, [*METHODS, CAPTION].index(leak.how)))
    return leaks, notes


def _by_image(pairs: Collection, rows: np.ndarray, one: Collection, method: str, near: float) -> list[Leak]:
    best: dict[int, tuple[float, str]] = {}
    for links in alike(method, pairs, rows, one, near=near):
        if links.doubtful:
            continue
        for row, match, similarity in zip(links.a.tolist(), links.b.tolist(), links.similarity.tolist(), strict=True):
            name = one.ids[match]
            old = best.get(row)
            if old is None or (-similarity, name) < (-old[0], old[1]):
                best[row] = similarity, name
    return [Leak(row, one.name, name, method, similarity) for row, (similarity, name) in best.items()]


def _by_caption(pairs: Collection, rows: np.ndarray, one: Collection) -> list[Leak]:
    held: dict[str, str] = {}
    for owner, text in zip(one.owner.tolist(), one.texts, strict=True):
        if one.usable is None or one.usable[owner]:
            name, key = one.ids[owner], normalised(text)
            held[key] = min(name, held.get(key, name))
    wanted = set(rows.tolist())
    found: dict[int, str] = {}
    for owner, text in zip(pairs.owner.tolist(), pairs.texts, strict=True):
        key = normalised(text)
        if owner in wanted and key in held and len(key.split()) >= LEAST_WORDS:
            found.setdefault(owner, held[key])
    return [Leak(row, one.name, name, CAPTION, 1.0) for row, name in found.items()]


def normalised(text: str | None) -> str:
    """A caption without differences that leave its words the same: case, compatibility forms, punctuation, spaces."""
    plain = unicodedata.normalize("NFKC", text or "").casefold()
    return " ".join(re.findall(r"\w+", plain))


def table(leaks: Sequence[Leak], ids: Sequence[str]) -> pa.Table:
    """id, set, match, how, similarity."""
    return pa.table(
        {
            "id": pa.array([ids[leak.row] for leak in leaks], pa.string()),
            "set": pa.array([leak.set for leak in leaks], pa.string()),
            "match": pa.array([leak.match for leak in leaks], pa.string()),
            "how": pa.array([leak.how for leak in leaks], pa.string()),
            "similarity": pa.array([leak.similarity for leak in leaks], pa.float32()),
        }
    )
