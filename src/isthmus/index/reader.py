"""An open index: memory-mapped, searched exactly or through candidates, with what is known of every picture."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, reduce
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isthmus.errors import InputError, UsageError, did_you_mean
from isthmus.index.candidates import EXACT_VALUES, InvertedLists
from isthmus.index.exact import NOTHING, best_of, exact_top
from isthmus.index.items import read_items
from isthmus.index.layout import IndexRecord, read_record
from isthmus.index.segments import Segment


class IndexedPicture(TypedDict):
    """What an index knows of a picture.

    id: in its source. path: its file, None for what is no file of its own. caption: the first one. width, height: in
    pixels, upright. also: ids of equal pictures. missing: whether it was not there at the last scan.
    """

    id: str
    path: str | None
    caption: str | None
    label: str | None
    width: int
    height: int
    source: str
    also: list[str]
    missing: bool


def open_index(path: str | Path, *, verify: bool = False) -> ImageIndex:
    """Open a finished index for searching; what it holds is mapped, not read.

    Args:
        path: its folder.
        verify: read every file and compare its digest (about a second per GB); otherwise only their sizes are checked.

    Raises:
        InputError: no index, an unfinished one, another format, or a file that is missing or damaged.
    """
    root = Path(path)
    record = read_record(root)
    for file in record.files():
        file.check(root, deep=verify)
    return ImageIndex(root, record)


class ImageIndex:
    """Pictures in a model's space, on disk. Made by `open_index`.

    Rows are distinct contents: equal pictures share one. path: the folder. model: path (or URI) and fingerprint of the
    model that made it. width: of the embeddings. null: what the best scores of texts that nothing fits look like, or
    None where the model does not tell texts apart. sources: what was indexed.
    """

    def __init__(self, path: Path, record: IndexRecord) -> None:
        self.path, self.described = path, record
        self.model, self.width, self.null = record.model, record.width, record.null
        self.sources = record.sources
        self._segments = [Segment(path, one, record.width) for one in record.segments]
        self._candidates = [None if one.candidates is None else InvertedLists(path, one) for one in record.segments]
        self._starts = np.cumsum([0, *(len(segment) for segment in self._segments)])
        self._pictures: dict[int, pa.Table] = {}
        self.report: Any = None  # of the run that made it, if that was in this process

    def __len__(self) -> int:
        """How many rows there are, removed ones too."""
        return int(self._starts[-1])

    def __repr__(self) -> str:
        gone = len(self) - self.count
        how = "by candidates" if any(self._candidates) else "exact"
        return (
            f"ImageIndex({str(self.path)!r}, {self.count:,} distinct pictures{f', {gone:,} removed' if gone else ''}, "
            f"{self.width} wide, {how}; {self.model['path']})"
        )

    @cached_property
    def removed(self) -> np.ndarray:
        """int64, ascending: the rows that are no longer in the index."""
        if self.described.removed is None:
            return np.empty(0, np.int64)
        return np.load(self.described.removed.check(self.path), mmap_mode="r", allow_pickle=False)

    @property
    def count(self) -> int:
        """How many distinct pictures are in the index."""
        return len(self) - len(self.removed)

    @cached_property
    def items(self) -> pa.Table:
        """Every picture of every source (`isthmus.index.items`), sorted by row, mapped."""
        assert self.described.items is not None
        return read_items(self.described.items.check(self.path))

    @property
    def embeddings(self) -> list[np.ndarray]:
        """The embeddings of all rows, float16 [n_i, d] mapped, one block after the other."""
        return [segment.embeddings for segment in self._segments]

    def blocks(self, rows: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """All rows, so many at a time: the first one's number, keys uint8 [n, 16], embeddings float16 [n, d]."""
        for start, segment in zip(self._starts.tolist(), self._segments, strict=False):
            keys = segment.keys
            for first in range(0, len(segment), rows):
                yield start + first, keys[first : first + rows], segment.embeddings[first : first + rows]

    def search(
        self, query_embeddings: np.ndarray, k: int, *, where: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k rows nearest to each query, best first.

        Args:
            query_embeddings: float32 [q, d], L2-normalised, as the model gives them.
            k: how many, at most.
            where: the rows that may be found: bool [n] or their numbers, as of `rows_where`.

        Returns:
            (scores float32 [q, k]: cosines, rows int64 [q, k]); k is smaller where fewer rows may be found. Where
            candidates were too few, the last scores are −inf and their rows −1.

        Raises:
            UsageError: k below 1. InputError: queries of another width.
        """
        queries = np.atleast_2d(np.asarray(query_embeddings, np.float32))
        if k < 1:
            raise UsageError(f"k={k}: at least one item is needed.")
        if queries.shape[1] != self.width:
            raise InputError(f"{self.path}: queries are {queries.shape[1]} wide, this index is {self.width}.")
        allowed = self._allowed(where)
        k = min(k, self.count if allowed is None else int(np.count_nonzero(allowed)))
        if k == 0:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        found = [self._in_segment(place, queries, k, allowed) for place in range(len(self._segments))]
        scores, rows = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        return best_of(scores, rows, k)

    def _in_segment(
        self, place: int, queries: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best rows of one segment: exactly, or where that takes too long among candidates."""
        start, segment, candidates = int(self._starts[place]), self._segments[place], self._candidates[place]
        own = None if allowed is None else allowed[start : start + len(segment)]
        if candidates is None:
            scores, rows = exact_top(queries, [segment.embeddings], k, own)
        elif own is not None and np.count_nonzero(own) * self.width <= EXACT_VALUES:
            chosen = np.flatnonzero(own)
            scores, rows = exact_top(queries, [segment.embeddings[chosen]], k)
            rows = np.where(rows < 0, NOTHING, np.append(chosen, NOTHING)[rows])
        else:
            scores, rows = candidates.top(queries, segment.embeddings, k, own)
        return scores, np.where(rows < 0, NOTHING, rows + start)

    def _allowed(self, where: np.ndarray | None) -> np.ndarray | None:
        """bool [n] of the rows that may be found; None: all."""
        if where is None and not len(self.removed):
            return None
        allowed = np.ones(len(self), bool)
        if where is not None:
            where = np.asarray(where)
            if where.dtype == bool and len(where) != len(self):
                raise InputError(f"{self.path}: a mask of {len(where):,} rows for an index of {len(self):,}.")
            allowed = where.copy() if where.dtype == bool else np.zeros(len(self), bool)
            if where.dtype != bool:
                allowed[where] = True
        allowed[self.removed] = False
        return allowed

    def probability(self, scores: np.ndarray, among: int | None = None) -> np.ndarray | None:
        """float64: how probable it is that pictures of such scores fit a text (`isthmus.metrics.absence`).

        among: how many rows were searched, where not all were. None where the index knows nothing of it.
        """
        if self.null is None:
            return None
        null = self.null if among is None else self.null.grown(max(among, 1) / max(self.count, 1))
        return null.probability(scores)

    def record(self, row: int) -> IndexedPicture:
        """What is known of the picture in a row. Raises `UsageError` for a row without a picture."""
        places = self._places(row)
        if places.start == places.stop:
            raise UsageError(f"{self.path}: no picture in row {row}; it was removed, or there are fewer.")
        items = self.items.slice(places.start, places.stop - places.start)
        first = items.slice(0, 1).to_pylist()[0]
        segment, inner = self._locate(row)
        size = self._pictures_of(segment).slice(inner, 1).select(["width", "height"]).to_pylist()[0]
        return {
            **{name: first[name] for name in ("id", "path", "label", "source", "missing")},  # type: ignore[typeddict-item]
            "caption": (first["captions"] or [None])[0],
            "also": items["id"].to_pylist()[1:],
            **size,
        }

    def thumbnail(self, row: int) -> bytes | None:
        """A small picture as the bytes of a JPEG file, encoded anew and without metadata; None if none were kept."""
        segment, inner = self._locate(row)
        found: bytes | None = self._pictures_of(segment)["thumbnail"][inner].as_py()
        return found

    def embedding(self, row: int) -> np.ndarray:
        """The embedding of a row, float32 [d]."""
        segment, inner = self._locate(row)
        return self._segments[segment].embeddings[inner].astype(np.float32)

    def rows_where(self, *, label: str | None = None, folder: str | None = None) -> np.ndarray:
        """int64, ascending: the rows of pictures with this label, in this folder or one below it.

        Raises `UsageError` for a label or a folder of which there is nothing.
        """
        masks = [] if label is None else [pc.equal(self.items["label"], label)]
        if folder is not None:
            inside, folders = folder.strip("/"), self.items["folder"]
            masks.append(pc.or_(pc.equal(folders, inside), pc.starts_with(folders, f"{inside}/")))
        if not masks:
            return np.unique(self._item_rows)
        chosen = self._item_rows[_integers(pc.indices_nonzero(reduce(pc.and_, masks)))]
        if not len(chosen):
            asked = {"label": label, "folder": folder}
            told = " and ".join(f"{name} {value!r}" for name, value in asked.items() if value is not None)
            raise UsageError(f"{self.path}: no picture of {told}.{self._known(label)}")
        return np.unique(chosen)

    def labels(self) -> dict[str, int]:
        """How many pictures have each label."""
        return _counts(self.items["label"])

    def folders(self) -> dict[str, int]:
        """How many pictures are in each folder, those of the folders below it with them."""
        found: dict[str, int] = {}
        for folder, count in _counts(self.items["folder"]).items():
            parts = folder.split("/") if folder else []
            for depth in range(1, len(parts) + 1):
                above = "/".join(parts[:depth])
                found[above] = found.get(above, 0) + count
        return found

    def _known(self, label: str | None) -> str:
        if label is None:
            return ""
        return did_you_mean(label, list(self.labels()))

    @cached_property
    def _item_rows(self) -> np.ndarray:
        return _integers(self.items["row"].combine_chunks())

    def _places(self, row: int) -> slice:
        """Where the items of a row are."""
        return slice(*np.searchsorted(self._item_rows, [row, row + 1]).tolist())

    def _locate(self, row: int) -> tuple[int, int]:
        """The segment of a row and its number in it."""
        if not 0 <= row < len(self):
            raise UsageError(f"{self.path}: row {row} is not within 0 … {len(self) - 1}.")
        segment = int(np.searchsorted(self._starts, row, side="right")) - 1
        return segment, int(row - self._starts[segment])

    def _pictures_of(self, segment: int) -> pa.Table:
        if segment not in self._pictures:
            self._pictures[segment] = self._segments[segment].pictures()
        return self._pictures[segment]


def _counts(names: pa.ChunkedArray) -> dict[str, int]:
    found = pc.value_counts(names).to_pylist()
    return {one["values"]: one["counts"] for one in found if one["values"] is not None}


def _integers(array: pa.Array) -> np.ndarray:
    """What `to_numpy` gives, which imports pandas for it."""
    return np.from_dlpack(array)
