"""Opening a store: its contents are checked, and features are joined to ids by content, not by order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from isthmus.data.encoder_record import EncoderRecord
from isthmus.data.feature_pairs import SIDES, FeaturePairs
from isthmus.data.frames import by_caption
from isthmus.errors import InputError, UsageError, did_you_mean
from isthmus.modality import FIRST, table_of
from isthmus.owned import check_owned
from isthmus.report.notebook import rows
from isthmus.store.joining import choose_ids, choose_split, join
from isthmus.store.keys import KeyIndex, to_keys
from isthmus.store.manifest import SCHEMAS, is_store, is_unfinished, other_tables, read_store_json, read_table
from isthmus.store.matrix import FeatureMatrix, Rows
from isthmus.store.shards import AnyShard, Shard, holds_states, open_shards
from isthmus.store.states import NumberedRows, StatesMatrix, backbone_uri

Which = str | Sequence[str] | None


def open_store(path: str | Path, *, verify: bool = False) -> Store:
    """Open a finished store.

    Args:
        path: its folder.
        verify: also read every shard and compare its digest (about a second per GB). The size and header of
            a shard are checked in any case, when its features are first used.

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
        self._others: dict[str, pa.Table] = {}
        self.images  # noqa: B018 — a damaged table is reported now, not in the middle of a run

    def __len__(self) -> int:
        return self.images.num_rows

    def __repr__(self) -> str:
        names = ", ".join(record["uri"] for record in self.encoders)
        return f"Store({str(self.path)!r}, {len(self):,} images, {self.captions.num_rows:,} captions; {names})"

    def _repr_html_(self) -> str:
        """What it holds, and its encoders in a table, in a notebook."""
        named = [
            (one.get("modality", ""), one["uri"], one.get("width", ""), one.get("licence")) for one in self.encoders
        ]
        counts = f"{len(self):,} images, {self.captions.num_rows:,} captions, {self.skipped.num_rows:,} skipped"
        return f"<p>{escape(f'{self.path}: {counts}')}</p>" + rows(["modality", "encoder", "width", "licence"], named)

    def to_pandas(self) -> Any:
        """A pandas data frame with a row per caption: id, caption, lang, split, label, group."""
        return by_caption(self.images, self.captions)

    @cached_property
    def images(self) -> pa.Table:
        """id, content_hash, group, split, label, signature; one row per image."""
        return read_table(self.path, "images", self._described)

    @cached_property
    def captions(self) -> pa.Table:
        """caption_id, id (of its image), caption, lang, content_hash, answers; one row per caption."""
        return read_table(self.path, "captions", self._described)

    @cached_property
    def skipped(self) -> pa.Table:
        """id and reason of every image that could not be used."""
        return read_table(self.path, "skipped", self._described)

    @cached_property
    def modalities(self) -> list[str]:
        """The modalities of items in the store: image, text, and others that have a table."""
        return [*FIRST, *other_tables(self._described)]

    def table(self, modality: str) -> pa.Table:
        """The items of a modality: `images`, `captions`, or item_id, id, content_hash, group, split, label, signature.

        Raises `UsageError` for a modality that the store does not have.
        """
        if modality not in self.modalities:
            raise UsageError(f"{self.path}: no modality {modality!r}." + did_you_mean(modality, self.modalities))
        if (name := table_of(modality)) in SCHEMAS:
            return getattr(self, name)
        if modality not in self._others:
            self._others[modality] = read_table(self.path, modality, self._described)
        return self._others[modality]

    def tables(self, modalities: tuple[str, str] = SIDES) -> dict[str, pa.Table]:
        """The tables of all modalities, those of a pair first: as `isthmus.store.joining.join` takes them."""
        return {name: self.table(name) for name in dict.fromkeys((*modalities, *self.modalities))}

    def pooled(self, modality: str) -> list[EncoderRecord]:
        """The encoders of a modality with pooled features: all but those of states."""
        return [one for one in self.encoders if one["modality"] == modality and not holds_states(one)]

    def features(self, modality: str, which: Which = None, *, partial: bool = False) -> FeatureMatrix:
        """The features of `table(modality)`, row by row: of `images` (modality "image"), `captions` ("text"), …

        Args:
            which: the encoder, by URI or by the first digits of its fingerprint; several stand side by side,
                left to right. None if the store holds only one of this modality.
            partial: allow rows without features; they are an `InputError` only when they are read.

        Raises:
            UsageError: no such encoder, or none named although there are several.
            InputError: a damaged or foreign shard, or contents without features (an interrupted run).
        """
        keys = to_keys(self.table(modality)["content_hash"].to_pylist())
        records = self._choose(modality, which)
        members = [self._located(record, keys, partial) for record in records]
        blocks = [[shard.features for shard in shards if isinstance(shard, Shard)] for shards, _ in members]
        return FeatureMatrix([(Rows(some), where) for some, (_, where) in zip(blocks, members, strict=True)], records)

    def states(
        self,
        modality: str,
        which: str | None = None,
        *,
        layers: Sequence[int | None] | None = None,
        partial: bool = False,
    ) -> StatesMatrix:
        """The states of layers of one encoder, of the rows of `table(modality)`: sequences that are read on demand.

        Layers of different widths or numbers of tokens come as a list, as the encoder itself gives them.

        Args:
            which: the encoder, by URI (layer and pool in it do not matter) or by the first digits of its
                `backbone_key`; None if the store holds the states of one encoder of this modality.
            layers: numbers of layers, in the order wanted; None in the list means the tokens after the final norm.
                None: all that are stored, these last.
            partial: allow items without states; they are an `InputError` only when they are read.

        Raises:
            UsageError: no such encoder or layer, none named although there are several.
            InputError: a damaged or foreign shard, or contents without states (an interrupted run).
        """
        keys = to_keys(self.table(modality)["content_hash"].to_pylist())
        records = self._choose_layers(self._states_of(modality, which), layers)
        return StatesMatrix([self._located(record, keys, partial) for record in records], records)

    def pairs(
        self,
        split: str | None = None,
        image: Which = None,
        text: Which = None,
        only: str | Path | Sequence[str] | None = None,
        seed: int = 0,
        modalities: tuple[str, str] = SIDES,
    ) -> FeaturePairs:
        """Images, their captions and both features, as training and evaluation take them; or any two modalities.

        Args:
            split: "train", "val", "test" (or a name in the `split` column); None takes all.
            image, text: which encoders, as for `features`.
            only: ids to keep, as a list or a Parquet file with an `id` column.
            seed: of the validation split where the `split` column names none.
            modalities: of the first side, in whose place the result and `image` here say image, and of the second,
                called text: joined by id. The first has one item per id, the second may have several.

        Raises:
            UsageError: as `features`, or a split or a modality that does not exist.
            InputError: as `features`, no image left, or several items per id on the first side.
        """
        first, second = modalities
        pairs = join(self.path, self.tables(modalities), self.features(first, image), self.features(second, text))
        return _chosen(pairs, split, only, seed)

    def numbered_pairs(
        self,
        states: Mapping[str, StatesMatrix],
        split: str | None = None,
        only: str | Path | Sequence[str] | None = None,
        seed: int = 0,
    ) -> FeaturePairs:
        """As `pairs` of images and captions, with the numbers of the rows of `states` in place of features.

        states: of both sides or of one, from `Store.states`; `isthmus.store.states.rows_of` gives the numbers.
        """
        image, text = (NumberedRows(states.get(side), self.table(side).num_rows) for side in SIDES)
        return _chosen(join(self.path, self.tables(), image, text), split, only, seed)

    def _choose(self, modality: str, which: Which) -> list[EncoderRecord]:
        records = self.pooled(modality)
        if not records:
            layers = any(record["modality"] == modality for record in self.encoders)
            more = ", only states of layers: --recipe manager trains on these; or embed a pooling too" if layers else ""
            raise UsageError(f"{self.path}: holds no {modality} encoder{more}.")
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

    def _states_of(self, modality: str, which: str | None) -> list[EncoderRecord]:
        """The stored layers of one encoder."""
        networks: dict[str, list[EncoderRecord]] = {}
        for record in self.encoders:
            if record["modality"] == modality and holds_states(record):
                networks.setdefault(str(record.get("backbone_key") or backbone_uri(record["uri"])), []).append(record)
        uris = {key: backbone_uri(records[0]["uri"]) for key, records in networks.items()}
        if not networks:
            raise UsageError(
                f"{self.path}: holds no states of {modality} encoders: embed with layer=…&pool=states in the URI."
            )
        found = list(networks)
        if which is not None:
            named = backbone_uri(which)
            found = [k for k in networks if uris[k] == named or (len(which) >= 6 and k.startswith(which))]
        if len(found) == 1:
            return networks[found[0]]
        if found:
            listed = ", ".join(uris.values())
            raise UsageError(f"{self.path}: holds states of several {modality} encoders; name one: {listed}.")
        raise UsageError(f"{self.path}: holds no states of {which!r}." + did_you_mean(str(which), list(uris.values())))

    def _choose_layers(self, records: list[EncoderRecord], layers: Sequence[int | None] | None) -> list[EncoderRecord]:
        by_layer = {record.get("layer"): record for record in records}
        held = sorted(k for k in by_layer if k is not None) + [None] * (None in by_layer)
        wanted = held if layers is None else list(layers)
        missing = [layer for layer in wanted if layer not in by_layer]
        if missing or not wanted:
            name, there = backbone_uri(records[0]["uri"]), ", ".join(map(str, held))
            raise UsageError(f"{self.path}: holds no layers {missing or wanted} of {name}, only {there}.")
        return [by_layer[layer] for layer in wanted]

    def _located(self, record: EncoderRecord, keys: np.ndarray, partial: bool) -> tuple[list[AnyShard], np.ndarray]:
        """An encoder's shards, and the row in them for each of `keys` (−1: none, if `partial`)."""
        shards = open_shards(self.path, record)
        held = [shard.keys() for shard in shards]
        where = KeyIndex(np.concatenate(held) if held else np.empty((0, 16), np.uint8)).find(keys)
        missing = int((where < 0).sum())
        if missing and not partial:
            raise InputError(
                f"{self.path}: features by {record['uri']} are missing for {missing:,} of {len(keys):,} "
                f"{record['modality']} rows. Run the same `isthmus embed` again: it computes only these."
            )
        return shards, where


def _chosen(pairs: FeaturePairs, split: str | None, only: Any, seed: int) -> FeaturePairs:
    if split is not None:
        pairs = choose_split(pairs, split, seed)
    return pairs if only is None else choose_ids(pairs, only)


def _listed(records: list[EncoderRecord]) -> str:
    return ", ".join(f"{record['uri']} ({record['fingerprint'][:12]})" for record in records)
