"""The unfinished part of an index: what a run has read and encoded so far, so that a killed one goes on from there.

`work/journal` knows the content of files that were read (`isthmus.store.journal`); `work/part-NNNNNN.arrow` holds units
that were encoded: keys, embeddings and small pictures. Both are gone when the run is finished.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from isthmus.data.contents import KEY_BYTES
from isthmus.errors import InputError
from isthmus.files import file_digest, read_cached, sync_folder, write_sealed, writing
from isthmus.index.layout import MADE_BY, WORK
from isthmus.index.segments import PICTURE_SCHEMA, Part, open_arrow, write_arrow
from isthmus.modality import Modality
from isthmus.store.journal import Journal, Row, recall
from isthmus.store.keys import as_bytes

_PART = re.compile(r"part-(\d{6,})\.arrow")


class IndexWork:
    """The work of one run; a context manager that keeps what was read also after an error.

    finished: (id, content_hash, signature) of what the index knows already, ids as `named` gives them.
    """

    def __init__(self, root: Path, finished: pa.Table, fingerprint: str, width: int) -> None:
        self.folder = root / WORK
        self.width = width
        if (read_cached(self.folder / MADE_BY) or {}).get("fingerprint") != fingerprint:
            self.remove()  # of another model
        write_sealed(self.folder / MADE_BY, {"fingerprint": fingerprint})
        self._journal = Journal(self.folder)
        self._recalled = pa.concat_tables([finished, self._journal.rows()], promote_options="permissive")
        self._parts = list(self._sound())

    def __enter__(self) -> IndexWork:
        return self

    def __exit__(self, *raised: object) -> None:
        if self.folder.is_dir():
            self._journal.flush()

    def of(self, source: str) -> SourceNotes:
        """The notes on the pictures of one source."""
        return SourceNotes(self, source)

    def done(self) -> set[bytes]:
        """The keys that are encoded."""
        return {key for path in self._parts for key in as_bytes(self._read(path).keys)}

    def add(self, part: Part) -> None:
        """Keep a unit that was encoded."""
        number = 1 + max((int(found[1]) for path in self._parts if (found := _PART.fullmatch(path.name))), default=-1)
        path = self.folder / f"part-{number:06d}.arrow"
        table = part.pictures.append_column("key", _binary(part.keys)).append_column(
            "embedding", _binary(part.embeddings.astype(np.float16).view(np.uint8))
        )
        write_arrow(path, [table], table.schema)
        write_sealed(path.with_suffix(".json"), {"digest": file_digest(path)})
        self._parts.append(path)

    def flush(self) -> None:
        self._journal.flush()

    def parts(self) -> Iterator[Part]:
        """What was encoded, in the order in which it was."""
        return map(self._read, self._parts)

    @property
    def rows(self) -> int:
        """Of all parts."""
        return sum(len(part.keys) for part in self.parts())

    def remove(self) -> None:
        self._parts = []
        if self.folder.is_dir():
            with writing(self.folder):
                shutil.rmtree(self.folder)
            sync_folder(self.folder.parent)

    def recall(self, ids: Sequence[str], signatures: Sequence[str | None]) -> pa.Table:
        return recall(self._recalled, ids, signatures)

    def note(self, rows: Sequence[Row]) -> None:
        self._journal.add(rows)

    def _sound(self) -> Iterator[Path]:
        """The parts that are as they were written; others are encoded again."""
        for path in sorted(self.folder.glob("part-*.arrow")):
            told = read_cached(path.with_suffix(".json"))
            if told is not None and told.get("digest") == file_digest(path):
                yield path
            else:
                path.unlink()

    def _read(self, path: Path) -> Part:
        table = open_arrow(path)
        keys = _rows_of(table["key"], KEY_BYTES)
        embeddings = _rows_of(table["embedding"], 2 * self.width).view(np.float16)
        return Part(keys, embeddings, table.select(PICTURE_SCHEMA.names))


class SourceNotes:
    """What a run knows of the pictures of one source, as `isthmus.embedding.content_index.Contents` asks for it."""

    def __init__(self, work: IndexWork, source: str) -> None:
        self._work, self._source = work, source

    def recall(self, ids: Sequence[str], signatures: Sequence[str | None], modality: Modality) -> pa.Table:
        return self._work.recall([named(self._source, id) for id in ids], signatures)

    def record_images(self, rows: Iterable[Row], modality: Modality) -> None:
        self._work.note([(named(self._source, id), *told) for id, *told in rows])  # type: ignore[misc]


def named(source: str, id: str) -> str:
    """What an item is called among those of all sources, as by `isthmus.index.items.identities`."""
    return f"{source}\0{id}"


def _binary(rows: np.ndarray) -> pa.Array:
    """uint8 [n, b] as n values of b bytes."""
    data = pa.py_buffer(np.ascontiguousarray(rows).tobytes())
    return pa.Array.from_buffers(pa.binary(rows.shape[1]), len(rows), [None, data])


def _rows_of(column: pa.ChunkedArray, size: int) -> np.ndarray:
    """The inverse of `_binary`."""
    array = column.combine_chunks()
    if array.type != pa.binary(size):
        raise InputError(f"A part holds {array.type}, not {size} bytes a row: remove the folder {WORK} of the index.")
    data = np.frombuffer(array.buffers()[1], np.uint8).reshape(-1, size)
    return data[array.offset : array.offset + len(array)]
