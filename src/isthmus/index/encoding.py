"""Encoding the pictures of a source into a model's space, those alone whose content is new, with small pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from isthmus.data.feature_pairs import SIDES
from isthmus.data.pairs import Pairs
from isthmus.embedding.content_index import Contents
from isthmus.embedding.encode import Encoded
from isthmus.embedding.engines import encode_all, hash_all
from isthmus.embedding.networks import Network, by_network, choose_autocast
from isthmus.embedding.run import HASHED_AT_ONCE, sampled
from isthmus.embedding.work_plan import cut, image_batches, plan_images
from isthmus.encoders import Encoder
from isthmus.index.segments import PICTURE_SCHEMA, Part
from isthmus.index.work import IndexWork
from isthmus.models.dual_encoder import DualEncoder
from isthmus.progress import progress_bar
from isthmus.store.keys import as_bytes, to_hashes

IMAGE = SIDES[0]
QUALITY = 80  # of the small pictures, as JPEG


class PicturedPairs(Pairs):
    """Pairs that keep the size and a small picture of what is decoded, by content, until they are taken.

    size: pixels of the longer side of a small picture; 0: none are made.
    """

    def __init__(self, pairs: Pairs, hashes: Sequence[str | None], size: int) -> None:
        self.__dict__ = dict(pairs.__dict__)
        self._hashes, self._size = hashes, size
        self._seen: dict[str, tuple[int, int, bytes | None]] = {}

    def picture(self, row: int, data: bytes) -> Any:
        image = super().picture(row, data)
        if (content := self._hashes[row]) is not None:
            self._seen[content] = (*image.size, thumbnail(image, self._size) if self._size else None)
        return image

    def take(self, keys: np.ndarray) -> pa.Table:
        """What is known of these contents (uint8 [n, 16]), which is then forgotten."""
        found = [self._seen.pop(content) for content in to_hashes(keys)]
        self._seen = {}
        columns = list(zip(*found, strict=True)) or [()] * len(PICTURE_SCHEMA)
        return pa.table([list(column) for column in columns], schema=PICTURE_SCHEMA)


def thumbnail(image: Image.Image, size: int) -> bytes:
    """A small picture as a JPEG file: encoded anew, so that nothing but its pixels is in it."""
    share = min(1.0, size / max(image.size))
    small = image.resize(
        [max(1, round(share * side)) for side in image.size], Image.Resampling.BICUBIC, reducing_gap=2.0
    )
    small.info = {}  # comments, EXIF and profiles
    file = io.BytesIO()
    small.convert("RGB").save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def known_contents(pairs: Pairs, work: IndexWork, source: str, progress: bool | None) -> Contents:
    """The content of every picture of a source; unchanged files are not read."""
    contents = Contents(pairs, work.of(source))  # type: ignore[arg-type]
    rows = contents.unread()
    chunks = [rows[start : start + HASHED_AT_ONCE] for start in range(0, len(rows), HASHED_AT_ONCE)]
    with progress_bar(progress, desc="reading", total=len(rows), unit="it") as bar:
        for found in hash_all("local", pairs, chunks):
            contents.learn(found)
            work.flush()
            bar.update(len(found))
    return contents


class PictureEncoder:
    """A model's image side, as units of work take it: networks that share forward passes, then the projector."""

    def __init__(self, model: DualEncoder, pairs: Pairs, precision: str, batch_size: int | None) -> None:
        self.model, self._batch_size = model, batch_size
        self._views: list[Encoder] = model.encoders_of(IMAGE)
        sample = sampled(pairs, IMAGE)
        self._networks = [
            Network(views, choose_autocast(views, sample, precision)[0]) for views in by_network(self._views)
        ]

    def encode(
        self, contents: Contents, pairs: PicturedPairs, known: set[bytes], work: IndexWork, tick: Callable[[int], Any]
    ) -> int:
        """Encode the contents that are not `known` into `work`, unit by unit; how many there were."""
        items, keys = plan_images(contents.hashes)
        needed = np.repeat(contents.needed(keys, [known]), len(self._networks), axis=0)
        ends = image_batches(len(items), self._batch_size, self._views[0].device)
        count = 0
        for encoded in encode_all("local", self._networks, pairs, list(cut(items, keys, needed, ends)), {}, tick):
            part = self._part(encoded, pairs)
            if len(part.keys):
                work.add(part)
            contents.reject(encoded.bad)
            work.flush()
            count += len(part.keys)
        return count

    def _part(self, encoded: Encoded, pairs: PicturedPairs) -> Part:
        """A unit in the model's space: of what every network could encode."""
        by_view = {fingerprint: (keys, values) for _, fingerprint, keys, values in encoded.features}
        rows = [{key: row for row, key in enumerate(as_bytes(keys))} for keys, _ in by_view.values()]
        shared = [key for key in rows[0] if all(key in other for other in rows)] if rows else []
        keys = np.frombuffer(b"".join(shared), np.uint8).reshape(-1, 16)
        if not shared:
            return Part(keys, np.empty((0, self.model.width), np.float16), pairs.take(keys))
        where = dict(zip(by_view, rows, strict=True))
        columns = []
        for view in self._views:
            values: Any = by_view[view.fingerprint][1]
            columns.append(values[[where[view.fingerprint][key] for key in shared]])
        embeddings = self.model.project(IMAGE, np.concatenate(columns, axis=1))
        return Part(keys, embeddings.astype(np.float16), pairs.take(keys))
