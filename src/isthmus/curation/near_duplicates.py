"""Images that are the same or nearly so, by bytes, perceptual hash or features; for duplicates and leaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from isthmus.curation.collection import DETAIL, Collection, ImageSignature
from isthmus.data.matrix import Chosen
from isthmus.errors import InputError, UsageError, did_you_mean
from isthmus.metrics.nearest import pairs_above

METHODS = ("exact", "phash", "embedding")
LOOSE = "phash-loose"  # drawings are compared as photographs are: what `phash` was at first
NEAR = 0.95  # cosine of near-duplicates' features
BITS = 26  # bits of the 256 of the perceptual hash that may differ: a tenth
HELD_BYTES = 2**30
COLOURS = 24.0  # of 255, greatest mean difference of thumbnails: pHash sees no colour and little of flat drawings
# Levels of 255 that drawings may differ by in any place: on average of the three colours, and in one of them. Copies of
# emoji (JPEG, WebP, half the size) differ by less, emoji of another digit, colour or face by more: benchmarks/emoji.py.
LOCAL, LOCAL_COLOUR = 28.0, 50.0


@dataclass(frozen=True)
class Links:
    """Pairs of rows that are alike: a, b int64 [k], how alike float32 [k] (1: the same), and by which method.

    doubtful: they differ in some place, as drawings of another digit or colour do: no duplicates.
    """

    how: str
    a: np.ndarray
    b: np.ndarray
    similarity: np.ndarray
    doubtful: bool = False


def check_methods(methods: Any) -> tuple[str, ...]:
    """UsageError for a method that does not exist."""
    known = ("exact", "phash", LOOSE, "embedding")
    for method in methods:
        if method not in known:
            raise UsageError(f"dedup={method!r}: one of {', '.join(known)}." + did_you_mean(method, known))
    return tuple(method for method in known if method in methods)


def available(method: str, *collections: Collection) -> str | None:
    """Why a method cannot compare these collections; None if it can."""
    for one in collections:
        if method == "exact" and one.hashes is None and one.pictures is None:
            return f"{one.name}: neither content hashes nor pictures; name the pictures (--images)."
        if method in ("phash", LOOSE) and one.pictures is None:
            return f"{one.name}: no pictures to compare; name them (--images)."
        if method == "embedding" and one.features is None:
            return f"{one.name}: no image features of the pool's encoder."
    return None


def alike(
    method: str, left: Collection, rows: np.ndarray, right: Collection | None = None, *, near: float = NEAR
) -> Iterator[Links]:
    """Pairs of images that are alike by one method, part by part; by "phash" doubtful ones too.

    rows: int64, the pairs of `left` to compare, with each other (each pair of rows once) or with all of `right`.
    Raises InputError where the method cannot be used.
    """
    reason = available(method, left, *([] if right is None else [right]))
    if reason:
        raise InputError(f"--dedup {method}: {reason}")
    others = np.arange(len(right)) if right is not None else rows
    if right is not None and right.usable is not None:
        others = np.flatnonzero(right.usable)
    if not len(rows) or not len(others):
        return
    find = {"exact": _exact, "phash": _perceptual, LOOSE: _perceptual, "embedding": _embedded}[method]
    for a, b, similarity in find(left, rows, right, others, near):
        if not len(a):
            continue
        links = Links("phash" if method == LOOSE else method, rows[a], others[b], similarity)
        yield from _parted(links, left, left if right is None else right) if method == "phash" else [links]


def _parted(links: Links, left: Collection, right: Collection) -> Iterator[Links]:
    """Links of which a drawing is part, apart where the two differ in some place."""
    same = np.array(
        [_same_in_detail(left, a, right, b) for a, b in zip(links.a.tolist(), links.b.tolist(), strict=True)]
    )
    for some in (same, ~same):
        if some.any():
            yield replace(
                links, a=links.a[some], b=links.b[some], similarity=links.similarity[some], doubtful=not same[some][0]
            )


def _same_in_detail(left: Collection, a: int, right: Collection, b: int) -> bool:
    one, other = left.looks[a], right.looks[b]
    assert isinstance(one, ImageSignature) and isinstance(other, ImageSignature)
    if one.content == other.content or not (one.drawing or other.drawing):
        return True
    apart, colour = local_difference(left.detail(a), right.detail(b))
    return apart <= LOCAL and colour <= LOCAL_COLOUR


def local_difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The greatest difference of thumbnails [24, 24, 3] in any place of 2 × 2 pixels: of the colours' mean, of one."""
    places = np.abs(a - b).reshape(DETAIL // 2, 2, DETAIL // 2, 2, 3).mean(axis=(1, 3))
    return float(places.mean(axis=2).max()), float(places.max())


def _exact(left: Collection, rows: np.ndarray, right: Collection | None, others: np.ndarray, near: float) -> Any:
    """Equal bytes: links every row to the first with the same content."""
    first: dict[str, int] = {}
    hashes = (right or left).contents()
    for place, row in enumerate(others.tolist()):
        content = hashes[row]
        if content is not None:
            first.setdefault(content, place)
    mine = left.contents()
    found = [(at, first.get(mine[row] or "", -1)) for at, row in enumerate(rows.tolist())]
    pairs = np.array([(b, a) for a, b in found if b >= 0 and (right is not None or a != b)], np.int64).reshape(-1, 2)
    yield pairs[:, 1], pairs[:, 0], np.ones(len(pairs), np.float32)


def _perceptual(left: Collection, rows: np.ndarray, right: Collection | None, others: np.ndarray, near: float) -> Any:
    """The cosine of hashes of ±1 is 1 − 2 · (differing bits) / 256, so the product for features serves here too."""
    bits, colours = _stacked(left, rows)
    other_bits, other_colours = (bits, colours) if right is None else _stacked(right, others)
    least = 1 - 2 * BITS / bits.shape[1]
    for a, b, cosine in pairs_above(bits, None if right is None else other_bits, least):
        close = np.abs(colours[a] - other_colours[b]).mean(axis=1) <= COLOURS
        yield a[close], b[close], ((1 + cosine) / 2)[close]


def _stacked(one: Collection, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hashes [n, 256] (zeros if there is no picture, which match nothing) and thumbnails [n, 192], float32."""
    looks = [one.looks[row] for row in rows.tolist()]
    blank = next((np.zeros_like(look.bits) for look in looks if isinstance(look, ImageSignature)), np.zeros(1, np.int8))
    grey = next(
        (np.zeros_like(look.colours) for look in looks if isinstance(look, ImageSignature)), np.zeros(1, np.uint8)
    )
    bits = [look.bits if isinstance(look, ImageSignature) else blank for look in looks]
    colours = [look.colours if isinstance(look, ImageSignature) else grey for look in looks]
    return np.stack(bits).astype(np.float32), np.stack(colours).astype(np.float32)


def _embedded(left: Collection, rows: np.ndarray, right: Collection | None, others: np.ndarray, near: float) -> Any:
    if not 0 < near <= 1:
        raise UsageError(f"near={near}: the least cosine of near-duplicates lies in (0, 1].")
    other = None if right is None else _held(right, others)
    yield from pairs_above(_held(left, rows), other, near)


def _held(one: Collection, index: np.ndarray) -> Any:
    """Features of some rows, in memory if they fit: reading them again may mean encoding them again."""
    assert one.features is not None
    chosen = Chosen(one.features, index)
    if 4 * chosen.shape[0] * chosen.shape[1] > HELD_BYTES:
        return chosen
    return np.concatenate([chosen[start : start + 256] for start in range(0, len(index), 256)])
