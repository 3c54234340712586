"""Near-duplicate groups of drawings, so that a split by group leaks nothing.

Two drawings share a group if they look alike (perceptual hash, difference hash and colours of the trimmed
drawing, also mirrored or upside down), if their captions say the same, or if one artist numbered or recoloured
them under one name.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Sequence

import imagehash
import numpy as np
from PIL import Image, ImageChops

HASH_SIZE = 16  # 256 bits: flat drawings collide on the usual 64
EDGE = 128  # pixels of the square canvas the hashes see
THUMBNAIL = 16  # pixels a side of the thumbnail whose colours are compared
# Look-alikes differ by at most 48 bits of 256 in either hash and by 45 of 255 colour levels in the mean. Chosen by
# eye on borderline pairs: the hashes alone take one striped flag for another (they see little in it), colour alone
# any two line drawings for the same.
LIMITS = (48, 48, 45 * 3 * THUMBNAIL**2)
# Words that tell variants of one drawing apart: colour, size, finish, direction.
VARIANTS = """
    black white red green blue yellow orange purple pink brown gray grey seagreen gold silver dark light
    bw b w and color colour coloured small big large medium simple shaded outline outlined filled plain
    left right up down top bottom north south east west on off open alt with without copy new old version
    side front back
"""
VARIANT_WORDS = frozenset(VARIANTS.split())


def on_white(image: Image.Image) -> Image.Image:
    """An RGBA image composed on white, as RGB."""
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def trimmed(image: Image.Image) -> Image.Image:
    """The drawing on white without its blank margin, centred on a square of ``EDGE`` pixels."""
    flat = on_white(image)
    box = ImageChops.difference(flat, Image.new("RGB", flat.size, "white")).getbbox()
    drawing = flat.crop(box)
    scale = EDGE / max(drawing.size)
    size = [max(1, round(side * scale)) for side in drawing.size]
    square = Image.new("RGB", (EDGE, EDGE), "white")
    square.paste(drawing.resize(size, Image.Resampling.LANCZOS), ((EDGE - size[0]) // 2, (EDGE - size[1]) // 2))
    return square


def look_alikes(drawings: Sequence[Image.Image]) -> Iterator[tuple[int, int]]:
    """Pairs of positions of trimmed drawings that look alike, also mirrored or upside down."""
    upright = looks(drawings)
    for turn in (None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM):
        turned = upright if turn is None else looks([drawing.transpose(turn) for drawing in drawings])
        for row in range(len(drawings)):
            yield from ((row, int(other)) for other in np.flatnonzero(alike(row, upright, turned)))


def looks(drawings: Sequence[Image.Image]) -> tuple[np.ndarray, ...]:
    """Perceptual and difference hashes [N, 256] of 0 and 1, and thumbnails [N, 768] of colour levels."""
    phashes = [imagehash.phash(drawing, hash_size=HASH_SIZE).hash.ravel() for drawing in drawings]
    dhashes = [imagehash.dhash(drawing, hash_size=HASH_SIZE).hash.ravel() for drawing in drawings]
    small = [drawing.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX) for drawing in drawings]
    thumbnails = [np.asarray(thumbnail).ravel() for thumbnail in small]
    return tuple(np.stack(rows).astype(np.float32) for rows in (phashes, dhashes, thumbnails))


def alike(row: int, upright: tuple[np.ndarray, ...], turned: tuple[np.ndarray, ...]) -> np.ndarray:
    """Which of the turned drawings [N] agree with one upright drawing in both hashes and in colour."""
    near = np.ones(len(turned[0]), bool)
    for of_row, of_all, limit in zip((looks[row] for looks in upright), turned, LIMITS, strict=True):
        candidates = np.flatnonzero(near)
        near[candidates] = np.abs(of_all[candidates] - of_row).sum(axis=1) <= limit
    return near


def series_key(name: str, creator: str) -> tuple[str, str]:
    """What variants of one drawing share: the artist, and the name without numbers and variant words."""
    found = re.findall(r"[^\W\d_]+", name.lower())
    kept = [word for word in found if word not in VARIANT_WORDS and len(word) > 1]
    return creator.strip().lower(), " ".join(kept or found)


def components(count: int, pairs: Iterable[tuple[int, int]], keys: Iterable[Iterable[Hashable]]) -> list[int]:
    """Union-find over ``count`` rows, joined by pairs and by equal keys. Returns each row's first member."""
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    def join(a: int, b: int) -> None:
        a, b = sorted((root(a), root(b)))
        parent[b] = a

    for a, b in pairs:
        join(int(a), int(b))
    for column in keys:
        first: dict[Hashable, int] = {}
        for row, key in enumerate(column):
            join(first.setdefault(key, row), row)
    return [root(row) for row in range(count)]
