"""Opening a store: what it holds, checked; features joined to ids by content, never by order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from isthmus.data.encoder_record import EncoderRecord
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.errors import InputError, UsageError, did_you_mean
from isthmus.owned import check_owned
from isthmus.store.joining import choose_ids, choose_split, join
from isthmus.store.keys import KeyIndex, to_keys
from isthmus.store.manifest import is_store, is_unfinished, read_store_json, read_table
from isthmus.store.matrix import FeatureMatrix, Rows
from isthmus.store.shards import MODALITIES, open_shards

Which = str | Sequence[str] | None


def open_store(path: str | Path, *, verify: bool = False) -> Store:
    """Open a finished store.

    Args:
        path: its folder.
        verify: also read every shard and compare its digest (about a second per GB). The size and header of
            a shard are checked in any case, when its features are first asked for.

    Raises:
        InputError: no store, one with a link or a pipe in it, an unfinished one, another format version, or a damaged
            table (or shard, if `verify`).
    """
    root = Path(path)
    check_owned(root)
    if not is_store(root):
        unfinished = is_unfinished(root)
        remedy = "run the same `isthmus embed` again to finish it" if unfinished else "`isthmus embed` makes one"
        raise InputError(f"{root}: {'an unfinished store' if unfinished else 'not a store (no store.json)'}; {remedy}.")
    store = Store(root, read_store_json(root))
    if verify:
        for record in store.encoders:
            for shard in open_shards(root, record):
                shard.verify()
    return store


class Store:
    """A finished store, read-only. Made by `open_store`.

    path: its folder. encoders: the records of its encoders (modality, uri, fingerprint, width, parts, …).
    """

    def __init__(self, path: Path, described: dict[str, Any]) -> None:
        self.path = path
        self.encoders: list[EncoderRecord] = described["encoders"]
        self._described = described
        self.images  # noqa: B018 — a damaged table is told now, not in the middle of a run

    def __len__(self) -> int:
        return self.images.num_rows

    def __repr__(self) -> str:
        names = ", ".join(record["uri"] for record in self.encoders)
        return f"Store({str(self.path)!r}, {len(self):,} images, {self.captions.num_rows:,} captions; {names})"

    @cached_property
    def images(self) -> pa.Table:
        """id, content_hash, group, split, label, signature; one row per image."""
        return read_table(self.path, "images", self._described)

    @cached_property
    def captions(self) -> pa.Table:
        """caption_id, id (of its image), caption, lang, content_hash; one row per caption."""
        return read_table(self.path, "captions", self._described)

    @cached_property
    def skipped(self) -> pa.Table:
        """id and reason of every image that could not be used."""
        return read_table(self.path, "skipped", self._described)

    def features(self, modality: str, which: Which = None, *, partial: bool = False) -> FeatureMatrix:
        """The features of `images` (modality "image") or `captions` ("text"), row by row.

        Args:
            which: the encoder, by URI or by the first digits of its fingerprint; several stand side by side,
                left to right. None where the store holds only one of this modality.
            partial: let rows without features be; they are an `InputError` only when they are asked for.

        Raises:
            UsageError: no such encoder, or none named where there are several.
            InputError: a damaged or foreign shard, or contents without features (an interrupted run).
        """
        records = self._choose(modality, which)
        table = self.images if modality == "image" else self.captions
        keys = to_keys(table["content_hash"].to_pylist())
        return FeatureMatrix([self._member(record, keys, partial) for record in records], records)

    def pairs(
        self,
        split: str | None = None,
        image: Which = None,
        text: Which = None,
        only: str | Path | Sequence[str] | None = None,
        seed: int = 0,
    ) -> FeaturePairs:
        """Images, their captions and both features, as training and evaluation take them.

        Args:
            split: "train", "val", "test" (or a name in the `split` column); None takes all.
            image, text: which encoders, as for `features`.
            only: ids to keep, as a list or a Parquet file with an `id` column.
            seed: of the validation split where the `split` column names none.

        Raises:
            UsageError: as `features`, or a split that does not exist.
            InputError: as `features`, or no image left.
        """
        pairs = join(self.path, self.images, self.captions, self.features("image", image), self.features("text", text))
        if split is not None:
            pairs = choose_split(pairs, split, seed)
        return pairs if only is None else choose_ids(pairs, only)

    def _choose(self, modality: str, which: Which) -> list[EncoderRecord]:
        if modality not in MODALITIES:
            raise UsageError(f"Unknown modality {modality!r}." + did_you_mean(modality, MODALITIES))
        records = [record for record in self.encoders if record["modality"] == modality]
        if not records:
            raise UsageError(f"{self.path}: holds no {modality} encoder.")
        if which is None:
            if len(records) > 1:
                raise UsageError(f"{self.path}: holds several {modality} encoders; name one: {_listed(records)}.")
            return records
        names = [which] if isinstance(which, str) else which
        return [self._find(name, modality, records) for name in names]

    def _find(self, name: str, modality: str, records: list[EncoderRecord]) -> EncoderRecord:
        by_uri = [record for record in records if record["uri"] == name]
        found = by_uri or [record for record in records if len(name) >= 6 and record["fingerprint"].startswith(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"{self.path}: {name!r} names several {modality} encoders: {_listed(found)}.")
        hint = did_you_mean(name, [record["uri"] for record in records])
        raise UsageError(f"{self.path}: holds no {modality} encoder {name!r}.{hint}")

    def _member(self, record: EncoderRecord, keys: np.ndarray, partial: bool) -> tuple[Rows, np.ndarray]:
        """An encoder's rows on disk, and which of them stands for each of `keys` (−1: none, if `partial`)."""
        shards = open_shards(self.path, record)
        held = [shard.keys() for shard in shards]
        where = KeyIndex(np.concatenate(held) if held else np.empty((0, 16), np.uint8)).find(keys)
        missing = int((where < 0).sum())
        if missing and not partial:
            raise InputError(
                f"{self.path}: features by {record['uri']} are missing for {missing:,} of {len(keys):,} "
                f"{record['modality']} rows. Run the same `isthmus embed` again: it computes only these."
            )
        return Rows([shard.features for shard in shards]), where


def _listed(records: list[EncoderRecord]) -> str:
    return ", ".join(f"{record['uri']} ({record['fingerprint'][:12]})" for record in records)
