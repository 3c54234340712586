"""Pairs to features: decode, preprocess and encode every distinct image and caption once, into a store."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from tqdm import tqdm

from isthmus.data.images import MAX_PIXELS, BadImage, content_hash, decode
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.encoders import Encoder, encode_views, load_encoders
from isthmus.errors import InputError
from isthmus.store import StoreWriter
from isthmus.store.joining import read_ids

DEFAULT_BATCH = 32
DECODE_THREADS = 4


@dataclass
class EmbedReport:
    """What `embed` did: counts of images, captions and newly encoded items, and what was skipped and why."""

    store: str
    images: int = 0
    captions: int = 0
    encoded: dict[str, int] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        new = ", ".join(f"{count:,} {modality}s" for modality, count in self.encoded.items())
        return (
            f"{self.store}: {self.images:,} images, {self.captions:,} captions; newly encoded: {new}; "
            f"{len(self.skipped):,} skipped."
        )


@dataclass
class EmbedPlan:
    """What `embed` would do: items, bytes on disk, most of the memory, and a measured guess of the time.

    memory: bytes of weights and of one image batch's pixels, of all encoders together.
    seconds: from a timed sample of up to 32 images and 256 captions per network, decoding included.
    """

    images: int
    captions: int
    distinct_captions: int
    disk_bytes: int
    memory_bytes: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.images:,} images, {self.captions:,} captions ({self.distinct_captions:,} distinct): "
            f"{self.disk_bytes / 2**20:,.1f} MiB on disk, at least "
            f"{self.memory_bytes / 2**20:,.0f} MiB of memory, about {self.seconds / 60:,.1f} minutes"
        )


def plan(
    pairs: Pairs | str | Path,
    image: str | Encoder | Sequence[str | Encoder],
    text: str | Encoder | Sequence[str | Encoder],
    *,
    only: str | Path | Sequence[str] | None = None,
    batch_size: int = DEFAULT_BATCH,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> EmbedPlan:
    """What `embed` with the same arguments would cost; encodes a small sample and writes nothing."""
    pairs = _chosen(pairs, only, MAX_PIXELS)
    options = {"device": device, "trust_remote_code": trust_remote_code}
    encoders = {"image": _loaded(image, "image", options), "text": _loaded(text, "text", options)}
    distinct = list(dict.fromkeys(pairs.captions["caption"].to_pylist()))
    counts = {"image": len(pairs), "text": len(distinct)}
    samples: dict[str, list[Any]] = {"image": list(range(min(32, len(pairs)))), "text": distinct[:256]}
    seconds = 0.0
    memory = 0
    for modality, chosen in encoders.items():
        for views in _networks(chosen):
            started = time.perf_counter()
            items = _readable(pairs, samples[modality]) if modality == "image" else samples[modality]
            for start in range(0, len(items), batch_size):
                inputs = views[0].preprocess(items[start : start + batch_size])
                encode_views(views, inputs)
                memory = max(
                    memory, sum(value.nbytes for value in inputs.values() if hasattr(value, "nbytes"))
                )
            seconds += (time.perf_counter() - started) / max(1, len(items)) * counts[modality]
    networks = [views[0] for chosen in encoders.values() for views in _networks(chosen)]
    weights = sum(p.nbytes for encoder in networks for p in encoder.network.parameters())
    disk = sum(counts[m] * (2 * e.width + 16) for m, chosen in encoders.items() for e in chosen)
    return EmbedPlan(len(pairs), pairs.captions.num_rows, len(distinct), disk, memory + weights, seconds)


def embed(
    pairs: Pairs | str | Path,
    image: str | Encoder | Sequence[str | Encoder],
    text: str | Encoder | Sequence[str | Encoder],
    *,
    out: str | Path,
    only: str | Path | Sequence[str] | None = None,
    batch_size: int = DEFAULT_BATCH,
    max_skip: float = 0.01,
    max_pixels: int = MAX_PIXELS,
    device: str | None = None,
    trust_remote_code: bool = False,
    progress: bool = False,
) -> EmbedReport:
    """Write the features of `pairs` by every named encoder into the store `out`.

    Goes on where it stopped: what the store already holds is not computed again. Equal images (by bytes)
    and equal captions are encoded once. Views of one network (layers, poolings) share one forward pass.

    Args:
        pairs: a table, folder or tar files (see `read_pairs`), or `Pairs`.
        image, text: encoders or their URIs, one or several.
        out: the store's folder; made, resumed or extended.
        only: ids to embed (a list, or a Parquet file with an `id` column).
        batch_size: items per forward pass.
        max_skip: largest share of images and captions that may be skipped before the run counts as failed.
        max_pixels: larger images are skipped, by their header.

    Raises:
        InputError: nothing to embed, or more than `max_skip` of the pairs were skipped (the store is
            complete without them and `skipped.parquet` lists them).
    """
    pairs = _chosen(pairs, only, max_pixels)
    options = {"device": device, "trust_remote_code": trust_remote_code}
    encoders = {"image": _loaded(image, "image", options), "text": _loaded(text, "text", options)}
    report = EmbedReport(str(out))
    with StoreWriter(out) as writer:
        for encoder in [*encoders["image"], *encoders["text"]]:
            writer.add_encoder(encoder.record())
        hashes, unreadable = _embed_images(pairs, encoders["image"], writer, batch_size, report, progress)
        if not hashes:
            raise InputError(
                f"None of the {len(pairs):,} images can be read; the first: {': '.join(unreadable[0])}"
            )
        images, captions = _tables(pairs, hashes)
        _embed_captions(captions, encoders["text"], writer, batch_size, report, progress)
        report.skipped = [*pairs.skipped, *unreadable]
        report.images, report.captions = images.num_rows, captions.num_rows
        writer.finish(images, captions, report.skipped)
    _check_skipped(report, max_skip)
    return report


def _chosen(pairs: Pairs | str | Path, only: Any, max_pixels: int) -> Pairs:
    if not isinstance(pairs, Pairs):
        pairs = read_pairs(pairs, max_pixels=max_pixels)
    return pairs if only is None else pairs.subset(read_ids(only))


def _readable(pairs: Pairs, rows: Sequence[int]) -> list[Any]:
    """The images of these rows that can be decoded."""
    images = []
    for row in rows:
        with suppress(BadImage):
            images.append(pairs.decode(row))
    return images


def _loaded(encoders: Any, modality: str, options: dict[str, Any]) -> list[Encoder]:
    """Load what was given as URIs; encoders that are loaded already pass through, in order."""
    listed = [encoders] if isinstance(encoders, str | Encoder) else list(encoders)
    if not listed:
        raise InputError(f"No {modality} encoder was named.")
    fresh = iter(load_encoders([e for e in listed if isinstance(e, str)], modality=modality, **options))
    return [next(fresh) if isinstance(e, str) else e for e in listed]


def _networks(encoders: Sequence[Encoder]) -> list[list[Encoder]]:
    """Encoders grouped by the network they look into: one forward pass serves a whole group."""
    groups: dict[str, list[Encoder]] = {}
    for encoder in encoders:
        groups.setdefault(encoder.backbone_key, []).append(encoder)
    return list(groups.values())


class _Pending:
    """Items waiting for a full batch of one network; encodes and hands them to the writer."""

    def __init__(self, views: list[Encoder], writer: StoreWriter, batch_size: int) -> None:
        self.views, self.writer, self.batch_size = views, writer, batch_size
        self.keys: list[bytes] = []
        self.inputs: list[Any] = []
        self.done = set.intersection(*(writer.known(v.modality, v.fingerprint) for v in views))
        self.count = 0

    def needs(self, key: bytes) -> bool:
        return key not in self.done

    def add(self, key: bytes, inputs: Any) -> None:
        if not self.needs(key):
            return
        self.done.add(key)
        self.keys.append(key)
        self.inputs.append(inputs)
        if len(self.keys) >= self.batch_size:
            self.flush()

    def flush(self) -> None:
        if not self.keys:
            return
        keys = np.frombuffer(b"".join(self.keys), np.uint8).reshape(-1, 16)
        for view, features in zip(self.views, encode_views(self.views, self._batch()), strict=True):
            self.writer.write(view.modality, view.fingerprint, keys, features)
        self.count += len(self.keys)
        self.keys, self.inputs = [], []

    def _batch(self) -> dict[str, Any]:
        if isinstance(self.inputs[0], str):  # text is tokenised as a batch, so that padding fits the batch
            return self.views[0].preprocess(self.inputs)
        return {name: _joined([one[name] for one in self.inputs]) for name in self.inputs[0]}


def _joined(values: list[Any]) -> Any:
    """Inputs of single images as those of a batch: tensors, or the lists that callables take."""
    return (
        torch.cat(values) if isinstance(values[0], torch.Tensor) else [item for one in values for item in one]
    )


def _embed_images(
    pairs: Pairs,
    encoders: list[Encoder],
    writer: StoreWriter,
    batch_size: int,
    report: EmbedReport,
    progress: bool,
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Encode every distinct readable image; returns the content hash by id, and the skipped (id, reason)."""
    pending = [_Pending(views, writer, batch_size) for views in _networks(encoders)]
    ids, signatures = pairs.images["id"].to_pylist(), pairs.signatures()
    recalled = writer.recall(ids, signatures)
    known, reasons = (recalled[name].to_pylist() for name in ("content_hash", "reason"))
    hashes: dict[str, str] = {}
    skipped: list[tuple[str, str]] = []

    def prepare(row: int) -> tuple[str, list[Any]]:
        """The image's content hash, and its preprocessed pixels for each network that has not seen it."""
        if reasons[row]:
            raise BadImage(reasons[row])
        if known[row] and not any(p.needs(bytes.fromhex(known[row])) for p in pending):
            return known[row], []
        data = pairs.read_bytes(row)
        key = content_hash(data)
        waiting = [p for p in pending if p.needs(bytes.fromhex(key))]
        if not waiting:
            return key, []
        image = decode(data, max_pixels=pairs.max_pixels)
        return key, [(p, p.views[0].preprocess([image])) for p in waiting]

    for row, result in _in_order(prepare, len(ids), ahead=2 * batch_size, progress=progress):
        bad = isinstance(result, BadImage)
        key, inputs = (None, []) if bad else result
        writer.record_images([(ids[row], key, result.reason if bad else None, signatures[row])])
        if bad:
            skipped.append((ids[row], result.reason))
            continue
        hashes[ids[row]] = key
        for p, one in inputs:
            p.add(bytes.fromhex(key), one)
    for p in pending:
        p.flush()
    report.encoded["image"] = sum(p.count for p in pending)
    return hashes, skipped


def _in_order(work: Any, count: int, *, ahead: int, progress: bool) -> Iterator[tuple[int, Any]]:
    """`work(i)` in threads, at most `ahead` items in flight; yields (i, result or BadImage) in order of i."""
    with (
        ThreadPoolExecutor(DECODE_THREADS) as pool,
        tqdm(total=count, desc="images", unit="img", disable=not progress) as bar,
    ):
        waiting = deque(pool.submit(work, index) for index in range(min(ahead, count)))
        for index in range(count):
            try:
                result = waiting.popleft().result()
            except BadImage as error:
                result = error
            if index + ahead < count:
                waiting.append(pool.submit(work, index + ahead))
            bar.update()
            yield index, result


def _embed_captions(
    captions: pa.Table,
    encoders: list[Encoder],
    writer: StoreWriter,
    batch_size: int,
    report: EmbedReport,
    progress: bool,
) -> None:
    """Encode every distinct caption, shortest first, so that a batch holds little padding."""
    pending = [_Pending(views, writer, batch_size) for views in _networks(encoders)]
    distinct = dict(zip(captions["content_hash"].to_pylist(), captions["caption"].to_pylist(), strict=True))
    ordered = sorted(distinct.items(), key=lambda item: (len(item[1]), item[0]))
    for key, caption in tqdm(ordered, desc="captions", unit="txt", disable=not progress):
        for p in pending:
            p.add(bytes.fromhex(key), caption)
    for p in pending:
        p.flush()
    report.encoded["text"] = sum(p.count for p in pending)


def _tables(pairs: Pairs, hashes: dict[str, str]) -> tuple[pa.Table, pa.Table]:
    """The store's image and caption tables: readable images only, each with its content hash."""
    ids = pairs.images["id"].to_pylist()
    images = pairs.images.select(["id", "group", "split", "label"])
    images = images.append_column("content_hash", pa.array([hashes.get(i) for i in ids], pa.string()))
    images = images.filter(pc.is_valid(images["content_hash"]))
    captions = pairs.captions.select(["caption_id", "id", "caption", "lang"])
    captions = captions.filter(pc.is_in(captions["id"], value_set=images["id"].combine_chunks()))
    keys = [content_hash(text.encode()) for text in captions["caption"].to_pylist()]
    return images, captions.append_column("content_hash", pa.array(keys, pa.string()))


def _check_skipped(report: EmbedReport, max_skip: float) -> None:
    """Some bad inputs are reported; too many are a failure, though nothing that was computed is lost."""
    total = report.images + report.captions + len(report.skipped)
    if len(report.skipped) > max_skip * total:
        raise InputError(
            f"{len(report.skipped):,} of {total:,} images and captions were skipped, more than the "
            f"{max_skip:.1%} of max_skip (--max-skip). The store holds the rest, and "
            f"{Path(report.store) / 'skipped.parquet'} says why; the first: {': '.join(report.skipped[0])}"
        )
