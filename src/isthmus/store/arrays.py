"""Import features made elsewhere, as NumPy files or arrays, into a store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from isthmus.data.matrix import as_matrix
from isthmus.errors import BadFile, InputError, UsageError
from isthmus.owned import regular
from isthmus.store.blocks import MappedArray
from isthmus.store.keys import text_hash, to_keys
from isthmus.store.manifest import is_store, read_manifest
from isthmus.store.writer import StoreWriter

CHUNK = 4096  # rows in memory at a time
Array = np.ndarray | str | Path


def import_arrays(
    out: str | Path,
    *,
    image: Array | None = None,
    text: Array | None = None,
    ids: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    image_of: Sequence[int] | None = None,
    image_model: str | None = None,
    text_model: str | None = None,
) -> None:
    """Put feature arrays into the store `out`; one that exists is extended (another encoder, or more ids).

    Args:
        image: [n, Dx] floats, an array or a .npy file (read in chunks, never as pickle). Stored in float16.
        text: [m, Dy] floats, one row per caption.
        ids: n names of the images; default "0", "1", … Features of known ids are assigned to the images in the store. A
            new id identifies its image: there is no picture to hash, so equal images are not recognised.
        captions: m texts; without them all captions count as different.
        image_of: m rows of `image`, which image each caption describes; default one each, in order.
        image_model, text_model: names of the models that made the arrays. They identify the encoders; without them, the
            arrays' content does.

    Raises:
        InputError: counts that do not match, repeated ids, NaN or infinity, or no array of floats [n, D].
        UsageError: neither array given.
    """
    if image is None and text is None:
        raise UsageError("Give `image`, `text` or both.")
    image, text = _opened(image, "image"), _opened(text, "text")
    names = _names(ids, image, text)
    owners = _owners(image_of, names, text)
    if captions is not None and text is not None:
        _same_length("captions", len(captions), "rows of text", len(text))
    images = pa.table({"id": pa.array(names, pa.string()), "content_hash": content_hashes(out, names)})
    texts = caption_table(owners, captions)
    with StoreWriter(out) as writer:
        if image is not None:
            write_rows(writer, "image", image_model, [image], images["content_hash"].to_pylist())
        if text is not None:
            write_rows(writer, "text", text_model, [text], texts["content_hash"].to_pylist())
        writer.finish(images, texts)


def open_npy(path: str | Path) -> MappedArray:
    """A .npy file of floats [n, D] as a block on disk.

    Raises:
        InputError: unreadable, truncated, pickled, or not such an array.
    """
    try:
        array = np.load(regular(path), mmap_mode="r", allow_pickle=False)
    except BadFile:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a NumPy file that can be read without pickle ({error}).") from None
    if not isinstance(array, np.memmap):
        raise InputError(f"{path}: not a single array; save one array per file with np.save.")
    check_matrix(array, path)
    if not array.flags.c_contiguous:
        raise InputError(f"{path}: stored column by column; save np.ascontiguousarray(x).")
    return MappedArray(Path(path), array.offset, (array.shape[0], array.shape[1]), array.dtype)


def check_matrix(array: np.ndarray, where: Any) -> None:
    """An `InputError` unless `array` is [n, D] of floats."""
    if array.ndim != 2 or array.dtype.kind != "f" or not array.shape[1]:
        raise InputError(f"{where}: {array.dtype} {list(array.shape)}, but features are floats [n, D].")


def content_hashes(out: str | Path, ids: Sequence[str]) -> list[str]:
    """The content hash of each image: from the store `out` if it knows the id, otherwise a hash of the id."""
    known: dict[str, str] = {}
    if is_store(Path(out)):
        images = read_manifest(Path(out)).images
        known = dict(zip(images["id"].to_pylist(), images["content_hash"].to_pylist(), strict=True))
    return [known.get(one) or id_hash(one) for one in ids]


def id_hash(id_: str) -> str:
    """A stand-in for the content hash if only the name is known."""
    return text_hash(f"id:{id_}")


def caption_table(owners: Sequence[str], captions: Sequence[str] | None) -> pa.Table:
    """The captions table for captions of the images `owners`, in order; unknown texts all differ."""
    seen: dict[str, int] = {}
    caption_ids = []
    for owner in owners:
        caption_ids.append(f"{owner}#{seen.get(owner, 0)}")
        seen[owner] = seen.get(owner, 0) + 1
    hashes = map(id_hash, caption_ids) if captions is None else map(text_hash, captions)
    return pa.table(
        {
            "caption_id": pa.array(caption_ids, pa.string()),
            "id": pa.array(owners, pa.string()),
            "caption": pa.array([None] * len(caption_ids) if captions is None else captions, pa.large_string()),
            "content_hash": pa.array(hashes, pa.string()),
        }
    )


def write_rows(
    writer: StoreWriter, modality: str, model: str | None, arrays: Sequence[np.ndarray], hashes: Sequence[str]
) -> None:
    """Write the rows of `arrays`, one after the other, as the features of the contents `hashes`."""
    record = array_record(modality, model, arrays)
    writer.add_encoder(record)
    row = 0
    for array in arrays:
        name = getattr(array, "filename", None) or f"{modality} array"
        for start, part in _chunks(array):
            keys = to_keys(hashes[row : row + len(part)])
            names = [f"{name} row {start + i}" for i in range(len(part))]
            writer.write(modality, record["fingerprint"], keys, part, names)
            row += len(part)


def array_record(modality: str, model: str | None, arrays: Sequence[np.ndarray]) -> dict[str, Any]:
    """The record of an encoder known only by its output, identified by its model's name or a hash."""
    digest = hashlib.blake2b(f"array:{modality}:{model or ''}".encode(), digest_size=32)
    if model is None:
        for array in arrays:
            for _, part in _chunks(array):
                digest.update(np.ascontiguousarray(part).tobytes())
    fingerprint = digest.hexdigest()
    width = arrays[0].shape[1]
    return {
        "modality": modality,
        "uri": f"array:{model or fingerprint[:12]}",
        "fingerprint": fingerprint,
        "width": width,
        "parts": [width],
        "licence": None,
    }


def _chunks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(array), CHUNK):
        yield start, np.asarray(array[start : start + CHUNK])


def _opened(array: Array | None, name: str) -> np.ndarray | None:
    if array is None:
        return None
    if isinstance(array, str | Path):
        return open_npy(array).map()
    array = np.asarray(as_matrix(array))
    check_matrix(array, name)
    return array


def _names(ids: Sequence[str] | None, image: np.ndarray | None, text: np.ndarray | None) -> list[str]:
    """The ids of the images; row numbers where none are given."""
    rows = image if image is not None else text
    if ids is None:
        return [str(row) for row in range(len(rows) if rows is not None else 0)]
    if image is not None:
        _same_length("ids", len(ids), "rows of image", len(image))
    return [str(one) for one in ids]


def _owners(image_of: Sequence[int] | None, names: list[str], text: np.ndarray | None) -> list[str]:
    """The id of the image that each row of `text` describes."""
    if text is None:
        return []
    if image_of is None:
        _same_length("rows of text", len(text), "images", len(names))
        return names
    _same_length("entries in image_of", len(image_of), "rows of text", len(text))
    for row, one in enumerate(image_of):
        if not 0 <= one < len(names):
            raise InputError(f"image_of: row {row} names image {one}, but there are {len(names):,} images.")
    return [names[one] for one in image_of]


def _same_length(what: str, found: int, other: str, wanted: int) -> None:
    if found != wanted:
        raise InputError(f"{found:,} {what} but {wanted:,} {other}: they must match one to one.")
