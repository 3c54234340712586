"""The content hash of each image, or why it cannot be used, before and while it is encoded."""

from __future__ import annotations

from collections.abc import Iterable, Set

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isthmus.data.feature_pairs import SIDES
from isthmus.data.pairs import Pairs
from isthmus.data.records import ANSWERS
from isthmus.store import StoreWriter
from isthmus.store.keys import text_hash


class Contents:
    """The content hash of every image, or item of another modality, or the reason why it is unusable, in the order of
    `pairs.images`.

    Hashes of unchanged files are taken from earlier runs; new ones go into the store's journal, so that an interrupted
    run need not compute them again. A damaged image keeps its hash, and with it its place in the plan of work.
    """

    def __init__(self, pairs: Pairs, writer: StoreWriter) -> None:
        self.pairs, self._writer = pairs, writer
        self.ids: list[str] = pairs.images["id"].to_pylist()
        self._signatures = pairs.signatures()
        recalled = writer.recall(self.ids, self._signatures, pairs.modality)
        self.hashes: list[str | None] = recalled["content_hash"].to_pylist()
        self.reasons: list[str | None] = recalled["reason"].to_pylist()

    def unread(self) -> list[int]:
        """The rows whose images are not yet read."""
        return [row for row, known in enumerate(zip(self.hashes, self.reasons, strict=True)) if known == (None, None)]

    def learn(self, found: Iterable[tuple[int, str | None, str | None]]) -> None:
        """Note (row, content hash, reason) of images just read."""
        for row, content, reason in found:
            self.hashes[row], self.reasons[row] = content, reason
            self._record(row)

    def reject(self, bad: Iterable[tuple[int, str]]) -> None:
        """Note (row, reason) of images that cannot be decoded, and of every other row with the same content."""
        reasons = {self.hashes[row]: reason for row, reason in bad}
        for row, content in enumerate(self.hashes) if reasons else ():
            if content in reasons:
                self.reasons[row] = reasons[content]
                self._record(row)

    def needed(self, keys: np.ndarray, done: list[set[bytes]]) -> np.ndarray:
        """bool [networks, n]: which of these contents (uint8 [n, 16]) each network has yet to encode."""
        rejected = {bytes.fromhex(h) for h, why in zip(self.hashes, self.reasons, strict=True) if h and why}
        return lacking(keys, done, rejected)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(id, reason) of every image that cannot be used."""
        return [(name, reason) for name, reason in zip(self.ids, self.reasons, strict=True) if reason]

    def table(self) -> pa.Table:
        """The store's table of these: usable ones only, each with its content hash."""
        usable = [None if why else content for content, why in zip(self.hashes, self.reasons, strict=True)]
        found = self.pairs.images.select(["id", "group", "split", "label"])
        found = found.append_column("content_hash", pa.array(usable, pa.string()))
        if self.pairs.modality != SIDES[0]:
            found = found.rename_columns({"id": "item_id"})
            found = found.append_column("id", pa.array(self.pairs.samples, pa.string()))
        return found.filter(pc.is_valid(found["content_hash"]))

    def _record(self, row: int) -> None:
        told = (self.ids[row], self.hashes[row], self.reasons[row], self._signatures[row])
        self._writer.record_images([told], self.pairs.modality)


def lacking(keys: np.ndarray, done: list[set[bytes]], without: Set[bytes] = frozenset()) -> np.ndarray:
    """bool [networks, n]: which of these contents (uint8 [n, 16]) each network has not done, but for some."""
    listed = [key.tobytes() for key in keys]
    return np.array([[key not in some and key not in without for key in listed] for some in done], bool)


def captions_of(pairs: Pairs, samples: pa.Array) -> pa.Table:
    """The store's caption table: those of these samples, each with its content hash."""
    columns = ["caption_id", "id", "caption", "lang", ANSWERS]
    captions = pairs.captions.select([name for name in columns if name in pairs.captions.column_names])
    captions = captions.filter(pc.is_in(captions["id"], value_set=samples))
    keys = [text_hash(text) for text in captions["caption"].to_pylist()]
    return captions.append_column("content_hash", pa.array(keys, pa.string()))
