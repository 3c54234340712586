"""`build_index`: read what is there, encode what is new, and publish all of it at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from isthmus.data.columns import Columns
from isthmus.data.images import MAX_PIXELS
from isthmus.data.pairs import Pairs
from isthmus.data.tables import Frame
from isthmus.errors import InputError, IsthmusError, UsageError
from isthmus.files import atomic_path
from isthmus.index.calibration import calibrate_segments, fit_null, recall_told
from isthmus.index.compaction import compacted
from isthmus.index.encoding import PicturedPairs, PictureEncoder, known_contents
from isthmus.index.identity import model_fingerprint
from isthmus.index.items import ITEM_SCHEMA, Merged, identities, merge_items, place_items, read_items, write_items
from isthmus.index.layout import INDEX_JSON, WORK, IndexRecord, KeptFile, commit_record, read_record, sweep
from isthmus.index.reader import ImageIndex, open_index
from isthmus.index.segments import Segment, write_segment
from isthmus.index.sources import IndexSource, read_sources, scanned_items
from isthmus.index.stored import StoredEncoder
from isthmus.index.text_graph import sound_text_graph, write_text_graph
from isthmus.index.work import IndexWork
from isthmus.locking import LOCK, alone
from isthmus.models.dual_encoder import DualEncoder
from isthmus.owned import check_owned
from isthmus.progress import progress_bar
from isthmus.store import Store, open_store
from isthmus.store.keys import KeyIndex, as_bytes, to_keys

MOST_REMOVED = 0.1  # share of the pictures that may be removed at once without `remove_many`
THUMBNAIL = 192  # pixels of the longer side


@dataclass
class IndexReport:
    """What a run did: counts of pictures, of those that are distinct, newly encoded, found elsewhere than before, no
    longer there, removed; what was skipped and why, remarks, and what is found where search is not exact.
    """

    index: str
    pictures: int = 0
    distinct: int = 0
    encoded: int = 0
    moved: int = 0
    missing: int = 0
    removed: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    recall: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        told = [f"{self.pictures:,} pictures", f"{self.distinct:,} of them distinct", f"{self.encoded:,} newly encoded"]
        told += [f"{count:,} {what}" for what, count in (("moved", self.moved), ("removed", self.removed)) if count]
        told += [f"{self.missing:,} missing (kept; --remove-missing removes them)"] if self.missing else []
        first = f"{self.index}: {', '.join(told)}; {len(self.skipped):,} skipped."
        return "\n".join([first, *self.recall])

    def to_dict(self) -> dict[str, Any]:
        """As `isthmus index --json` writes it."""
        return {**vars(self), "skipped": dict(self.skipped)}


def build_index(
    model: DualEncoder | str | Path,
    images: Pairs | Frame | str | Path | Sequence[Any] = (),
    *,
    out: str | Path,
    store: Store | str | Path | None = None,
    thumbnails: int = THUMBNAIL,
    remove_missing: bool = False,
    remove_many: bool = False,
    compact: bool = False,
    text_graph: bool = False,
    batch_size: int | None = None,
    precision: str = "auto",
    max_skip: float = 0.01,
    max_pixels: int = MAX_PIXELS,
    device: str | None = None,
    trust_remote_code: bool = False,
    progress: bool | None = None,
    columns: str | Columns | None = None,
    image_folder: str | Path | None = None,
    split: str | None = None,
    pages: str | int | None = None,
    range: str | Sequence[float] | None = None,
) -> ImageIndex:
    """Encode pictures once into an index that `search` answers from, or bring one up to date.

    Use this when a folder is searched more than once. Call it again when the pictures have changed: it reads files that
    are new or changed, encodes contents that it has not met, and knows files that were moved or renamed by their
    content. A killed run goes on where it was.

        >>> index = ist.build_index("model/", ["photos/", "scans.csv"], out="photos.index/")
        >>> ist.search("model/", "photos.index/", "a red bicycle").hits[0]["id"]

    Args:
        model: a `DualEncoder`, its folder, or the URI of a pretrained one; later always the same.
        images: folders, tables, whatever `read_pairs` reads (captions are not needed), one or several. None: those that
            the index was made of.
        out: the index's folder; made or brought up to date.
        store: one with features of these pictures by the model's encoders: what it holds is not encoded again.
        thumbnails: longer side, in pixels, of the small pictures that are kept; 0: none.
        remove_missing: remove pictures that are no longer there, which are otherwise kept, as on a disk that is not
            plugged in. remove_many: also more than a tenth of them.
        compact: write all anew as one block without what was removed, which otherwise happens now and then.
        text_graph: also keep the model's text side as a graph of ONNX, as `isthmus index` does: a new process then
            answers a text without loading torch. Takes some 15 seconds once, the size of the text encoder, and the
            packages of `isthmus[index]`; where it cannot be made, a note says why.
        batch_size, precision, max_skip, max_pixels: as for `embed`.
        device, trust_remote_code: for loading a model that is given by its folder or URI.
        progress: bars; None: in a notebook alone.
        columns, image_folder, split, pages, range: how pairs are read, as in `read_pairs`.

    Returns:
        The open index; its `report` says what was done.

    Raises:
        InputError: an index of another model, more than a tenth of the pictures to remove, more than `max_skip` of
            them skipped (the rest is in the index), or no pictures at all.
        UsageError: a model that takes no images.
    """
    root = Path(out)
    before = _before(root)
    named = images if not _nothing(images) else (before.sources if before else [])
    if _nothing(named) or thumbnails < 0:
        raise UsageError(f"{root}: name the pictures to index, and thumbnails of 0 pixels or more.")
    if isinstance(model, str | Path):
        loading: dict[str, Any] = {"device": device, "trust_remote_code": trust_remote_code}
        name, model = str(model), DualEncoder.from_pretrained(model, **loading)
    else:
        name = "in memory"
    reading = {"columns": columns, "images": image_folder, "split": split, "pages": pages, "range": range}
    sources = read_sources(named, max_pixels=max_pixels, **reading)
    with alone(root, "writing this index"):
        run = _IndexRun(root, model, name, progress)
        with run.work:
            own = PictureEncoder(model, sources[0].pairs, precision, batch_size)
            if isinstance(store, str | Path):
                store = open_store(store)
            run.scan(sources, StoredEncoder(model, store, own) if store is not None else own, thumbnails)
            run.publish(remove_missing, remove_many, compact, text_graph)
    _check_skipped(run.report, max_skip)
    found = open_index(root)
    found.report = run.report
    return found


def _nothing(images: Any) -> bool:
    return isinstance(images, list | tuple) and not images


def _before(root: Path) -> IndexRecord | None:
    """The index that is there. Raises `InputError` for a folder that holds something else."""
    if (root / INDEX_JSON).is_file():
        return read_record(root)
    strange = {path.name for path in root.iterdir()} - {LOCK, WORK, "segments"} if root.is_dir() else set()
    if any(not name.startswith((".tmp-", "items-", "removed-", "text-")) for name in strange):
        raise InputError(f"{root}: the folder is not empty and is not an index; choose another for the index.")
    return None


class _IndexRun:
    """One run of `build_index`, under the index's lock."""

    def __init__(self, root: Path, model: DualEncoder, name: str, progress: bool | None) -> None:
        check_owned(root)
        self.root, self.model, self.progress = root, model, progress
        fingerprint = model_fingerprint(model)
        self.before = _before(root)
        if self.before is not None and self.before.model["fingerprint"] != fingerprint:
            raise InputError(
                f"{root}: an index of another model ({self.before.model['path']}), whose embeddings do not compare "
                "with this one's. Choose another folder, or remove this one."
            )
        sweep(root, self.before)
        self.record = self.before or IndexRecord({"path": name, "fingerprint": fingerprint}, model.width)
        self.segments = [Segment(root, one, model.width) for one in self.record.segments]
        self.old = ITEM_SCHEMA.empty_table()
        if self.record.items is not None:
            self.old = read_items(self.record.items.check(root))
        finished = pa.table([identities(self.old), self.old["content_hash"], self.old["signature"]], _KNOWN)
        self.work = IndexWork(root, finished, fingerprint, model.width)
        self.scanned: list[pa.Table] = []
        self.names: list[str] = []
        self.report = IndexReport(str(root))

    def scan(self, sources: list[IndexSource], encoder: PictureEncoder | StoredEncoder, thumbnails: int) -> None:
        """Read the sources, and encode what neither the index nor the unfinished run has."""
        known = {key for segment in self.segments for key in as_bytes(segment.keys)} | self.work.done()
        for source in sources:
            contents = known_contents(source.pairs, self.work, source.name, self.progress)
            pairs = PicturedPairs(source.pairs, contents.hashes, thumbnails)
            with progress_bar(self.progress, desc="encoding", total=len(pairs), unit="it") as bar:
                self.report.encoded += encoder.encode(contents, pairs, known, self.work, bar.update)
            known |= self.work.done()
            self.scanned.append(scanned_items(source, contents))
            self.names.append(source.name)
            self.report.skipped += [*source.pairs.skipped, *contents.skipped]
            self.report.notes += source.pairs.notes

    def publish(self, remove_missing: bool, remove_many: bool, compact: bool, text_graph: bool) -> None:
        """Join what was scanned with what was there, write it, and name it in `index.json`."""
        merged = merge_items(self.old, pa.concat_tables(self.scanned), self.names)
        items = self._kept(merged, remove_missing, remove_many)
        if not len(items):
            first = f"; the first: {': '.join(self.report.skipped[0])}" if self.report.skipped else ""
            raise InputError(f"{self.root}: none of the pictures can be used{first}.")
        self._append()
        wanted = KeyIndex(to_keys(items["content_hash"].to_pylist()))
        there = [wanted.find(segment.keys) >= 0 for segment in self.segments]
        self.segments = compacted(self.root, self.segments, there, force=compact)
        items = place_items(items, np.concatenate([segment.keys for segment in self.segments]))
        rows = np.zeros(sum(map(len, self.segments)), bool)
        rows[items["row"].to_numpy()] = True
        self.report.pictures, self.report.distinct = len(items), int(rows.sum())
        self.report.notes += calibrate_segments(self.root, self.model, self.segments, items)
        self.report.recall = recall_told(self.segments)
        self.record = IndexRecord(
            self.record.model,
            self.model.width,
            [segment.record for segment in self.segments],
            write_items(self.root, items),
            _write_removed(self.root, np.flatnonzero(~rows)),
            sorted({*self.record.sources, *self.names}),
            fit_null(self.model, self.segments, rows, items),
            self._text_graph(text_graph),
        )
        commit_record(self.root, self.record)
        self.work.remove()

    def _kept(self, merged: Merged, remove_missing: bool, remove_many: bool) -> pa.Table:
        """The items without missing ones, if these are to be removed and there are not too many."""
        self.report.moved, self.report.missing = merged.moved, merged.gone
        if not remove_missing or not merged.gone:
            return merged.items
        if merged.gone > MOST_REMOVED * len(merged.items) and not remove_many:
            raise InputError(
                f"{self.root}: {merged.gone:,} of {len(merged.items):,} pictures are missing, more than a tenth. If "
                "that is so, and no disk is unplugged, add --remove-many (remove_many=True). Nothing was removed."
            )
        self.report.removed, self.report.missing = merged.gone, 0
        there = pa.array([not gone for gone in merged.items["missing"].to_pylist()])
        return merged.items.filter(there)

    def _text_graph(self, wanted: bool) -> dict[str, KeptFile] | None:
        """The one that is there, or where it is wanted a new one."""
        if sound_text_graph(self.root, self.record.text):
            return self.record.text
        try:
            return write_text_graph(self.root, self.model) if wanted else None
        except IsthmusError as error:
            self.report.notes.append(f"A new process loads the whole text encoder for a text: {error}")
            return None

    def _append(self) -> None:
        """What was encoded as another segment."""
        if rows := self.work.rows:
            record = write_segment(self.root, rows, self.model.width, self.work.parts())
            self.segments.append(Segment(self.root, record, self.model.width))


_KNOWN = ["id", "content_hash", "signature"]


def _write_removed(root: Path, rows: np.ndarray) -> KeptFile | None:
    if not len(rows):
        return None
    path = root / f"removed-{hashlib.blake2b(rows.tobytes(), digest_size=8).hexdigest()}.npy"
    with atomic_path(path) as aside, open(aside, "wb") as file:
        np.save(file, rows)
    return KeptFile.of(root, path)


def _check_skipped(report: IndexReport, max_skip: float) -> None:
    total = report.pictures + len(report.skipped)
    if len(report.skipped) > max_skip * total:
        raise InputError(
            f"{len(report.skipped):,} of {total:,} pictures were skipped, more than the {max_skip:.1%} of max_skip "
            f"(--max-skip). The index holds the rest; the first: {': '.join(report.skipped[0])}"
        )
