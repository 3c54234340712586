"""`encode`: files of pictures or texts as embeddings, each row with the id that it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from isthmus.data.frames import as_csv, as_pandas
from isthmus.data.images import EXTENSIONS
from isthmus.data.pairs import Pairs, pairs_from_lists, read_pairs
from isthmus.data.tables import Frame
from isthmus.data.text import read_lines
from isthmus.errors import InputError, UsageError
from isthmus.evaluation.inputs import embed_for_evaluation
from isthmus.files import write_atomic
from isthmus.models.dual_encoder import DualEncoder

TEXT_FILES = (".txt",)
FORMATS = (".npy", ".parquet")
Encodable = Pairs | Frame | Sequence[Any] | str | Path


@dataclass
class Embeddings:
    """What `encode` found: embeddings float32 [n, d], L2-normalised, and what row by row they are of.

    ids: of pictures as `read_pairs` names them (their paths); of captions `id#k`; of the lines of a file their numbers.
    texts: where texts were encoded. skipped: (id, reason) of what has no row. notes: remarks on the data.
    """

    ids: list[str]
    embeddings: np.ndarray = field(repr=False)
    texts: list[str] | None = field(default=None, repr=False)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list, repr=False)

    @property
    def named(self) -> pa.Table:
        """id and, of texts, text: a row for each embedding."""
        columns = {"id": pa.array(self.ids, pa.string())}
        return pa.table(columns if self.texts is None else columns | {"text": pa.array(self.texts, pa.string())})

    @property
    def table(self) -> pa.Table:
        """`named` with the column `embedding`, lists of d float32."""
        flat = pa.array(np.ascontiguousarray(self.embeddings).reshape(-1))
        return self.named.append_column("embedding", pa.FixedSizeListArray.from_arrays(flat, self.embeddings.shape[1]))

    def to_pandas(self) -> Any:
        """`table` as a pandas data frame."""
        return as_pandas(self.table)

    def save(self, path: str | Path) -> list[Path]:
        """Write `.parquet` (`table`), or `.npy` with a `.csv` of ids beside it; and what was skipped, where there is
        any, into `.skipped.csv`. Returns the files. Raises `UsageError` for another ending.
        """
        path = check_out(path)
        if path.suffix == ".parquet":
            write_atomic(path, lambda aside: pq.write_table(self.table, aside))
            written = [path]
        else:
            written = [path, path.with_suffix(".csv")]
            _write_csv(written[1], self.named)
            write_atomic(path, lambda aside: _save_array(aside, self.embeddings))
        lacking = path.with_suffix(".skipped.csv")
        if self.skipped:
            ids, reasons = map(list, zip(*self.skipped, strict=True))
            rows = pa.table({"id": pa.array(ids, pa.string()), "reason": pa.array(reasons, pa.string())})
            _write_csv(lacking, rows)
            return [*written, lacking]
        lacking.unlink(missing_ok=True)  # of a run before, whose files these replace
        return written


def encode(
    model: DualEncoder | str | Path,
    data: Encodable,
    *,
    captions: bool = False,
    out: str | Path | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Embeddings:
    """Embed pictures or texts, and keep the id of each row beside it.

    Use this when another program is to search or cluster the embeddings. For a handful in memory,
    `model.encode_image` and `model.encode_text`; to search, `search`.

        >>> found = ist.encode("model/", "photos/", out="photos.parquet")
        >>> found.embeddings.shape, found.ids[0], found.skipped

    Args:
        model: a `DualEncoder`, its folder, or the URI of a pretrained one.
        data: pictures, as `read_pairs` takes them (a folder, a table, a list) or one image file; or texts, a `.txt`
            file with one a line.
        captions: encode the captions of a table in place of its pictures.
        out: also write the result there, see `Embeddings.save`.
        device, trust_remote_code: for loading a model that is given by its folder or URI.

    A picture that cannot be read, and an empty line, have no row and are listed in `skipped`; no other row moves.

    Raises:
        UsageError: an `out` that is neither `.npy` nor `.parquet`, before anything is encoded.
        InputError: data that cannot be used, or of which nothing can be read.
    """
    if out is not None:
        check_out(out)
    pairs = None if is_texts(data) else picture_pairs(data, captions="required" if captions else "optional")
    if isinstance(model, str | Path):
        model = DualEncoder.from_pretrained(model, device=device, trust_remote_code=trust_remote_code)
    if pairs is None:
        found = _lines(model, Path(data))  # type: ignore[arg-type]
    elif captions:
        ids, texts = (pairs.captions[name].to_pylist() for name in ("caption_id", "caption"))
        found = Embeddings(ids, model.encode_text(texts), texts, list(pairs.skipped), pairs.notes)
    else:
        found = encode_pictures(model, pairs)
    if out is not None:
        found.save(out)
    return found


def encode_pictures(model: DualEncoder, pairs: Pairs) -> Embeddings:
    """The pictures of `pairs`; those that cannot be read are listed."""
    embedded = embed_for_evaluation(model, pairs.having(pairs.images, pairs.captions.slice(0, 0)))
    return Embeddings(embedded.image_ids, embedded.image, None, embedded.skipped, embedded.notes)


def picture_pairs(data: Encodable, **reading: Any) -> Pairs:
    """`data` as pairs; a path may also be that of one image file."""
    if isinstance(data, Pairs):
        return data
    if isinstance(data, str | Path) and str(data).lower().endswith(EXTENSIONS) and Path(data).is_file():
        return pairs_from_lists([data])
    return read_pairs(data, **reading)


def is_texts(data: object) -> bool:
    """Whether this is a file of texts, one a line."""
    return isinstance(data, str | Path) and Path(data).suffix.lower() in TEXT_FILES


def check_out(path: str | Path) -> Path:
    """`path`. Raises `UsageError` for an ending other than `.npy` and `.parquet`."""
    if Path(path).suffix not in FORMATS:
        raise UsageError(f"{path}: embeddings are written as {' or '.join(FORMATS)}.")
    return Path(path)


def _lines(model: DualEncoder, path: Path) -> Embeddings:
    """The lines of a file by their numbers, from 1; blank ones are listed."""
    numbered = {str(number): line for number, line in enumerate(read_lines(path), 1)}
    kept = {number: line for number, line in numbered.items() if line}
    if not kept:
        raise InputError(f"{path}: holds no text; write one a line.")
    skipped = [(number, "an empty line") for number in numbered if number not in kept]
    texts = list(kept.values())
    return Embeddings(list(kept), model.encode_text(texts), texts, skipped)


def _write_csv(path: Path, table: pa.Table) -> None:
    write_atomic(path, lambda aside: aside.write_text(as_csv(table), encoding="utf-8"))


def _save_array(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:  # np.save would add an ending to the temporary name
        np.save(file, array, allow_pickle=False)
