"""Pictures whose features a store holds already: they are projected, and decoded for their small pictures alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from isthmus.data.feature_pairs import SIDES
from isthmus.data.images import BadImage
from isthmus.embedding.content_index import Contents
from isthmus.index.encoding import PicturedPairs, PictureEncoder
from isthmus.index.segments import Part
from isthmus.index.work import IndexWork
from isthmus.models.dual_encoder import DualEncoder
from isthmus.store import Store
from isthmus.store.keys import KeyIndex, to_keys

IMAGE = SIDES[0]
AT_ONCE = 512  # pictures of a part
THREADS = 4


class StoredEncoder:
    """Takes features from a store by the content of a picture; what it does not hold, `encoder` encodes.

    Raises `UsageError` for a store without the model's image encoders.
    """

    def __init__(self, model: DualEncoder, store: Store, encoder: PictureEncoder) -> None:
        self.model, self.encoder = model, encoder
        self._index = KeyIndex(to_keys(store.images["content_hash"].to_pylist()))
        self._features = store.features(IMAGE, [record["fingerprint"] for record in model.records[IMAGE]])

    def encode(
        self, contents: Contents, pairs: PicturedPairs, known: set[bytes], work: IndexWork, tick: Callable[[int], Any]
    ) -> int:
        """As of `PictureEncoder`."""
        rows = {bytes.fromhex(content): row for row, content in enumerate(contents.hashes) if content}
        new = [key for key, row in rows.items() if key not in known and not contents.reasons[row]]
        place = self._index.find(np.frombuffer(b"".join(new), np.uint8).reshape(-1, 16)) if new else np.empty(0)
        held = [(key, int(at)) for key, at in zip(new, place, strict=True) if at >= 0]
        count = 0
        for start in range(0, len(held), AT_ONCE):
            some = held[start : start + AT_ONCE]
            with ThreadPoolExecutor(THREADS) as threads:
                bad = [one for one in threads.map(lambda pair: _look(pairs, rows[pair[0]]), some) if one]
            contents.reject(bad)
            refused = {row for row, _ in bad}
            some = [(key, at) for key, at in some if rows[key] not in refused]
            if some:
                work.add(self._part(some, pairs))
            tick(len(some))
            count += len(some)
        return count + self.encoder.encode(contents, pairs, known | {key for key, _ in held}, work, tick)

    def _part(self, some: list[tuple[bytes, int]], pairs: PicturedPairs) -> Part:
        keys = np.frombuffer(b"".join(key for key, _ in some), np.uint8).reshape(-1, 16)
        embeddings = self.model.project(IMAGE, self._features[np.array([at for _, at in some])])
        return Part(keys, embeddings.astype(np.float16), pairs.take(keys))


def _look(pairs: PicturedPairs, row: int) -> tuple[int, str] | None:
    """Decode a picture, whose size and small picture `pairs` keeps; why it cannot be, if so."""
    try:
        pairs.decode(row)
    except BadImage as error:
        return row, error.reason
    return None
