"""Writing a store: append features as they are computed, survive a kill at any point, publish at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isthmus.data.feature_pairs import SIDES
from isthmus.data.matrix import LARGEST
from isthmus.data.ragged import Ragged
from isthmus.errors import InputError, IsthmusError
from isthmus.files import tidy
from isthmus.locking import LOCK, alone
from isthmus.modality import Modality
from isthmus.owned import check_owned
from isthmus.store.journal import Journal, Row, noted_as, recall, signed
from isthmus.store.keys import as_bytes, to_hashes, to_keys
from isthmus.store.manifest import Manifest, check_modality, check_record, commit, is_store, read_manifest
from isthmus.store.merging import merge, sample_ids
from isthmus.store.stream import Stream, stream_of

BUFFER_BYTES = 512 * 2**20  # over all encoders of a run


class StoreWriter:
    """Writes one store; a context manager. A new folder becomes a store, an existing store is extended.

    Everything is keyed by content, and a row whose key the store already holds is not written again. To resume an
    interrupted run, repeat it; `known` (features) and `recall` (images) say what is done. Readers see nothing of a run
    until `finish`. Keys that are done are held in memory (about 100 bytes each).

    Raises on entry:
        InputError: another process is writing this store, or the folder holds something else, or a link.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._alone = ExitStack()
        self._streams: dict[tuple[str, str], Stream] = {}

    def __enter__(self) -> StoreWriter:
        if self.path.is_dir() and not _may_write(self.path):
            raise InputError(f"{self.path}: the folder is not empty and is not a store; choose another for the store.")
        check_owned(self.path)
        self._alone.enter_context(alone(self.path, "writing this store"))
        try:
            tidy(self.path, "**/")
            self._manifest = read_manifest(self.path) if is_store(self.path) else Manifest()
            self._journal = Journal(self.path)
            self._recalled = _recalled(self._manifest, self._journal)
        except BaseException:
            self._alone.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.flush()  # also after an error or Ctrl-C, so that computed features are kept
        except (OSError, IsthmusError):
            if error is None:
                raise
        finally:
            self._alone.close()

    def add_encoder(self, record: dict[str, Any]) -> None:
        """Announce an encoder of this run.

        Args:
            record: modality, uri, fingerprint (64 hex digits), width, parts (widths that sum to it), and
                whatever else shall stand in `store.json`. With pool "states" it gives the states of a layer,
                `width` wide each; "stored": "int8" then keeps them in int8.

        Raises:
            InputError: a field is missing or malformed, or the store holds another encoder under the same
                first 12 digits of the fingerprint, or shards of another encoder in this one's folder.
        """
        check_record(record, self.path)
        owner = (record["modality"], record["fingerprint"])
        for other in [*self._manifest.encoders, *self._journal.encoders()]:
            same_folder = (other["modality"], other["fingerprint"][:12]) == (owner[0], owner[1][:12])
            if same_folder and (other["fingerprint"], other["width"]) != (owner[1], record["width"]):
                raise InputError(
                    f"{self.path}: {record['uri']} ({owner[1]}, width {record['width']}) would share "
                    f"its folder with {other['uri']} ({other['fingerprint']}, width {other['width']}). "
                    "Use another store."
                )
        if owner not in self._streams:
            self._streams[owner] = stream_of(self.path, record)
        started = {(r["modality"], r["fingerprint"]): r for r in self._journal.encoders()}
        self._journal.save_encoders(list({**started, owner: record}.values()))

    @property
    def tables(self) -> dict[Modality, pa.Table]:
        """What earlier runs stored, by modality: the images, the captions, the items of further ones."""
        return {modality: self._manifest.table(modality) for modality in self._manifest.modalities()}

    def fingerprints(self, modality: str) -> list[str]:
        """Fingerprints of the encoders of which the store, or an unfinished run, has features."""
        records = [*self._manifest.encoders, *self._journal.encoders()]
        return [record["fingerprint"] for record in records if record["modality"] == modality]

    def known(self, modality: str, fingerprint: str) -> set[bytes]:
        """The keys (16 bytes each) whose features by this encoder are done. Live: do not change it."""
        return self._stream(modality, fingerprint).known

    def recall(self, ids: Sequence[str], signatures: Sequence[str | None], modality: Modality = SIDES[0]) -> pa.Table:
        """Hashes or reasons of images whose signature has not changed, so that they need not be read again.

        Returns:
            content_hash and reason, one row per id; both null where the image must be read.
        """
        return recall(self._recalled, [noted_as(modality, id) for id in ids], signatures)

    def record_images(self, rows: Iterable[Row], modality: Modality = SIDES[0]) -> None:
        """Note images just read, or items of another modality: (id, content_hash or None, reason if skipped or None,
        signature or None).
        """
        self._journal.add([(noted_as(modality, id), *told) for id, *told in rows])  # type: ignore[misc]

    def write(
        self,
        modality: str,
        fingerprint: str,
        keys: np.ndarray,
        features: np.ndarray | Ragged,
        names: Sequence[str] | None = None,
    ) -> None:
        """Add features [n, D], or the states of n items, of the contents `keys` (uint8 [n, 16]).

        Keys that are done are ignored. Rows wait in memory until a shard is full (64 MiB) or `flush` is called.

        Args:
            names: the name of each row in errors; default: the image's id if it was recorded, otherwise its hash.

        Raises:
            InputError: a width that is not the encoder's, NaN or infinity (the ids are named), or a full
                disk.
        """
        stream = self._stream(modality, fingerprint)
        keys = np.asarray(keys, np.uint8)
        features = stream.checked(keys, features)
        bad = stream.unusable(features)
        if len(bad):
            some = bad[:5]
            first = [names[row] for row in some] if names else self._journal.names(to_hashes(keys[some]))
            listed = ", ".join(first) + (", …" if len(bad) > len(first) else "")
            raise InputError(
                f"{stream.record['uri']}: NaN or infinity (or values beyond {LARGEST:.0e}) in the features of "
                f"{len(bad):,} of {len(features):,} items: {listed}. None of these was stored."
            )
        stream.add(keys, features)
        if sum(other.buffered for other in self._streams.values()) > BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write everything buffered in memory to disk."""
        self._journal.flush()
        for stream in self._streams.values():
            stream.flush()

    def finish(
        self,
        images: pa.Table,
        captions: pa.Table,
        skipped: Iterable[tuple[str, str]] = (),
        others: Mapping[str, pa.Table] | None = None,
    ) -> None:
        """Publish the run: merge its tables into the store's, all or nothing, and drop the journal.

        For an id that the store already holds, this run's image and captions replace the old ones.

        Args:
            images: id, content_hash; optional group, split, label, signature (default: as recorded).
            captions: caption_id, id, caption; optional lang, and content_hash (default: hash of the caption).
            skipped: (id, reason).
            others: by modality, the items of further ones: item_id, id (of the sample that they are of, as images
                and captions), content_hash; optional group, split, label, signature.

        Raises:
            InputError: a repeated id, a caption without its image, features of this run's encoders missing,
                or ids that stand for other samples in the store (another image and other captions).
        """
        self.flush()
        known = _recalled(self._manifest, self._journal)
        images = signed(images, known, SIDES[0])
        for modality in others or {}:
            check_modality(modality, self.path)
        others = {modality: signed(table, known, modality) for modality, table in (others or {}).items()}
        merged = merge(self._manifest, images, captions, skipped, others)
        self._check_complete(sample_ids(images, others), merged)
        records = {(r["modality"], r["fingerprint"]): r for r in merged.encoders}
        records |= {owner: stream.record for owner, stream in self._streams.items()}
        merged.encoders = list(records.values())
        commit(self.path, merged)
        self._manifest = merged
        self._journal.remove()

    def _stream(self, modality: str, fingerprint: str) -> Stream:
        try:
            return self._streams[modality, fingerprint]
        except KeyError:
            raise InputError(f"{modality} encoder {fingerprint[:12]}: call `add_encoder` first.") from None

    def _check_complete(self, ids: pa.ChunkedArray, merged: Manifest) -> None:
        """Every item of this run's samples must have its features by every encoder of this run."""
        for stream in self._streams.values():
            table = merged.table(stream.record["modality"])
            table = table.filter(pc.is_in(table["id"], value_set=ids))
            keys = as_bytes(to_keys(table["content_hash"].to_pylist()))
            missing = sum(key not in stream.known for key in keys)
            if missing:
                raise InputError(
                    f"{self.path}: features by {stream.record['uri']} are missing for {missing:,} of "
                    f"{len(keys):,} rows."
                )


def _may_write(root: Path) -> bool:
    """A store, an unfinished one, or an empty folder."""
    found = {path.name for path in root.iterdir()} - {LOCK}
    return not found or bool(found & {"store.json", "pending", "journal", "features"})


def _recalled(manifest: Manifest, journal: Journal) -> pa.Table:
    """What finished runs (the table) and an unfinished one (the journal) know of each image."""
    finished = [manifest.images.select(["id", "content_hash", "signature"])]
    for modality, table in manifest.others.items():
        ids = pa.array([noted_as(modality, id) for id in table["item_id"].to_pylist()], pa.string())
        finished.append(table.select(["content_hash", "signature"]).add_column(0, "id", ids))
    return pa.concat_tables([*finished, journal.rows()], promote_options="default")
