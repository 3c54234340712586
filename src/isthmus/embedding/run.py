"""`embed`: write the features of pairs into a store, in the units of a plan that is fixed before work begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from isthmus.data.feature_pairs import SIDES
from isthmus.data.images import MAX_PIXELS, BadImage
from isthmus.data.pairs import Pairs
from isthmus.data.tables import Frame
from isthmus.embedding.content_index import Contents, captions_of, lacking
from isthmus.embedding.engines import check_engine, encode_all, hash_all
from isthmus.embedding.held_out import check_share, hold_out, keep_splits
from isthmus.embedding.networks import Network, by_network, choose_autocast, load_all, preparable, states_bytes
from isthmus.embedding.work_plan import caption_batches, cut, image_batches, plan_captions, plan_images
from isthmus.encoders import Encoder
from isthmus.encoders.lengths import cut_notes
from isthmus.encoders.uri import STATES
from isthmus.errors import InputError, UsageError, did_you_mean
from isthmus.modality import Modality, spec_of, table_of
from isthmus.models.ledger import encoder_cost, timed
from isthmus.progress import progress_bar
from isthmus.store import StoreWriter
from isthmus.store.joining import read_ids
from isthmus.store.manifest import empty
from isthmus.store.opening import open_pairs

TEXT = SIDES[1]  # the modality whose items stand in the table of pairs itself
COUNTED = 4  # items on which a network's operations are counted
SAMPLE = 16  # items on which bf16 is compared with float32
HASHED_AT_ONCE = 4096
STATES_DTYPES = ("float16", "int8")


@dataclass
class EmbedReport:
    """What `embed` did: counts of images, captions and newly encoded items, what was skipped and why, and remarks.

    notes: on how the pairs were read, and how many captions each text encoder cuts at its limit.
    others: counts of items of further modalities.
    """

    store: str
    images: int = 0
    captions: int = 0
    encoded: dict[str, int] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of what was looked at, by what it is called."""
        images = {"images": self.images} if self.images or not self.others else {}
        return {**images, **{table_of(name): count for name, count in self.others.items()}, "captions": self.captions}

    def __str__(self) -> str:
        new = ", ".join(f"{count:,} {modality}s" for modality, count in self.encoded.items())
        held = ", ".join(f"{count:,} {name}" for name, count in self.counts.items())
        return f"{self.store}: {held}; newly encoded: {new}; {len(self.skipped):,} skipped."


def embed(
    pairs: Pairs | Frame | str | Path,
    image: str | Encoder | Sequence[str | Encoder] | None = None,
    text: str | Encoder | Sequence[str | Encoder] | None = None,
    *,
    encoders: str | Encoder | Sequence[str | Encoder] = (),
    out: str | Path,
    only: str | Path | Sequence[str] | None = None,
    batch_size: int | None = None,
    max_skip: float = 0.01,
    max_pixels: int = MAX_PIXELS,
    precision: str = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
    engine: str = "local",
    states_dtype: str = "float16",
    test: float | None = None,
    seed: int = 0,
    progress: bool | None = None,
    **reading: Any,
) -> EmbedReport:
    """Write the features of `pairs` by every named encoder into the store `out`.

    Continues where it stopped: what the store already holds is not computed again, and a kill loses at most one unit of
    work (`isthmus.embedding.work_plan`). Equal images (by bytes) and equal captions are encoded once. Views of one
    network (layers, poolings) share one forward pass.

    Args:
        pairs: a table, folder, tar files or data frame (see `read_pairs`), or `Pairs`.
        image, text: encoders or their URIs, one or several. With `layer=4,8&pool=states` in a URI, the states of these
            layers are stored, sequences of tokens (`Store.states`).
        encoders: further encoders, each for its own modality. Items without an encoder are not read.
        out: the store's folder; made, resumed or extended.
        only: ids to embed (a list, or a Parquet file with an `id` column).
        batch_size: items per forward pass. Default: what is fast on the device, captions by their length
            (`isthmus.embedding.work_plan`).
        max_skip: largest share of images and captions that may be skipped before the run counts as failed.
        max_pixels: larger images are skipped, by their header.
        precision: "float32", "bf16" (autocast), or "auto": bf16 where the processor multiplies in it and a sample
            of the features stays within cosine 0.999 of float32. The store records the choice and the cosine.
        engine: "local", or "ray": the workers of a Ray cluster, which read the images by the same paths. On
            machines of one type, with the same number of threads, the store is the same byte for byte.
        states_dtype: what states are stored in: "float16", or "int8" with a scale for each token.
        test: hold out about this share of the images, or of samples of other modalities, as the split test, whole
            groups at a time: no picture and no caption is on both sides (`isthmus.embedding.held_out`). For pairs that
            name no test split.
        seed: of the choice of these.
        progress: bars; None: in a notebook alone.
        reading: how pairs are read, if they are not `Pairs` yet: `columns`, `images`, `split`, `pages`, `range`.

    Raises:
        InputError: nothing to embed, pairs that name a test split although `test` is given, or more than `max_skip`
            of the pairs were skipped (the store is complete without them and `skipped.parquet` lists them).
    """
    check_engine(engine)
    if states_dtype not in STATES_DTYPES:
        raise UsageError(f"states_dtype={states_dtype!r}: float16 or int8." + did_you_mean(states_dtype, STATES_DTYPES))
    pairs = chosen_pairs(pairs, only, max_pixels=max_pixels, **reading)
    check_share(test, pairs)
    options: dict[str, Any] = {"device": device, "trust_remote_code": trust_remote_code}
    sides = load_all(image, text, encoders, **options)
    samples = {modality: sampled(pairs, modality) for modality in sides}
    with StoreWriter(out) as writer:
        for view in (one for listed in sides.values() for one in listed):
            named = writer.fingerprints(view.modality)
            if view.fingerprint not in named:
                any(map(view.recognise, named))
        networks = {
            modality: [
                _announced(views, writer, precision, samples[modality], states_dtype) for views in by_network(listed)
            ]
            for modality, listed in sides.items()
        }
        run = _Run(writer, pairs, chosen_sides(pairs, sides), batch_size, engine, options, progress)
        run.costs = {
            modality: [_cost(network.views, samples[modality]) for network in listed]
            for modality, listed in networks.items()
        }
        run.hash_items()
        run.split(test, seed)
        for modality in run.sides:
            run.encode_items(modality, networks.get(modality, []))
        run.encode_captions(networks.get(TEXT, []))
        report = run.finish()
    _check_skipped(report, max_skip)
    return report


def chosen_pairs(pairs: Pairs | Frame | str | Path, only: Any, **reading: Any) -> Pairs:
    """The pairs that `only` names, read if need be (`read_pairs`)."""
    pairs = open_pairs(pairs, **reading)
    return pairs if only is None else pairs.subset(read_ids(only))


def chosen_sides(pairs: Pairs, modalities: Iterable[Modality]) -> dict[Modality, Pairs]:
    """The items of a run that are files: those that it has encoders of, or where there are none the first."""
    found = [modality for modality in pairs.modalities if modality in modalities]
    return {modality: pairs.side(modality) for modality in found or [pairs.modality]}


def sampled(pairs: Pairs, modality: Modality) -> Callable[[], list[Any]]:
    """What gives a few items of a modality. Raises `UsageError` for one of which these pairs hold none."""
    if modality == TEXT:
        return lambda: pairs.captions["caption"][:SAMPLE].to_pylist()
    side = pairs.side(modality)
    return lambda: readable(side, SAMPLE)


def readable(pairs: Pairs, count: int) -> list[Any]:
    """Those of the first `count` images that can be decoded; of items that hold their files, a few."""
    images = []
    for row in range(min(count, len(pairs), COUNTED if spec_of(pairs.modality).held else count)):
        with suppress(BadImage, MemoryError):
            images.append(pairs.decode(row))
    return images


def _announced(
    views: list[Encoder], writer: StoreWriter, precision: str, sample: Callable[[], list[Any]], states_dtype: str
) -> Network:
    """Announce a network's views to the store, and set the precision it will run in."""
    autocast, measured = choose_autocast(views, sample, precision)
    for view in views:
        stored = {"stored": states_dtype} if view.pool == STATES and states_dtype != STATES_DTYPES[0] else {}
        writer.add_encoder(view.record() | measured | stored)
    return Network(views, autocast)


def _cost(views: list[Encoder], sample: Callable[[], list[Any]]) -> list[dict[str, Any]]:
    """The cost of an item for the views of a network; callables are not called for it, because they may count calls."""
    items = preparable(views[0], sample()[:COUNTED]) if any(True for _ in views[0].network.parameters()) else []
    try:
        cost = encoder_cost(views, items)
    except (MemoryError, RuntimeError):  # of an image that the run will list, or of a network that fails there too
        cost = encoder_cost(views, [])
    return [{"uri": str(view.uri), "fingerprint": view.fingerprint, **cost} for view in views]


@dataclass
class _Run:
    """The passes of one `embed`: hash the images, encode them, encode the captions of the usable ones.

    sides: the items that are files, by modality: images, or what stands in their place or beside them.
    """

    writer: StoreWriter
    pairs: Pairs
    sides: dict[Modality, Pairs]
    batch_size: int | None
    engine: str
    options: dict[str, Any]
    progress: bool | None

    def __post_init__(self) -> None:
        self.contents = {modality: Contents(side, self.writer) for modality, side in self.sides.items()}
        self.encoded: dict[str, int] = {}
        self.notes = list(self.pairs.notes)
        self.costs: dict[str, list[list[dict[str, Any]]]] = {}

    def hash_items(self) -> None:
        """Hash all images: the plan needs every content hash, so that equal images are in it once."""
        for modality, contents in self.contents.items():
            rows = contents.unread()
            chunks = [rows[start : start + HASHED_AT_ONCE] for start in range(0, len(rows), HASHED_AT_ONCE)]
            with self._bar("reading", len(rows), 0) as bar:
                for found in hash_all(self.engine, self.sides[modality], chunks):
                    contents.learn(found)
                    bar.update(len(found))

    def split(self, test: float | None, seed: int) -> None:
        """Hold out a test split if one is asked for; otherwise keep the one that the store has."""
        if test is None:
            self.notes += keep_splits(self.contents, self.writer.tables)
        else:
            self.notes += hold_out(self.contents, self.pairs.captions, self.writer.tables, test, seed)

    def encode_items(self, modality: Modality, networks: list[Network]) -> None:
        if not networks:
            return
        contents, count = self.contents[modality], len(self.sides[modality])
        items, keys = plan_images(contents.hashes)
        view = networks[0].views[0]
        ends = image_batches(len(items), self.batch_size, view.device, view.spec.held)
        self._encode(modality, networks, items, keys, ends)
        skipped = contents.skipped
        if len(skipped) == count:
            raise InputError(
                f"None of the {count:,} {table_of(modality)} can be read; the first: {': '.join(skipped[0])}"
            )

    def encode_captions(self, networks: list[Network]) -> None:
        self.tables = {modality: contents.table() for modality, contents in self.contents.items()}
        samples = pa.chunked_array([c for t in self.tables.values() for c in t["id"].chunks], pa.string())
        self.captions = captions_of(self.pairs, samples.combine_chunks())
        if not networks:
            return
        self.notes += cut_notes([network.views[0] for network in networks], self.captions["caption"].to_pylist())
        items, keys = plan_captions(self.captions)
        self._encode(TEXT, networks, items, keys, caption_batches(items, self.batch_size))

    def _encode(
        self, modality: Modality, networks: list[Network], items: Any, keys: np.ndarray, ends: np.ndarray
    ) -> None:
        """Encode and store the units of a plan, each as soon as it is done."""
        known = [
            set.intersection(*(self.writer.known(v.modality, v.fingerprint) for v in network.views))
            for network in networks
        ]
        contents = self.contents.get(modality)
        needed = contents.needed(keys, known) if contents else lacking(keys, known)
        pairs = self.sides.get(modality, self.pairs)
        units = list(cut(items, keys, needed, ends, states_bytes([v for network in networks for v in network.views])))
        done = len(items) - sum(len(unit.items) for unit in units)
        self.encoded[modality] = 0
        encoders = [one for views in self.costs[modality] for one in views]
        entry: dict[str, Any] = {"modality": modality, "encoders": encoders}
        device = str(networks[0].views[0].device)
        with self._bar(f"{modality}s", len(items), done) as bar, timed(self.writer.path, entry, device):
            for encoded in encode_all(self.engine, networks, pairs, units, self.options, bar.update):
                for owner in encoded.features:
                    self.writer.write(*owner)
                if contents:
                    contents.reject(encoded.bad)
                self.writer.flush()
                self.encoded[modality] += encoded.fresh
                entry["items"] = round(self.encoded[modality] / len(networks))

    def finish(self) -> EmbedReport:
        skipped = [*self.pairs.skipped, *(one for contents in self.contents.values() for one in contents.skipped)]
        others = {modality: table for modality, table in self.tables.items() if modality != SIDES[0]}
        images = self.tables.get(SIDES[0], empty("images"))
        self.writer.finish(images, self.captions, skipped, others)
        rows = images.num_rows, self.captions.num_rows
        counts = {modality: table.num_rows for modality, table in others.items()}
        return EmbedReport(str(self.writer.path), *rows, self.encoded, skipped, self.notes, counts)

    def _bar(self, what: str, total: int, done: int) -> tqdm:
        return progress_bar(self.progress, desc=what, total=total, initial=done, unit="it")


def _check_skipped(report: EmbedReport, max_skip: float) -> None:
    """A few bad inputs are only reported; too many are an error, but computed features are kept."""
    total = sum(report.counts.values()) + len(report.skipped)
    if len(report.skipped) > max_skip * total:
        raise InputError(
            f"{len(report.skipped):,} of {total:,} {' and '.join(report.counts)} were skipped, more than the "
            f"{max_skip:.1%} of max_skip (--max-skip). The store holds the rest, and "
            f"{Path(report.store) / 'skipped.parquet'} says why; the first: {': '.join(report.skipped[0])}"
        )
