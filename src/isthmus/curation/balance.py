"""Metadata balancing: captions with frequent entries are thinned, rare ones kept (MetaCLIP, Xu et al. 2023).

A caption matches an entry that it holds as a substring between word boundaries. With c_e captions matching entry e,
e keeps each of them with probability min(1, t / c_e), and a caption is kept if any of its entries keeps it: 1 − Π (1 −
min(1, t / c_e)). What matches no entry is dropped. (Algorithm 1 of the paper; letter case is ignored here.) The draw is
a hash of (seed, id, caption, entry): no order of rows or shards changes it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data import text as texts
from isthmus.errors import InputError, UsageError

TAIL = 0.06  # with MetaCLIP's t, the share of all matches in entries that are not thinned
BOUNDARIES = re.compile(r"([,.;:?!`])|\s")  # punctuation that the paper's code separates from words


@dataclass(frozen=True)
class Balance:
    """The result of balancing.

    entries [E]: the metadata, in lower case. counts int64 [E]: captions that match each. t: the limit.
    kept bool [n]: captions that stay. because [n]: the entry that keeps it, None for one that is dropped.
    """

    entries: list[str]
    counts: np.ndarray
    t: int
    kept: np.ndarray
    because: list[str | None]

    def summary(self) -> dict[str, Any]:
        """What the manifest records."""
        head = np.argsort(-self.counts, kind="stable")[:20]
        return {
            "t": self.t,
            "entries": len(self.entries),
            "matched_entries": int((self.counts > 0).sum()),
            "thinned_entries": int((self.counts > self.t).sum()),
            "kept": int(self.kept.sum()),
            "dropped": int((~self.kept).sum()),
            "most_frequent": {self.entries[e]: int(self.counts[e]) for e in head.tolist() if self.counts[e]},
        }


def balance(
    captions: Sequence[str | None], names: Sequence[str], entries: Sequence[str], *, t: int | None = None, seed: int = 0
) -> Balance:
    """Balance captions [n] over metadata entries.

    names: [n], the id of each caption's pair. t: matches of an entry that are all kept; None: the value at which
    entries with at most t matches hold 6 % of all matches, the share behind MetaCLIP's 20,000 of 400 million.

    Raises InputError where no caption matches any entry, UsageError for t < 1.
    """
    if t is not None and t < 1:
        raise UsageError(f"t={t}: it is at least 1.")
    entries = [entry.strip() for entry in dict.fromkeys(map(_spaced, entries)) if entry.strip()]
    if not entries:
        raise InputError("The metadata has no entries.")
    matches = list(_matches(captions, entries))
    counts = np.zeros(len(entries), np.int64)
    for found in matches:
        counts[found] += 1
    if not counts.any():
        raise InputError(f"None of the {len(captions):,} captions holds any of the {len(entries):,} metadata entries.")
    limit = t or tail_limit(counts)
    chance = np.minimum(1.0, limit / np.maximum(counts, 1))
    because: list[str | None] = []
    for found, name, text in zip(matches, names, captions, strict=True):
        draws = (entries[e] for e in found.tolist() if _uniform(seed, name, text or "", entries[e]) < chance[e])
        because.append(next(draws, None))
    return Balance(entries, counts, limit, np.array([one is not None for one in because], bool), because)


def read_entries(source: str | Path | Sequence[str]) -> list[str]:
    """Metadata entries: a list, or a text file with one a line. InputError for an empty or unreadable file."""
    if not isinstance(source, str | Path):
        return list(source)
    entries = texts.read_entries(source)
    if not entries:
        raise InputError(f"{source}: no metadata entries; one a line is expected.")
    return entries


def tail_limit(counts: np.ndarray) -> int:
    """The t at which entries with at most t matches hold TAIL of all matches; at least 1."""
    ordered = np.sort(counts[counts > 0])
    share = np.cumsum(ordered) / ordered.sum()
    return int(ordered[int((share < TAIL).sum())])


def _matches(captions: Sequence[str | None], entries: Sequence[str]) -> Iterator[np.ndarray]:
    """The entries that each caption holds, int64, each once and in order."""
    try:
        import ahocorasick
    except ImportError:
        raise UsageError("--balance needs pyahocorasick: pip install 'isthmus[curate]'.") from None
    automaton = ahocorasick.Automaton()
    for number, entry in enumerate(entries):
        automaton.add_word(_spaced(entry), number)
    automaton.make_automaton()
    for text in captions:
        yield np.unique(np.array([number for _, number in automaton.iter(_spaced(text or ""))], np.int64))


def _spaced(text: str) -> str:
    """Words in lower case, a space before and after each, so that substrings match whole words only."""
    return f" {' '.join(BOUNDARIES.sub(_apart, text.casefold()).split())} "


def _apart(match: re.Match[str]) -> str:
    return f" {match[1] or ''} "


def _uniform(seed: int, name: str, text: str, entry: str) -> float:
    """A number in [0, 1) that depends on its arguments alone."""
    digest = hashlib.blake2b("\0".join((str(seed), name, text, entry)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
