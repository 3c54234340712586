"""Opening a pool: from a store, arrays, published embeddings, metadata, or pairs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isthmus.curation.encoding import Encoding
from isthmus.curation.metadata import ClipRetrievalPool, MetadataPool, metadata_files
from isthmus.curation.pools import MODALITY, SIDES, MatrixPool, Pool, PoolSide, RowNumbers, digest, encoded
from isthmus.data.feature_pairs import SIDES as MODALITIES
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.matrix import Matrix
from isthmus.data.pairs import Pairs
from isthmus.data.tables import is_frame
from isthmus.data.text import read_lines
from isthmus.encoders.pictures import reason
from isthmus.errors import InputError
from isthmus.store.arrays import open_npy
from isthmus.store.opening import holds_features, open_source
from isthmus.store.reader import Store


def open_pool(source: Any, encoding: Encoding | None = None) -> Pool:
    """A pool from whatever holds pairs.

    Args:
        source: a store or its folder; `FeaturePairs`; a folder of `image.npy`, `text.npy`, `ids.txt`,
            `captions.txt`; a clip-retrieval folder; metadata Parquet (LAION's, img2dataset's: a file or a
            folder of them); anything `read_pairs` reads; or a `Pool`, which is returned as it is.
        encoding: the encoders of the features. Needed for sources without features; a dual encoder also
            projects features that exist into its joint space.

    Raises:
        InputError: nothing there can be read (names the file), or captions without an encoder.
    """
    encoding = encoding or Encoding()
    if not isinstance(source, str | Path | Store | FeaturePairs | Pairs) and not is_frame(source):
        return source
    if isinstance(source, str | Path) and not holds_features(source):
        path = Path(source)
        if (path / "metadata").is_dir():
            return ClipRetrievalPool(path)
        if any((path / f"{name}.npy").is_file() for name in MODALITY.values()):
            return _from_arrays(path)
        if files := metadata_files(path):
            return MetadataPool(path, files, encoding)
    opened = open_source(source)
    return _from_pairs(opened, encoding) if isinstance(opened, Pairs) else _from_features(opened, encoding)


def _from_features(source: Store | FeaturePairs, encoding: Encoding) -> MatrixPool:
    """Features as they are, or projected by a dual encoder; test images may not be chosen."""
    chosen: Any = {**encoding.named(), "modalities": encoding.modalities}
    pairs = source.pairs(**chosen) if isinstance(source, Store) else source
    splits = np.array([split == "test" for split in pairs.splits or []])
    return MatrixPool(
        name=str(source.path) if isinstance(source, Store) else "features",
        matrices={"caption": encoding.projected("text", pairs.text), "image": encoding.projected("image", pairs.image)},
        names=pairs.image_ids,
        places={"image": pairs.image_of},
        unit=pairs.image_of,
        texts=pairs.captions,
        usable=~splits[pairs.image_of] if splits.any() else None,
        records=pairs.records if encoding.model is None else {},
        opened=source if encoding.modalities == MODALITIES else None,
    )


def _from_arrays(folder: Path) -> MatrixPool:
    found = {side: folder / f"{MODALITY[side]}.npy" for side in SIDES}
    matrices: dict[PoolSide, Matrix] = {side: open_npy(path).map() for side, path in found.items() if path.is_file()}
    count = len(next(iter(matrices.values())))
    names, texts = (_lines(folder / f"{name}.txt") for name in ("ids", "captions"))
    for what, length in (("ids", names), ("captions", texts), *((f"{side}s", m) for side, m in matrices.items())):
        if length is not None and len(length) != count:
            raise InputError(f"{folder}: {len(length):,} {what} for {count:,} rows; they must match one to one.")
    return MatrixPool(str(folder), matrices, names or RowNumbers(count), texts=texts)


def _from_pairs(pairs: Pairs, encoding: Encoding) -> MatrixPool:
    """Raw pairs: the sides with an encoder are encoded while they are scored."""
    first, second = encoding.modalities
    side = pairs.side(first)
    ids = side.samples
    position = {id: row for row, id in enumerate(ids)}
    texts = pairs.captions.filter(pc.is_in(pairs.captions["id"], value_set=pa.array(ids, pa.string())))
    captions, owners = (texts[name].to_pylist() for name in ("caption", "id"))
    described: Any = captions
    if not encoding.of_texts:
        described, captions = pairs.side(second), []
        described = described.having(described.images.filter(pc.is_in(described.images["sample"], pa.array(ids))))
        owners = described.samples
    owner = np.array([position[id] for id in owners], np.int64)
    skipped = list(pairs.skipped)
    matrices: dict[PoolSide, Matrix] = {}
    if encoding.text is not None and len(described):
        matrices["caption"] = encoded(described, encoding.text)
    if encoding.image is not None:
        matrices["image"] = encoded(side, encoding.image, partial(_list, skipped, ids))
    if not matrices:
        raise InputError(f"{pairs.path}: pairs without features; name an encoder for them (--encoder URI).")
    if not len(described):
        owner = np.arange(len(ids))
    splits = np.array([split == "test" for split in side.images["split"].to_pylist()])
    return MatrixPool(
        name=str(pairs.path),
        matrices=matrices,
        names=ids,
        places={"image": owner},
        unit=owner,
        texts=captions or None,
        usable=~splits[owner] if splits.any() else None,
        fingerprint=digest([*ids, *captions, encoding.name], {}),
        opened=pairs if encoding.modalities == MODALITIES else None,
        notes=pairs.notes,
        skipped=skipped,
    )


def _list(skipped: list[tuple[str, str]], ids: list[str], row: int, error: Exception) -> None:
    """Note a picture that cannot be used, once."""
    entry = (ids[row], reason(error))
    if entry not in skipped:
        skipped.append(entry)


def _lines(path: Path) -> list[str] | None:
    return read_lines(path) if path.is_file() else None
