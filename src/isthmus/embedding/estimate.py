"""The cost of a run: counted, and timed on a small sample."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from isthmus.data.feature_pairs import SIDES
from isthmus.data.pairs import Pairs
from isthmus.data.ragged import Ragged
from isthmus.data.tables import Frame
from isthmus.embedding.networks import by_network, load_all, preparable, states_bytes
from isthmus.embedding.run import TEXT, chosen_pairs, readable
from isthmus.embedding.work_plan import caption_batches, image_batches, unit_items
from isthmus.encoders import Encoder, encode_views
from isthmus.encoders.lengths import cut_notes
from isthmus.encoders.uri import STATES

IMAGE = SIDES[0]


@dataclass
class EmbedPlan:
    """What `embed` would do: items, bytes on disk, most of the memory, and a measured guess of the time.

    view_bytes: on disk, of every encoder by its URI; a view of tokens is as many times a pooled one's as it has tokens.
    estimated: those of them that are an estimate, from the mean length of a sample of texts; the others are exact
        where no two images are the same, but for the headers of files.
    others: counts of items of further modalities.
    memory: bytes of weights, of one image batch's pixels and of one unit's features, of all encoders together.
    seconds: from a timed sample of up to 32 images and 256 captions per network, decoding included.
    notes: how many captions each text encoder cuts at its limit.
    """

    images: int
    captions: int
    distinct_captions: int
    disk_bytes: int
    view_bytes: dict[str, int]
    memory_bytes: int
    seconds: float
    estimated: list[str] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = {"images": self.images} if self.images or not self.others else {}
        items = "".join(f"{count:,} {name}, " for name, count in (counts | self.others).items())
        return (
            f"{items}{self.captions:,} captions ({self.distinct_captions:,} distinct): "
            f"{self.disk_bytes / 2**20:,.1f} MiB on disk, at least "
            f"{self.memory_bytes / 2**20:,.0f} MiB of memory, about {self.seconds / 60:,.1f} minutes"
        ) + "".join(
            f"\n  {size / 2**20:,.1f} MiB  {uri}" + (" (estimate)" if uri in self.estimated else "")
            for uri, size in self.view_bytes.items()
        )


@dataclass
class _Sample:
    """Results of encoding a few items: seconds for each, bytes of the largest batch, mean tokens of views of states."""

    seconds: float
    batch_bytes: int
    tokens: dict[str, float]


def plan(
    pairs: Pairs | Frame | str | Path,
    image: str | Encoder | Sequence[str | Encoder] | None = None,
    text: str | Encoder | Sequence[str | Encoder] | None = None,
    *,
    encoders: str | Encoder | Sequence[str | Encoder] = (),
    only: str | Path | Sequence[str] | None = None,
    batch_size: int | None = None,
    states_dtype: str = "float16",
    device: str | None = None,
    trust_remote_code: bool = False,
    **reading: Any,
) -> EmbedPlan:
    """The cost of `embed` with the same arguments; encodes a small sample and writes nothing."""
    pairs = chosen_pairs(pairs, only, **reading)
    sides = load_all(image, text, encoders, device=device, trust_remote_code=trust_remote_code)
    distinct = list(dict.fromkeys(pairs.captions["caption"].to_pylist()))
    counts = {m: len(distinct) if m == TEXT else len(pairs.side(m)) for m in sides}
    seconds, memory, stored, estimated = 0.0, 0, {}, []
    for modality, chosen in sides.items():
        for views in by_network(chosen):
            sample = _sampled(views, pairs, distinct, batch_size)
            seconds += sample.seconds * counts[modality]
            memory = max(memory, sample.batch_bytes)
            for view in views:
                stored[str(view.uri)] = round(counts[modality] * _item_bytes(view, sample, states_dtype))
                estimated += [str(view.uri)] * (view.pool == STATES and view.tokens is None)
    networks = [views[0] for chosen in sides.values() for views in by_network(chosen)]
    weights = sum(p.nbytes for encoder in networks for p in encoder.network.parameters())
    unit = max(_unit_bytes(chosen, counts[modality]) for modality, chosen in sides.items())
    memory += weights + 2 * unit  # by batches, and by all of them together
    images = len(pairs.side(IMAGE)) if IMAGE in pairs.modalities else 0
    rows = images, pairs.captions.num_rows, len(distinct)
    others = {m: len(pairs.side(m)) for m in pairs.modalities if m != IMAGE}
    readers = [views[0] for views in by_network(sides.get(TEXT, []))]
    notes = cut_notes(readers, pairs.captions["caption"].to_pylist())
    return EmbedPlan(*rows, sum(stored.values()), stored, memory, seconds, estimated, others, notes)


def _sampled(views: list[Encoder], pairs: Pairs, captions: list[str], batch_size: int | None) -> _Sample:
    """A few items through one network."""
    modality = views[0].modality
    of_files = modality != TEXT
    started, most = time.perf_counter(), 0
    found: dict[str, list[int]] = {view.fingerprint: [] for view in views if view.pool == STATES}
    some = preparable(views[0], readable(pairs.side(modality), 32)) if of_files else []
    items = some if of_files else sorted(captions[:256], key=len)
    files = len(items), batch_size, views[0].device, views[0].spec.held
    ends = image_batches(*files) if of_files else caption_batches(items, batch_size)
    for start, stop in pairwise([0, *ends.tolist()]):
        inputs = views[0].prepare(items[start:stop])
        for view, features in zip(views, encode_views(views, inputs), strict=True):
            if isinstance(features, Ragged):
                found[view.fingerprint] += features.lengths.tolist()
        most = max(most, sum(value.nbytes for value in inputs.values() if hasattr(value, "nbytes")))
    tokens = {fingerprint: sum(lengths) / max(1, len(lengths)) for fingerprint, lengths in found.items()}
    return _Sample((time.perf_counter() - started) / max(1, len(items)), most, tokens)


def _item_bytes(view: Encoder, sample: _Sample, states_dtype: str) -> float:
    """Bytes on disk: the features and the key; for states also offsets, and the scales of int8."""
    if view.pool != STATES:
        return 2 * view.width + 16
    token = view.width + 4 if states_dtype == "int8" else 2 * view.width
    tokens = sample.tokens[view.fingerprint] if view.tokens is None else view.tokens
    return tokens * token + 16 + 8


def _unit_bytes(views: Sequence[Encoder], items: int) -> int:
    """Bytes in float32 of all views of one unit of work."""
    states = states_bytes(views)
    pooled = sum(4 * view.width for view in views if view.pool != STATES)
    return min(items, unit_items(items, states)) * (pooled + states)
