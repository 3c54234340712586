"""Error rates of transcripts: edits by character and by word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isthmus.errors import InputError


@dataclass(frozen=True)
class Edits:
    """The fewest edits of each of n lines, int64 [n], and the length of each reference, int64 [n]."""

    edits: np.ndarray
    lengths: np.ndarray

    @property
    def rate(self) -> float:
        """All edits over all reference symbols; above 1 where more is inserted than there is."""
        return float(self.edits.sum() / self.lengths.sum())


def edit_distance(reference: Sequence[object], found: Sequence[object]) -> int:
    """The fewest insertions, deletions and substitutions that make `found` of `reference` (Levenshtein)."""
    row = list(range(len(found) + 1))
    for i, wanted in enumerate(reference, 1):
        before, row[0] = row[0], i
        for j, given in enumerate(found, 1):
            kept = before + (wanted != given)
            before, row[j] = row[j], min(kept, row[j] + 1, row[j - 1] + 1)
    return row[-1]


def character_edits(references: Sequence[str], found: Sequence[str]) -> Edits:
    """Of characters, spaces included; `rate` is the character error rate. Raises `InputError` for no reference text."""
    return _edits(references, found, list)


def word_edits(references: Sequence[str], found: Sequence[str]) -> Edits:
    """Of words between spaces; `rate` is the word error rate. Raises `InputError` for no reference text."""
    return _edits(references, found, str.split)


def _edits(references: Sequence[str], found: Sequence[str], parts: object) -> Edits:
    if len(references) != len(found):
        raise InputError(f"{len(references)} references but {len(found)} transcripts.")
    pairs = [(parts(one), parts(other)) for one, other in zip(references, found, strict=True)]  # type: ignore[operator]
    lengths = np.array([len(one) for one, _ in pairs], np.int64)
    if not lengths.sum():
        raise InputError("the references are empty, so there is no error rate.")
    return Edits(np.array([edit_distance(*pair) for pair in pairs], np.int64), lengths)
