"""clip-retrieval's layout, in which LAION's embeddings are published: import and export.

`img_emb/img_emb_K.npy` and `text_emb/text_emb_K.npy` (L2-normalised, float16, one row per pair) beside
`metadata/metadata_K.parquet` (`image_path`, `caption`, and whatever the data set adds), for partitions K.
https://github.com/rom1504/clip-retrieval, clip_inference/writer.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isthmus.data.parquet import DAMAGE, ParquetTable, read_columns
from isthmus.data.records import ANSWERS
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


@dataclass(frozen=True)
class Partition:
    """One partition. number: its digits, as in the names of its files. blocks: by modality, its arrays."""

    folder: Path
    number: str
    rows: int
    blocks: dict[str, MappedArray]

    @property
    def metadata(self) -> Path:
        return self.folder / "metadata" / f"metadata_{self.number}.parquet"


def import_clip_retrieval(folder: str | Path, out: str | Path, *, model: str | None = None) -> list[tuple[str, str]]:
    """Import `folder` into the store `out`. The id of an image is its `image_path`; a path that stands on
    several rows is one image with several captions.

    Args:
        model: the name of the CLIP model that made the embeddings, if known; it becomes the encoders'
            identity.

    Returns:
        (file, reason) of the partitions that cannot be used: damaged, or of another length or width than their
        metadata or the others. The store lists them too.

    Raises:
        InputError: no partition that can be used, a path that stands for different embeddings, NaN or infinity.
    """
    folder = Path(folder)
    parts, skipped = open_partitions(folder)
    tables = []
    for part in list(parts):
        try:
            tables.append(_metadata(part.metadata, out))
        except InputError as error:
            skipped.append((part.metadata.name, str(error)))
            parts.remove(part)
    if not parts:
        raise InputError(skipped[0][1])
    metadata = pa.concat_tables(tables, promote_options="default")
    blocks = {modality: [part.blocks[modality] for part in parts] for modality in parts[0].blocks}
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
        writer.finish(images, captions, skipped)
    return skipped


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
    metadata = captions.drop_columns(["id", "content_hash", ANSWERS])
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


def open_partitions(folder: Path) -> tuple[list[Partition], list[tuple[str, str]]]:
    """The partitions in numeric order, and (file, reason) of those that cannot be used.

    Raises `InputError` where there are none, or none can be used.
    """
    modalities = {modality: name for modality, name in _EMBEDDINGS.items() if (folder / name).is_dir()}
    numbers = _numbers(folder, "metadata", "parquet")
    if not numbers:
        raise InputError(f"{folder}: no metadata/metadata_*.parquet; clip-retrieval writes it with the embeddings.")
    if not modalities:
        raise InputError(f"{folder}: neither img_emb/ nor text_emb/.")
    parts: list[Partition] = []
    skipped: list[tuple[str, str]] = []
    for number in numbers:
        try:
            parts.append(_partition(folder, number, modalities))
        except InputError as error:
            skipped.append((f"metadata_{number}.parquet", str(error)))
    usual = Counter(_widths(part) for part in parts).most_common(1)
    for part in [part for part in parts if _widths(part) != usual[0][0]]:
        parts.remove(part)
        skipped.append((part.metadata.name, _odd_width(part, dict(usual[0][0]))))
    for name in modalities.values():
        alone = [number for number in _numbers(folder, name, "npy") if number not in numbers]
        skipped += [(f"{name}_{number}.npy", f"no metadata_{number}.parquet belongs to it.") for number in alone]
    if not parts:
        raise InputError(skipped[0][1])
    return parts, skipped


def _numbers(folder: Path, name: str, ending: str) -> list[str]:
    """The digits in the names of one kind of files, in numeric order."""
    matches = [re.fullmatch(rf"{name}_(\d+)", path.stem) for path in folder.glob(f"{name}/*.{ending}")]
    return sorted((match[1] for match in matches if match), key=int)


def _partition(folder: Path, number: str, modalities: dict[str, str]) -> Partition:
    path = folder / "metadata" / f"metadata_{number}.parquet"
    try:
        table = ParquetTable(path)
    except DAMAGE as error:
        raise InputError(f"{path}: cannot be read as Parquet ({error}).") from None
    if "image_path" not in table.schema.names:
        raise InputError(f"{path}: no column 'image_path'; it has {', '.join(table.schema.names)}.")
    blocks = {modality: open_npy(folder / name / f"{name}_{number}.npy") for modality, name in modalities.items()}
    for block in blocks.values():
        if block.shape[0] != len(table):
            raise InputError(f"{block.path}: {block.shape[0]:,} rows, but {path.name} has {len(table):,}.")
    return Partition(folder, number, len(table), blocks)


def _widths(part: Partition) -> tuple[tuple[str, int], ...]:
    return tuple((modality, block.shape[1]) for modality, block in part.blocks.items())


def _odd_width(part: Partition, usual: dict[str, int]) -> str:
    modality, block = next((m, block) for m, block in part.blocks.items() if block.shape[1] != usual[m])
    return f"{block.path}: {modality} embeddings are {block.shape[1]} wide, those of most {usual[modality]}."


def _metadata(path: Path, out: str | Path) -> pa.Table:
    """image_path, caption and our own columns of one partition, as strings."""
    wanted = ("image_path", "caption", "caption_id", "lang", *_OURS)
    try:
        table = read_columns(path, wanted)
        if table["image_path"].null_count:
            raise InputError(f"{path}: image_path holds nulls, but it is the id of each image.")
        texts = {name: pa.large_string() if name == "caption" else pa.string() for name in wanted}
        table = pa.table({name: table[name].cast(texts[name]) for name in wanted if name in table.column_names})
    except DAMAGE as error:
        raise InputError(f"{path}: cannot be read as Parquet ({error}).") from None
    if "content_hash" not in table.column_names:
        hashes = content_hashes(out, table["image_path"].to_pylist())
        table = table.append_column("content_hash", pa.array(hashes, pa.string()))
    if not pc.all(pc.match_substring_regex(table["content_hash"], HASH_PATTERN), min_count=0).as_py():
        raise InputError(f"{path}: a content_hash is not 32 hex digits.")
    return table


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
