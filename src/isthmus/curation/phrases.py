"""Concepts that the captions themselves name: their frequent one- to three-word phrases.

Counting, no grammar: a phrase is a run of one to three words without a stop word or punctuation in it. Adjectives
and verbs pass ("red", "running"); that is the price of needing no model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from isthmus.errors import InputError

LONGEST = 3
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|[^\w\s]|\d+", re.UNICODE)
SWALLOWED = 0.8  # a phrase that stands inside a longer one this often is no concept of its own ("york")


def frequent_phrases(captions: Sequence[str], count: int) -> list[str]:
    """The `count` phrases that stand in most captions, most frequent first; ties by the alphabet.

    Fewer where fewer stand in at least two captions. Raises InputError where none does.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    for caption in captions:
        counts.update(set(_phrases(caption)))
    counts = Counter({phrase: n for phrase, n in counts.items() if n > 1})
    swallowed: dict[tuple[str, ...], int] = {}
    for phrase, n in counts.items():
        for part in _parts(phrase):
            swallowed[part] = max(swallowed.get(part, 0), n)
    kept = [phrase for phrase, n in counts.items() if swallowed.get(phrase, 0) < SWALLOWED * n]
    if not kept:
        raise InputError(f"captions:{count}: no phrase stands in two of the {len(captions):,} captions looked at.")
    kept.sort(key=lambda phrase: (-counts[phrase], phrase))
    return [" ".join(phrase) for phrase in kept[:count]]


def runs(caption: str) -> Iterable[list[str]]:
    """Words in lower case, cut at stop words, digits and punctuation."""
    stop = _stop_words()
    run: list[str] = []
    for word in WORD.findall(caption.lower()):
        if word in stop or not word[0].isalpha() or len(word) < 2:
            if run:
                yield run
            run = []
        else:
            run.append(word)
    if run:
        yield run


def words_of(caption: str) -> list[str]:
    """The words of a caption that are no stop words, in lower case."""
    return [word for run in runs(caption) for word in run]


def _phrases(caption: str) -> Iterable[tuple[str, ...]]:
    for run in runs(caption):
        for length in range(1, min(LONGEST, len(run)) + 1):
            for start in range(len(run) - length + 1):
                yield tuple(run[start : start + length])


def _parts(phrase: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    """The shorter phrases inside one."""
    for length in range(1, len(phrase)):
        for start in range(len(phrase) - length + 1):
            yield phrase[start : start + length]


def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return ENGLISH_STOP_WORDS
