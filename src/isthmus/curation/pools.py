"""Pools: where the pairs to choose from come from, behind one small protocol.

A row of a pool is a caption with its image. It is read by number, a range at a time, so that any part can be
read again, by anyone, in any order: resuming and sharding need nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from isthmus.curation.encoding import Encoding
from isthmus.data.feature_pairs import FeaturePairs, Matrix, rows
from isthmus.data.images import BadImage
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.data.tables import is_frame
from isthmus.data.text import read_lines
from isthmus.errors import InputError, UsageError
from isthmus.store.arrays import open_npy
from isthmus.store.manifest import is_store
from isthmus.store.reader import Store, open_store

Side = Literal["caption", "image"]
SIDES: tuple[Side, ...] = ("caption", "image")
MODALITY = {"caption": "text", "image": "image"}


class Pool(Protocol):
    """Rows 0 … len − 1. All methods may be called for any rows, in any order, by several processes.

    name: for messages. pairs: how many pairs the rows belong to. widths: width of the features of each side that
    has any. fingerprint: changes with the content; a checkpoint of another pool is refused by it.
    """

    name: str
    pairs: int
    widths: dict[Side, int]
    fingerprint: str

    def __len__(self) -> int: ...

    def features(self, side: Side, start: int, stop: int) -> np.ndarray:
        """Float [stop − start, width]; a row of NaN or zeros has no features and is never chosen."""

    def captions(self, index: np.ndarray) -> list[str | None]:
        """Captions of rows int64 [n]."""

    def ids(self, index: np.ndarray) -> list[str]:
        """Ids of the pairs that rows int64 [n] belong to."""

    def units(self, index: np.ndarray) -> np.ndarray:
        """int64 [n], 0 … pairs − 1: equal for rows of one pair (captions of one image), of which one is chosen."""


@dataclass
class MatrixPool:
    """A pool whose ids are in memory: a store, arrays, or pairs that an encoder reads as they are scored.

    matrices: by side, features [n, width]. places: by side, int64 [rows], where each row's features stand; None:
    row i is row i. names [U]: ids of the pairs. unit int64 [rows]: whose each row is; None: row i is pair i.
    texts: captions by row. usable: bool [rows], rows that may be chosen; None: all.
    records: of the encoders of a store, by modality. notes: remarks on the data, for the user.
    skipped: (id, reason) of what was left out while reading.
    """

    name: str
    matrices: dict[Side, Matrix]
    names: Sequence[str]
    places: dict[Side, np.ndarray] = field(default_factory=dict)
    unit: np.ndarray | None = None
    texts: Sequence[str | None] | None = None
    usable: np.ndarray | None = None
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    fingerprint: str = ""
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pairs = len(self.names)
        self.widths = {side: matrix.shape[1] for side, matrix in self.matrices.items()}
        self.fingerprint = self.fingerprint or _digest(self.names, self.matrices)

    def __len__(self) -> int:
        return len(self.names) if self.unit is None else len(self.unit)

    def features(self, side: Side, start: int, stop: int) -> np.ndarray:
        place = self.places.get(side)
        found = rows(self.matrices[side], slice(start, stop) if place is None else place[start:stop])
        if self.usable is not None and not self.usable[start:stop].all():
            found = np.where(self.usable[start:stop, None], found, np.nan)
        return found

    def captions(self, index: np.ndarray) -> list[str | None]:
        return [None] * len(index) if self.texts is None else [self.texts[row] for row in index.tolist()]

    def ids(self, index: np.ndarray) -> list[str]:
        return [self.names[pair] for pair in self.units(index).tolist()]

    def units(self, index: np.ndarray) -> np.ndarray:
        return index if self.unit is None else self.unit[index]


def open_pool(source: Any, encoding: Encoding | None = None) -> Pool:
    """A pool from whatever holds pairs.

    Args:
        source: a store or its folder; `FeaturePairs`; a folder of `image.npy`, `text.npy`, `ids.txt`,
            `captions.txt`; a clip-retrieval folder; metadata Parquet (LAION's, img2dataset's: a file or a
            folder of them); anything `read_pairs` reads; or a `Pool`, which is returned as it is.
        encoding: the encoders of the features. Needed for sources without features; a dual encoder also
            projects features that exist into its joint space.

    Raises:
        InputError: nothing that can be read there (names the file), or captions without an encoder.
    """
    encoding = encoding or Encoding()
    if isinstance(source, Store | FeaturePairs):
        return _from_features(source, encoding)
    if isinstance(source, Pairs):
        return _from_pairs(source, encoding)
    if is_frame(source):
        return _from_pairs(read_pairs(source, captions="optional"), encoding)
    if not isinstance(source, str | Path):
        return source
    from isthmus.curation import metadata

    path = Path(source)
    if is_store(path):
        return _from_features(open_store(path), encoding)
    if (path / "metadata").is_dir():
        return metadata.ClipRetrievalPool(path)
    if any((path / f"{name}.npy").is_file() for name in ("image", "text")):
        return _from_arrays(path)
    files = metadata.metadata_files(path)
    if files:
        return metadata.MetadataPool(path, files, encoding)
    return _from_pairs(read_pairs(source, captions="optional"), encoding)


def side_names(pool: Pool, sides: str) -> tuple[Side, ...]:
    """`--sides` as sides of the pool; UsageError for another word, InputError for a side without features."""
    if sides not in (*SIDES, "both"):
        raise UsageError(f"sides={sides!r}: it is caption, image or both.")
    wanted: tuple[Side, ...] = SIDES if sides == "both" else tuple(side for side in SIDES if side == sides)
    for side in wanted:
        if side not in pool.widths:
            raise InputError(
                f"{pool.name}: has no {side} features, only {' and '.join(pool.widths) or 'none'}. Choose --sides, or "
                "embed the pairs first (isthmus embed)."
            )
    return wanted


def _from_features(source: Store | FeaturePairs, encoding: Encoding) -> MatrixPool:
    """Features as they are, or as a dual encoder projects them; test images are no candidates."""
    chosen = encoding.named()
    pairs = source.pairs(image=chosen.get("image"), text=chosen.get("text")) if isinstance(source, Store) else source
    splits = np.array([split == "test" for split in pairs.splits or []])
    return MatrixPool(
        name=str(source.path) if isinstance(source, Store) else "features",
        matrices={"caption": encoding.projected("text", pairs.text), "image": encoding.projected("image", pairs.image)},
        names=pairs.image_ids,
        places={"image": pairs.image_of},
        unit=pairs.image_of,
        texts=pairs.captions,
        usable=~splits[pairs.image_of] if splits.any() else None,
        records={"text": pairs.text_encoder, "image": pairs.image_encoder} if encoding.model is None else {},
    )


def _from_arrays(folder: Path) -> MatrixPool:
    found = {side: folder / f"{MODALITY[side]}.npy" for side in SIDES}
    matrices: dict[Side, Matrix] = {side: open_npy(path).map() for side, path in found.items() if path.is_file()}
    count = len(next(iter(matrices.values())))
    names, texts = (_lines(folder / f"{name}.txt") for name in ("ids", "captions"))
    for what, length in (("ids", names), ("captions", texts), *((f"{side}s", m) for side, m in matrices.items())):
        if length is not None and len(length) != count:
            raise InputError(f"{folder}: {len(length):,} {what} for {count:,} rows; they must match one to one.")
    return MatrixPool(str(folder), matrices, names or RowNumbers(count), texts=texts)


def _from_pairs(pairs: Pairs, encoding: Encoding) -> MatrixPool:
    """Raw pairs: what an encoder is named for is encoded as it is scored."""
    ids = pairs.images["id"].to_pylist()
    position = {id: row for row, id in enumerate(ids)}
    captions = pairs.captions["caption"].to_pylist()
    owner = np.array([position[id] for id in pairs.captions["id"].to_pylist()], np.int64)
    matrices: dict[Side, Matrix] = {}
    if encoding.text is not None and captions:
        matrices["caption"] = Encoded(captions, encoding.text)
    if encoding.image is not None:
        matrices["image"] = Encoded(Pictures(pairs), encoding.image)
    if not matrices:
        raise InputError(f"{pairs.path}: pairs without features; name an encoder for them (--encoder URI).")
    if not captions:
        owner = np.arange(len(ids))
    splits = np.array([split == "test" for split in pairs.images["split"].to_pylist()])
    return MatrixPool(
        name=str(pairs.path),
        matrices=matrices,
        names=ids,
        places={"image": owner},
        unit=owner,
        texts=captions or None,
        usable=~splits[owner] if splits.any() else None,
        fingerprint=_digest([*ids, *captions, encoding.name], {}),
        notes=pairs.notes,
        skipped=pairs.skipped,
    )


def reading_notes(pairs: Pairs) -> list[str]:
    """Remarks on pairs, and in one more what was left out of them as they were read."""
    if not pairs.skipped:
        return pairs.notes
    first = ": ".join(pairs.skipped[0])
    return [*pairs.notes, f"{pairs.path}: {len(pairs.skipped):,} were left out while reading; the first: {first}"]


class RowNumbers(Sequence[str]):
    """ "0", "1", … as ids, without ten million strings in memory."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: Any) -> Any:
        return str(row)


class Encoded:
    """Features [n, width] that an encoder makes as they are asked for; an unreadable item's are NaN."""

    def __init__(self, items: Any, encode: Any) -> None:
        self.items, self.encode = items, encode
        self.shape = (len(items), encode.width)

    def gather(self, index: np.ndarray) -> np.ndarray:
        """Rows float32 [len(index), width]."""
        out = np.full((len(index), self.shape[1]), np.nan, np.float32)
        found = [(place, item) for place, row in enumerate(index.tolist()) if (item := self.items[row]) is not None]
        if found:
            out[[place for place, _ in found]] = self.encode([item for _, item in found])
        return out


class Pictures:
    """Decoded pictures by row; None for one that cannot be read."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, row: int) -> Any:
        try:
            return self.pairs.decode(row)
        except BadImage:
            return None


def _lines(path: Path) -> list[str] | None:
    return read_lines(path) if path.is_file() else None


def _digest(names: Sequence[str], matrices: dict[Side, Matrix]) -> str:
    """Of the ids, and of some rows of each matrix: quick, and another pool's is another."""
    named = f"{len(names)} rows" if isinstance(names, RowNumbers) else "\n".join(names)
    digest = hashlib.blake2b(named.encode(), digest_size=16)
    for side, matrix in matrices.items():
        some = np.unique(np.linspace(0, matrix.shape[0] - 1, 64).astype(np.int64))
        digest.update(f"{side}{list(matrix.shape)}".encode() + np.ascontiguousarray(rows(matrix, some)).tobytes())
    return digest.hexdigest()
