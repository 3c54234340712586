"""Pairs as cleaning sees them: ids, captions, and of every image a content hash, a perceptual hash and features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from isthmus.curation.encoding import Encoding
from isthmus.curation.pools import Pool, encoded
from isthmus.data.images import BadImage
from isthmus.data.matrix import Computed, Matrix
from isthmus.data.pairs import Pairs
from isthmus.embedding.encode import THREADS, in_order
from isthmus.errors import UsageError
from isthmus.store.opening import open_pairs, open_source
from isthmus.store.reader import Store

HASH_SIDE = 16  # 256 bits: flat drawings collide on the usual 64
THUMBNAIL = 8  # side in pixels of the thumbnail whose colours are compared
CHUNK = 65_536
FEW_COLOURS, FLAT = 4, 0.42  # so few of 4,096 colours cover so much of a drawing; of a colour photograph less
DETAIL = 24  # pixels a side of the thumbnail by which drawings are told apart
DETAILS_HELD = 4096


@dataclass(frozen=True)
class ImageSignature:
    """One picture: hash of its bytes, size in pixels, perceptual hash [256] of ±1, thumbnail [192] of 0 … 255, and
    whether it is a drawing: few colours cover it, as they do a photograph without colour."""

    content: str
    size: tuple[int, int]
    bits: np.ndarray
    colours: np.ndarray
    drawing: bool


@dataclass
class Collection:
    """n pairs with m captions.

    ids: [n]. owner: int64 [m], the pair of each caption. texts: [m]. lang: [m] or None. hashes: [n] content hashes,
    if they are known without reading the images. features: [n, d] of the images. pictures: pairs that have the images,
    by id. usable: bool [n], pairs that may be chosen.
    """

    name: str
    ids: Sequence[str]
    owner: np.ndarray
    texts: Sequence[str | None]
    lang: Sequence[str | None] | None = None
    hashes: Sequence[str | None] | None = None
    features: Matrix | None = None
    pictures: Pairs | None = None
    usable: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def looks(self) -> list[ImageSignature | BadImage | None]:
        """The signature of every picture, read once; the error if it cannot be used; None if there is no picture."""
        if self.pictures is None:
            return [None] * len(self)
        pictures, row = self.pictures, self._row
        with ThreadPoolExecutor(THREADS) as pool:
            return list(in_order(pool, lambda name: _look(pictures, row.get(name)), self._wanted(), ahead=8 * THREADS))

    @cached_property
    def _row(self) -> dict[str | None, int]:
        assert self.pictures is not None
        return {name: number for number, name in enumerate(self.pictures.images["id"].to_pylist())}

    @cached_property
    def detail(self) -> Callable[[int], np.ndarray]:
        """Of a picture that was looked at, by its row: a thumbnail int16 [24, 24, 3] that shows a digit. Read again,
        as only pictures that seem alike are asked for."""
        pictures = self.pictures
        assert pictures is not None

        @lru_cache(DETAILS_HELD)
        def read(row: int) -> np.ndarray:
            small = pictures.decode(self._row[self.ids[row]]).resize((DETAIL, DETAIL), Image.Resampling.BOX)
            return np.asarray(small).astype(np.int16)

        return read

    def _wanted(self) -> list[str | None]:
        """The ids; None for pairs that may not be chosen."""
        usable = [True] * len(self) if self.usable is None else self.usable.tolist()
        return [name if one else None for name, one in zip(self.ids, usable, strict=True)]

    def contents(self) -> list[str | None]:
        """Content hashes [n], None where unknown."""
        if self.hashes is not None:
            return list(self.hashes)
        return [look.content if isinstance(look, ImageSignature) else None for look in self.looks]


def of_pool(pool: Pool, images: Any) -> Collection:
    """The pairs of an opened pool. images: pairs with the pictures; None: the pool's own, if it has any."""
    every = np.arange(len(pool))
    _, first, owner = np.unique(pool.units(every), return_index=True, return_inverse=True)
    texts = [text for some in _chunks(every) for text in pool.captions(some)]
    ids = [name for some in _chunks(first) for name in pool.ids(some)]
    usable = getattr(pool, "usable", None)
    features = _pool_images(pool, first) if "image" in pool.widths else None
    found = Collection(pool.name, ids, owner, texts, features=features)
    found.usable = None if usable is None else usable[first]
    opened = getattr(pool, "opened", None)
    if isinstance(opened, Store):
        _know(found, opened)
    if images is not None or isinstance(opened, Pairs):
        found.pictures = open_pairs(opened if images is None else images, "optional")
    return found


@dataclass(frozen=True)
class ImageSpace:
    """Brings images of other sets into the space of the pool's image features.

    encoding: encodes pictures, and projects features where a dual encoder does. fingerprints: of the encoders whose
    stored features lie in that space (before projection); empty where unknown.
    """

    encoding: Encoding
    fingerprints: list[str]

    def of_store(self, store: Store) -> Matrix | None:
        """A store's image features [n, d] in this space; None if it lacks an encoder."""
        uris = {record["fingerprint"]: record["uri"] for record in store.pooled("image")}
        if not self.fingerprints or any(one not in uris for one in self.fingerprints):
            return None
        return self.encoding.projected("image", store.features("image", [uris[one] for one in self.fingerprints]))


def of_evaluation(source: str | Path | Pairs | Store, space: ImageSpace | None = None) -> Collection:
    """The test split of an evaluation set, or the whole set if it has no splits.

    space: of the pool's image features, if it has any.
    """
    opened = open_source(source)
    if not isinstance(opened, Store | Pairs):
        raise UsageError("--against: a table or folder of pairs, or a store; arrays cannot be compared.")
    ids, splits = (opened.images[name].to_pylist() for name in ("id", "split"))
    place = {name: row for row, name in enumerate(ids)}
    owner = np.array([place[name] for name in opened.captions["id"].to_pylist()], np.int64)
    name = str(source if isinstance(source, str | Path) else opened.path or "evaluation")
    found = Collection(name, ids, owner, opened.captions["caption"].to_pylist())
    found.usable = np.array([split == "test" for split in splits]) if "test" in splits else None
    if isinstance(opened, Store):
        _know(found, opened)
        found.features = space.of_store(opened) if space else None
    else:
        found.pictures = opened
        encode = space.encoding.image if space else None
        found.features = encoded(opened, encode) if encode else None
    return found


def _pool_images(pool: Pool, first: np.ndarray) -> Computed:
    """Image features [n, d] of the pairs of a pool, each read at the pair's first row; neighbouring rows are read
    together."""

    def gather(index: np.ndarray) -> np.ndarray:
        wanted = first[index]
        out = np.empty((len(wanted), pool.widths["image"]), np.float32)
        for start in range(0, len(wanted), CHUNK):
            some = wanted[start : start + CHUNK]
            low, high = int(some.min()), int(some.max()) + 1
            if high - low <= 4 * CHUNK:
                out[start : start + len(some)] = pool.features("image", low, high)[some - low]
            else:
                for at, row in enumerate(some.tolist()):
                    out[start + at] = pool.features("image", row, row + 1)[0]
        return out

    return Computed((len(first), pool.widths["image"]), gather)


def _know(found: Collection, store: Store) -> None:
    """What a store records about the images and captions with these ids."""
    hashes = dict(zip(store.images["id"].to_pylist(), store.images["content_hash"].to_pylist(), strict=True))
    found.hashes = [hashes.get(name) for name in found.ids]
    lang = dict(zip(*(store.captions[name].to_pylist() for name in ("caption", "lang")), strict=True))
    found.lang = [lang.get(text) for text in found.texts]


def _chunks(index: np.ndarray) -> Iterator[np.ndarray]:
    return (index[start : start + CHUNK] for start in range(0, len(index), CHUNK))


def _look(pictures: Pairs, row: int | None) -> ImageSignature | BadImage | None:
    if row is None:
        return None
    try:
        data = pictures.read_bytes(row)
        image = pictures.picture(row, data)
    except BadImage as error:
        return error
    return ImageSignature(pictures.content_hash(data, row), image.size, *_perceived(image), is_drawing(image))


def is_drawing(image: Image.Image) -> bool:
    """Whether `FEW_COLOURS` of the 4,096 colours of 4 bits a channel cover `FLAT` of an RGB picture."""
    pixels = np.asarray(image.resize((128, 128), Image.Resampling.NEAREST)).reshape(-1, 3) >> 4
    colours = np.bincount(pixels.astype(np.int64) @ (256, 16, 1), minlength=4096)
    return bool(np.sort(colours)[-FEW_COLOURS:].sum() >= FLAT * len(pixels))


def _perceived(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """pHash (DCT of the luminance, signs about the median) and a small thumbnail, for colours, which pHash ignores."""
    try:
        import imagehash
    except ImportError:
        raise UsageError("Comparing pictures needs imagehash: pip install 'isthmus[curate]'.") from None
    bits = imagehash.phash(image, hash_size=HASH_SIDE).hash.ravel()
    small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.where(bits, 1, -1).astype(np.int8), np.asarray(small).ravel()
