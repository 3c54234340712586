"""Filters for captions (too short, too long, another language) and pictures (too small, too narrow)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from isthmus.curation.collection import Collection, ImageSignature
from isthmus.data.images import BadImage
from isthmus.errors import InputError, UsageError


@dataclass(frozen=True)
class Filters:
    """Limits; None: no limit.

    min_words, max_words: of a caption, separated by spaces. min_side: of a picture's shorter side, in pixels.
    max_aspect: its longer side over its shorter. lang: the language tag of a caption; one without a tag passes.
    """

    min_words: int | None = None
    max_words: int | None = None
    min_side: int | None = None
    max_aspect: float | None = None
    lang: str | None = None

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, int | float) and value < 1:
                raise UsageError(f"{one.name}={value}: it is at least 1.")

    @property
    def of_pictures(self) -> bool:
        return self.min_side is not None or self.max_aspect is not None

    def caption(self, text: str | None, lang: str | None = None) -> str | None:
        """Why a caption is rejected; None if it is not."""
        words = len((text or "").split())
        if self.min_words is not None and words < self.min_words:
            return f"caption of {words} words, fewer than {self.min_words}"
        if self.max_words is not None and words > self.max_words:
            return f"caption of {words} words, more than {self.max_words}"
        if self.lang is not None and lang is not None and lang.lower() != self.lang.lower():
            return f"language {lang}, not {self.lang}"
        return None

    def picture(self, width: int, height: int) -> str | None:
        """Why a picture of this size is rejected; None if it is not."""
        short, long = sorted((width, height))
        if self.min_side is not None and short < self.min_side:
            return f"{width} × {height} pixels, a side below {self.min_side}"
        if self.max_aspect is not None and long > self.max_aspect * short:
            return f"{width} × {height} pixels, longer than {self.max_aspect:g} to 1"
        return None


def reject(pairs: Collection, filters: Filters, *, look: bool = False) -> tuple[dict[int, str], dict[int, str]]:
    """Reasons by caption row, and reasons by pair (its picture).

    look: read every picture even without limits, so that damaged ones are rejected early.
    Raises InputError if pictures must be measured but there are none.
    """
    lang = pairs.lang if pairs.lang is not None else [None] * len(pairs.texts)
    captions = {row: why for row, text in enumerate(pairs.texts) if (why := filters.caption(text, lang[row]))}
    return captions, dict(_pictures(pairs, filters, look))


def _pictures(pairs: Collection, filters: Filters, look: bool) -> Iterator[tuple[int, str]]:
    if filters.of_pictures and pairs.pictures is None:
        raise InputError(f"{pairs.name}: no pictures to measure; name them (--images).")
    for row, seen in enumerate(pairs.looks if look or filters.of_pictures else ()):
        if isinstance(seen, BadImage):
            yield row, seen.reason
        elif isinstance(seen, ImageSignature) and (why := filters.picture(*seen.size)):
            yield row, why


def rows_of(pairs: Collection, rejected: dict[int, str]) -> np.ndarray:
    """bool [captions]: those of the rejected pairs."""
    gone = np.zeros(len(pairs), bool)
    gone[list(rejected)] = True
    return gone[pairs.owner]
