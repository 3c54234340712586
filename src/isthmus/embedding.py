"""Pairs to features: decode, preprocess and encode every distinct image and caption once, into a store."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
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
from isthmus.encoders.base import Modality
from isthmus.errors import InputError
from isthmus.precision import choose_precision
from isthmus.store import StoreWriter
from isthmus.store.joining import read_ids

DEFAULT_BATCH = 32
DECODE_THREADS = 4
SAMPLE = 16  # items on which bf16 is compared with float32
LEAST_COSINE = 0.999


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
                memory = max(memory, sum(value.nbytes for value in inputs.values() if hasattr(value, "nbytes")))
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
    precision: str = "auto",
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
        precision: "float32", "bf16" (autocast), or "auto": bf16 where the processor multiplies in it and a sample
            of the features stays within cosine 0.999 of float32. The store records which, and the cosine.

    Raises:
        InputError: nothing to embed, or more than `max_skip` of the pairs were skipped (the store is
            complete without them and `skipped.parquet` lists them).
    """
    pairs = _chosen(pairs, only, max_pixels)
    options = {"device": device, "trust_remote_code": trust_remote_code}
    encoders = {"image": _loaded(image, "image", options), "text": _loaded(text, "text", options)}
    report = EmbedReport(str(out))
    samples = {"image": lambda: _readable(pairs, range(SAMPLE)), "text": lambda: _some_captions(pairs)}
    with StoreWriter(out) as writer:
        pending = {
            modality: [_Pending(views, writer, batch_size, precision, samples[modality]) for views in _networks(listed)]
            for modality, listed in encoders.items()
        }
        hashes, unreadable = _embed_images(pairs, pending["image"], writer, batch_size, progress)
        if not hashes:
            raise InputError(f"None of the {len(pairs):,} images can be read; the first: {': '.join(unreadable[0])}")
        images, captions = _tables(pairs, hashes)
        _embed_captions(captions, pending["text"], progress)
        report.encoded = {modality: sum(p.count for p in waiting) for modality, waiting in pending.items()}
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
    for row in rows[: len(pairs)]:
        with suppress(BadImage):
            images.append(pairs.decode(row))
    return images


def _some_captions(pairs: Pairs) -> list[str]:
    return pairs.captions["caption"][:SAMPLE].to_pylist()


def _loaded(encoders: Any, modality: Modality, options: dict[str, Any]) -> list[Encoder]:
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


def choose_autocast(
    views: list[Encoder], sample: Callable[[], list[Any]], precision: str
) -> tuple[torch.dtype | None, dict[str, Any]]:
    """The type that a network's products may run in, and what to record of it; see `embed`'s `precision`.

    sample: gives a few items to compare the types on; only called where "auto" has a choice.
    """
    network = views[0].network
    if choose_precision(precision, views[0].device) == "float32" or not any(True for _ in network.parameters()):
        return None, {}  # a callable computes as it likes
    fast = {"compute_dtype": "bfloat16 autocast"}
    if precision == "bf16":
        return torch.bfloat16, fast
    items = sample()
    if not items:
        return None, {}
    inputs = views[0].preprocess(items)
    both = zip(encode_views(views, inputs), encode_views(views, inputs, torch.bfloat16), strict=True)
    cosine = min(_least_cosine(exact, quick) for exact, quick in both)
    if not cosine >= LEAST_COSINE:  # NaN included
        return None, {}
    return torch.bfloat16, fast | {"bfloat16_cosine": cosine}


def _least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(norms, 1e-30)).min())


class _Pending:
    """Items waiting for a full batch of one network; encodes and hands them to the writer."""

    def __init__(
        self,
        views: list[Encoder],
        writer: StoreWriter,
        batch_size: int,
        precision: str,
        sample: Callable[[], list[Any]],
    ) -> None:
        self.views, self.writer, self.batch_size = views, writer, batch_size
        self.autocast, measured = choose_autocast(views, sample, precision)
        for view in views:
            writer.add_encoder(view.record() | measured)
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
        for view, features in zip(self.views, encode_views(self.views, self._batch(), self.autocast), strict=True):
            self.writer.write(view.modality, view.fingerprint, keys, features)
        self.count += len(self.keys)
        self.keys, self.inputs = [], []

    def _batch(self) -> dict[str, Any]:
        if isinstance(self.inputs[0], str):  # text is tokenised as a batch, so that padding fits the batch
            return self.views[0].preprocess(self.inputs)
        return {name: _joined([one[name] for one in self.inputs]) for name in self.inputs[0]}


def _joined(values: list[Any]) -> Any:
    """Inputs of single images as those of a batch: tensors, or the lists that callables take."""
    return torch.cat(values) if isinstance(values[0], torch.Tensor) else [item for one in values for item in one]


def _embed_images(
    pairs: Pairs,
    pending: list[_Pending],
    writer: StoreWriter,
    batch_size: int,
    progress: bool,
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Encode every distinct readable image; returns the content hash by id, and the skipped (id, reason)."""
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


def _embed_captions(captions: pa.Table, pending: list[_Pending], progress: bool) -> None:
    """Encode every distinct caption, shortest first, so that a batch holds little padding."""
    distinct = dict(zip(captions["content_hash"].to_pylist(), captions["caption"].to_pylist(), strict=True))
    ordered = sorted(distinct.items(), key=lambda item: (len(item[1]), item[0]))
    for key, caption in tqdm(ordered, desc="captions", unit="txt", disable=not progress):
        for p in pending:
            p.add(bytes.fromhex(key), caption)
    for p in pending:
        p.flush()


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
