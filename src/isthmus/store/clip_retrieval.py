"""clip-retrieval's layout, in which LAION's embeddings are published: import and export.

`img_emb/img_emb_K.npy` and `text_emb/text_emb_K.npy` (L2-normalised, float16, one row per pair) beside
`metadata/metadata_K.parquet` (`image_path`, `caption`, and whatever the data set adds), for partitions K.
https://github.com/rom1504/clip-retrieval, clip_inference/writer.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from isthmus.errors import InputError
from isthmus.files import atomic_path
from isthmus.store.arrays import CHUNK, caption_table, content_hashes, open_npy, write_rows
from isthmus.store.blocks import MappedArray
from isthmus.store.disk import write_parquet
from isthmus.store.keys import HASH_PATTERN
from isthmus.store.matrix import FeatureMatrix, Rows
from isthmus.store.reader import Which, open_store
from isthmus.store.writer import StoreWriter

ROWS_PER_FILE = 1_000_000
_EMBEDDINGS = {"image": "img_emb", "text": "text_emb"}
_OURS = ("content_hash", "group", "split", "label")  # columns that our own export adds


def import_clip_retrieval(folder: str | Path, out: str | Path, *, model: str | None = None) -> None:
    """Import `folder` into the store `out`. The id of an image is its `image_path`; a path that is on several rows is
    one image with several captions.

    Args:
        model: the name of the CLIP model that made the embeddings, if known; it becomes the encoders'
            identity.

    Raises:
        InputError: partitions or numbers of rows that do not match, a missing column, a path with different embeddings,
            pickled or damaged arrays, NaN or infinity.
    """
    folder = Path(folder)
    counts = partitions(folder)
    metadata = pa.concat_tables([_metadata(folder, k, out) for k in counts], promote_options="default")
    blocks = {
        modality: [embedding_block(folder, name, k, rows) for k, rows in counts.items()]
        for modality, name in _EMBEDDINGS.items()
        if (folder / name).is_dir()
    }
    if not blocks:
        raise InputError(f"{folder}: neither img_emb/ nor text_emb/.")
    for modality, found in blocks.items():
        _same_width(modality, found)
    paths = metadata["image_path"].to_pylist()
    hashes = metadata["content_hash"].to_pylist()
    first = _first_rows(paths)
    if "image" in blocks:
        _refuse_mixed_images(Rows(blocks["image"]), paths, first)
    images = metadata.take(np.unique(first)).rename_columns({"image_path": "id"})
    captions = _captions(metadata, "text" in blocks)
    with StoreWriter(out) as writer:
        if "image" in blocks:
            write_rows(writer, "image", model, [block.map() for block in blocks["image"]], hashes)
        if "text" in blocks:
            texts = captions["content_hash"].to_pylist()
            write_rows(writer, "text", model, [block.map() for block in blocks["text"]], texts)
        writer.finish(images, captions)


def export_clip_retrieval(
    path: str | Path,
    folder: str | Path,
    *,
    image: Which = None,
    text: Which = None,
    normalize: bool = True,
    rows_per_file: int = ROWS_PER_FILE,
) -> int:
    """Write a store in clip-retrieval's layout, one row per caption; returns the number of rows.

    Images without a caption have no row. Columns that the layout does not know (`caption_id`,
    `content_hash`, `lang`, `group`, `split`, `label`) are added to the metadata, so that importing it again
    gives the same store.

    Args:
        image, text: which encoders, as for `Store.features`.
        normalize: scale each row to length 1, as clip-retrieval's indices expect; False writes features as
            stored.
    """
    store, folder = open_store(path), Path(folder)
    matrices = {"image": store.features("image", image), "text": store.features("text", text)}
    captions = store.captions
    owner = pc.index_in(captions["id"], value_set=store.images["id"].combine_chunks()).to_numpy()
    rows_of = {"image": owner.astype(np.int64), "text": np.arange(len(captions))}
    metadata = captions.drop_columns(["id", "content_hash"])
    images = store.images.take(owner).drop_columns("signature").rename_columns({"id": "image_path"})
    metadata = pa.table(
        {
            **dict(zip(images.column_names, images, strict=True)),
            **dict(zip(metadata.column_names, metadata, strict=True)),
        }
    )
    starts = range(0, len(captions), rows_per_file)
    for k, start in enumerate(starts):
        number = str(k).zfill(len(str(len(starts) - 1)))
        part = slice(start, min(start + rows_per_file, len(captions)))
        for modality, name in _EMBEDDINGS.items():
            target = folder / name / f"{name}_{number}.npy"
            _write_npy(target, matrices[modality], rows_of[modality][part], normalize)
        target = folder / "metadata" / f"metadata_{number}.parquet"
        with atomic_path(target) as aside:
            write_parquet(metadata.slice(start, rows_per_file), aside)
    return len(captions)


def partitions(folder: Path) -> dict[str, int]:
    """The number of rows of each partition, by the digits in its name, in numeric order."""
    paths = [(m[1], p) for p in folder.glob("metadata/*.parquet") if (m := re.fullmatch(r"metadata_(\d+)", p.stem))]
    if not paths:
        raise InputError(f"{folder}: no metadata/metadata_*.parquet; clip-retrieval writes it with the embeddings.")
    return {k: _row_count(path) for k, path in sorted(paths, key=lambda one: int(one[0]))}


def _row_count(path: Path) -> int:
    try:
        return pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({error}).") from None


def _metadata(folder: Path, k: str, out: str | Path) -> pa.Table:
    """image_path, caption and our own columns of one partition, as strings."""
    path = folder / "metadata" / f"metadata_{k}.parquet"
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({error}).") from None
    if "image_path" not in table.column_names:
        raise InputError(f"{path}: no column 'image_path'; it has {', '.join(table.column_names)}.")
    if table["image_path"].null_count:
        raise InputError(f"{path}: image_path holds nulls, but it is the id of each image.")
    wanted = [c for c in ("image_path", "caption", "caption_id", "lang", *_OURS) if c in table.column_names]
    table = pa.table({c: table[c].cast(pa.large_string() if c == "caption" else pa.string()) for c in wanted})
    if "content_hash" not in wanted:
        hashes = content_hashes(out, table["image_path"].to_pylist())
        table = table.append_column("content_hash", pa.array(hashes, pa.string()))
    if not pc.all(pc.match_substring_regex(table["content_hash"], HASH_PATTERN), min_count=0).as_py():
        raise InputError(f"{path}: a content_hash is not 32 hex digits.")
    return table


def embedding_block(folder: Path, name: str, k: str, rows: int) -> MappedArray:
    path = folder / name / f"{name}_{k}.npy"
    block = open_npy(path)
    if block.shape[0] != rows:
        raise InputError(f"{path}: {block.shape[0]:,} rows, but metadata_{k}.parquet has {rows:,}.")
    return block


def _same_width(modality: str, blocks: Sequence[MappedArray]) -> None:
    for block in blocks:
        if block.shape[1] != blocks[0].shape[1]:
            widths = f"{block.shape[1]} wide, but {blocks[0].path.name} is {blocks[0].shape[1]} wide"
            raise InputError(f"{block.path}: {modality} embeddings are {widths}.")


def _first_rows(paths: Sequence[str]) -> np.ndarray:
    """int64 [n]: the first row with the path of each row."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(path, row) for row, path in enumerate(paths)], np.int64)


def _refuse_mixed_images(rows: Rows, paths: Sequence[str], first: np.ndarray) -> None:
    """Refuse a path with two pictures, as in joined data sets that both number from 0."""
    repeated = np.flatnonzero(first != np.arange(len(first)))
    width = rows.blocks[0].shape[1]
    for start in range(0, len(repeated), CHUNK):
        again = repeated[start : start + CHUNK]
        a, b = np.empty((2, len(again), width), np.float32)
        rows.gather(again, a)
        rows.gather(first[again], b)
        # Float16 and another batch differ by less than 1 %.
        apart = np.abs(a - b).max(axis=1) > 0.01 * np.abs(b).max(axis=1)
        if apart.any():
            row = again[apart.argmax()]
            raise InputError(
                f"image_path {paths[row]!r} has different embeddings on rows {first[row]:,} and {row:,}. "
                "Paths are ids: import each data set into a store of its own, or make the paths distinct."
            )


def _captions(metadata: pa.Table, needed: bool) -> pa.Table:
    """A caption for every row; none for images alone, unknown ones for text features without captions."""
    if "caption" not in metadata.column_names:
        return caption_table(metadata["image_path"].to_pylist() if needed else [], None)
    texts = [text or "" for text in metadata["caption"].to_pylist()]
    table = caption_table(metadata["image_path"].to_pylist(), texts)
    for column in ("caption_id", "lang"):
        if column in metadata.column_names:
            table = table.drop_columns(column) if column in table.column_names else table
            table = table.append_column(column, metadata[column])
    return table


def _write_npy(path: Path, matrix: FeatureMatrix, rows: np.ndarray, normalize: bool) -> None:
    """Write rows of a matrix as a .npy file, a chunk at a time."""
    dtype = np.dtype(np.float16) if normalize else matrix.dtype
    header = {"descr": dtype.str, "fortran_order": False, "shape": (len(rows), matrix.width)}
    with atomic_path(path) as aside, open(aside, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(rows), CHUNK):
            part = matrix.gather(rows[start : start + CHUNK])
            if normalize:
                part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
            file.write(part.astype(dtype).tobytes())
