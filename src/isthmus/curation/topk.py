"""The K best rows of a pool for every concept: exact, streaming, mergeable in any order.

A candidate is one uint64: its float32 score, mapped to bits that sort as the score does, above the complement
of its row. All keys differ, so "the K greatest keys" is one well-defined set: greatest score first, the lower row at
equal scores. It does not depend on how rows arrive, are split or merged. (freeze-align sorts float16 columns quantised
to int8, part after part, with ids in float64; its result depends on that order.)

A concept's keys lie in a buffer somewhat longer than K. Only rows that reach the K-th best score so far enter
it; when it is full, a partition keeps the best K and raises that score. After the first K rows few rows are candidates
(row n with probability K/n), so the matrix product dominates.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from isthmus.errors import InputError, UsageError
from isthmus.files import atomic_path
from isthmus.owned import regular

FORMAT = "isthmus-topk/1"
MAX_ROWS = 2**32
MAX_HEAD = 2**28  # bytes of the line of JSON
SLACK = 0.25  # of K, in a buffer beside the K best
TILE_SCORES = 2**20  # scores looked at together: early on all of them are candidates
SIGN, ROW_BITS = np.int32(-(2**31)), np.uint64(32)
ROW_MASK = np.uint64(MAX_ROWS - 1)

Ranges = list[tuple[int, int]]


class TopK:
    """The best `keep` rows for each of `concepts` concepts, among the rows seen so far.

    Args:
        concepts: C, the number of concepts.
        keep: K; fewer if the pool has fewer rows.
        block: the most rows that one `update` may bring.

    Memory: 8 bytes × C × (1.25 K + block), used as it fills. Rows are numbers below 2³².

    covered: the row ranges seen, [start, stop) in order. missing: how many of these rows had no score (NaN).
    """

    def __init__(self, concepts: int, keep: int, *, block: int = 4096) -> None:
        if concepts < 1 or keep < 1 or block < 1:
            raise UsageError(f"concepts={concepts}, keep={keep}, block={block}: each must be at least 1.")
        self.concepts, self.keep, self.block = concepts, keep, block
        self.covered: Ranges = []
        self.missing = 0
        self._keys = np.zeros((concepts, keep + max(int(SLACK * keep), block)), np.uint64)
        self._counts = np.zeros(concepts, np.int64)
        self._least = np.full(concepts, -np.inf, np.float32)  # the K-th best score at the last compaction

    def update(self, scores: np.ndarray, start: int) -> None:
        """Add the scores float32 [C, n] of the rows start … start + n − 1.

        A row that may not be chosen has NaN for every concept.

        Raises:
            InputError: rows that were seen already, or beyond 2³².
            UsageError: scores of another shape, or more than `block` rows.
        """
        if scores.ndim != 2 or len(scores) != self.concepts or scores.shape[1] > self.block:
            raise UsageError(f"scores {list(scores.shape)}: expected [{self.concepts}, at most {self.block}].")
        if not scores.shape[1]:
            return
        stop = start + scores.shape[1]
        # Of equal scores the lower row wins: past every row seen so far, a tie with the K-th best loses.
        forward = not self.covered or start >= self.covered[-1][1]
        self.covered = _joined([*self.covered, (start, stop)])
        self.missing += int(np.isnan(scores[0]).sum())
        step = max(1, TILE_SCORES // scores.shape[1])
        for first in range(0, self.concepts, step):
            some = np.ascontiguousarray(scores[first : first + step])
            least = self._least[first : first + step]
            least = least if forward else np.nextafter(least, -np.inf, dtype=np.float32)
            found = np.flatnonzero(some > least[:, None])
            begin = np.arange(len(some)) * some.shape[1]  # where a concept's scores begin in `some`
            new = np.diff(np.searchsorted(found, [*begin, some.size]))
            rows = found + np.repeat(start - begin, new)
            self._insert(first, new, _pack(some.reshape(-1).take(found), rows))

    def merge(self, other: TopK) -> TopK:
        """Add what `other` kept of other rows; returns self. Any order of merging gives the same result.

        Raises:
            InputError: both saw some row. UsageError: another number of concepts, or another K.
        """
        if (other.concepts, other.keep) != (self.concepts, self.keep):
            raise UsageError("Only runs with the same concepts and the same K can be merged.")
        self.covered = _joined([*self.covered, *other.covered])
        self.missing += other.missing
        for concept in range(self.concepts):
            keys = other._keys[concept, : other._counts[concept]]
            for first in range(0, len(keys), self.block):
                part = keys[first : first + self.block]
                self._insert(concept, np.array([len(part)]), part)
        return self

    def best(self, concept: int) -> tuple[np.ndarray, np.ndarray]:
        """(scores float32 [k], rows int64 [k]) of a concept, best first; k = min(K, rows with a score)."""
        keys = np.sort(self._keys[concept, : self._counts[concept]])[::-1][: self.keep]
        return _unpack(keys)

    def compact(self) -> None:
        """Drop everything but the K best."""
        for concept in np.flatnonzero(self._counts > self.keep).tolist():
            self._compact(concept)

    def _insert(self, first: int, new: np.ndarray, keys: np.ndarray) -> None:
        """Append the first new[0] of `keys` to the buffer of concept `first`, the next new[1] to that of the next …"""
        counts, capacity = self._counts[first : first + len(new)], self._keys.shape[1]
        for full in np.flatnonzero(counts + new > capacity).tolist():
            self._compact(first + full)
        offset = (first + np.arange(len(new))) * capacity + counts - (np.cumsum(new) - new)
        self._keys.reshape(-1)[np.arange(len(keys)) + np.repeat(offset, new)] = keys
        counts += new

    def _compact(self, concept: int) -> None:
        held = self._keys[concept, : self._counts[concept]]
        cut = len(held) - self.keep
        held.partition(cut)
        held[: self.keep] = held[cut:].copy()
        self._counts[concept] = self.keep
        self._least[concept] = _unpack(held[:1])[0][0]

    def save(self, path: str | os.PathLike[str], about: dict[str, Any]) -> None:
        """Write everything to one file, atomically: a line of JSON, then the keys of concept after concept.

        about: what the rows and concepts are; `load` checks it.
        """
        self.compact()
        head = {"format": FORMAT, "concepts": self.concepts, "keep": self.keep, "block": self.block, "about": about}
        head |= {"covered": self.covered, "missing": self.missing, "counts": self._counts.tolist()}
        held = [keys[:count].astype("<u8", copy=False) for keys, count in zip(self._keys, self._counts, strict=True)]
        head["digest"] = _digest(head, held)
        with atomic_path(path) as aside, open(aside, "wb") as file:
            file.write(json.dumps(head).encode() + b"\n")
            for keys in held:
                keys.tofile(file)

    @classmethod
    def load(cls, path: str | os.PathLike[str], about: dict[str, Any]) -> TopK:
        """Read what `save` wrote. Raises InputError if it is damaged, or from other rows or concepts."""
        with open(regular(path), "rb") as file:
            head = _read_head(Path(path), file.readline(MAX_HEAD))
            start = file.tell()
            if head.pop("digest", None) != _digest(head, _blocks(file)):
                raise InputError(f"{path}: truncated or damaged. Remove it to start anew.")
            file.seek(start)
            if head["about"] != json.loads(json.dumps(about)):
                changed = [name for name in about if about[name] != head["about"].get(name)]
                raise InputError(f"{path}: is of another run ({', '.join(changed)} differ). Remove it to start anew.")
            top = cls(head["concepts"], head["keep"], block=head["block"])
            top.covered, top.missing = [(a, b) for a, b in head["covered"]], head["missing"]
            for concept, count in enumerate(head["counts"]):
                keys = np.fromfile(file, "<u8", count)
                top._keys[concept, :count], top._counts[concept] = keys, count
                if count == top.keep:
                    top._least[concept] = _unpack(keys.min(keepdims=True))[0][0]
        return top


def buffer_bytes(concepts: int, keep: int, block: int) -> int:
    """Bytes of the buffers of a `TopK` when they are full."""
    return 8 * concepts * (keep + max(int(SLACK * keep), block))


def merged(parts: Iterable[TopK]) -> TopK:
    """All parts in a new one. Raises as `TopK.merge`, and UsageError for no parts."""
    total = None
    for part in parts:
        total = total or TopK(part.concepts, part.keep, block=part.block)
        total.merge(part)
    if total is None:
        raise UsageError("Nothing to merge.")
    return total


def _pack(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """float32 scores and int64 rows as uint64 keys that sort by score, then by descending row."""
    bits = (scores + np.float32(0)).view(np.int32)  # + 0 turns −0 into 0
    ordered = (bits ^ ((bits >> 31) | SIGN)).view(np.uint32)  # negative floats grow downwards in their bits
    return (ordered.astype(np.uint64) << ROW_BITS) | (ROW_MASK - rows.view(np.uint64))


def _unpack(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ordered = (keys >> ROW_BITS).astype(np.uint32)
    bits = ordered.view(np.int32) ^ ((~ordered.view(np.int32) >> 31) | SIGN)
    return bits.view(np.float32), (ROW_MASK - (keys & ROW_MASK)).astype(np.int64)


def _joined(ranges: Ranges) -> Ranges:
    """Ranges in order, neighbours joined; InputError where two overlap."""
    out: Ranges = []
    for start, stop in sorted(ranges):
        if stop > MAX_ROWS:
            raise InputError(f"row {stop - 1:,}: a pool has at most {MAX_ROWS:,} rows; curate it in parts.")
        if out and start < out[-1][1]:
            raise InputError(f"rows {start:,} to {min(stop, out[-1][1]) - 1:,} were seen twice.")
        if out and start == out[-1][1]:
            out[-1] = (out[-1][0], stop)
        else:
            out.append((start, stop))
    return out


def _digest(head: dict[str, Any], blocks: Iterable[Any]) -> str:
    """A hash of the head without its digest, and of all keys, as arrays or bytes."""
    digest = hashlib.blake2b(json.dumps(head, sort_keys=True).encode(), digest_size=16)
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.read(2**20), b"")


def _read_head(path: Path, line: bytes) -> dict[str, Any]:
    try:
        head = json.loads(line)
        if head["format"] == FORMAT:
            return head
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path}: not a checkpoint of `isthmus curate` ({FORMAT}). Remove it to start anew.")
