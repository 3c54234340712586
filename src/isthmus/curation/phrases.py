"""Concepts from the captions: their frequent phrases of one to three words.

Phrases are counted, without grammar. A phrase is a run of one to three words without a stop word or punctuation in it.
Adjectives and verbs pass ("red", "running"); a model would avoid that.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from isthmus.errors import InputError

LONGEST = 3
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|[^\w\s]|\d+", re.UNICODE)
SWALLOWED = 0.8  # a phrase that is part of a longer one this often is not a concept by itself ("york")


def frequent_phrases(captions: Sequence[str], count: int) -> list[str]:
    """The `count` phrases that occur in most captions, most frequent first; ties in alphabetical order.

    Only phrases in at least two captions count, so there may be fewer. Raises InputError if there is none.
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
        raise InputError(f"captions:{count}: no phrase occurs in two of the {len(captions):,} captions that were read.")
    kept.sort(key=lambda phrase: (-counts[phrase], phrase))
    return [" ".join(phrase) for phrase in kept[:count]]


def runs(caption: str) -> Iterable[list[str]]:
    """Runs of words in lower case, split at stop words, digits and punctuation."""
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
    """The words of a caption in lower case, without stop words."""
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
