"""What a run would cost: counted, and timed on a small sample."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from isthmus.data.pairs import Pairs
from isthmus.data.tables import Frame
from isthmus.embedding.networks import by_network, load_sides
from isthmus.embedding.run import chosen_pairs, readable
from isthmus.embedding.work_plan import LEAST_ITEMS, caption_batches, image_batches
from isthmus.encoders import Encoder, encode_views


@dataclass
class EmbedPlan:
    """What `embed` would do: items, bytes on disk, most of the memory, and a measured guess of the time.

    view_bytes: on disk, of every encoder by its URI; a view of tokens is as many times a pooled one's as it has tokens.
    memory: bytes of weights, of one image batch's pixels and of one unit's features, of all encoders together.
    seconds: from a timed sample of up to 32 images and 256 captions per network, decoding included.
    """

    images: int
    captions: int
    distinct_captions: int
    disk_bytes: int
    view_bytes: dict[str, int]
    memory_bytes: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.images:,} images, {self.captions:,} captions ({self.distinct_captions:,} distinct): "
            f"{self.disk_bytes / 2**20:,.1f} MiB on disk, at least "
            f"{self.memory_bytes / 2**20:,.0f} MiB of memory, about {self.seconds / 60:,.1f} minutes"
        ) + "".join(f"\n  {size / 2**20:,.1f} MiB  {uri}" for uri, size in self.view_bytes.items())


def plan(
    pairs: Pairs | Frame | str | Path,
    image: str | Encoder | Sequence[str | Encoder],
    text: str | Encoder | Sequence[str | Encoder],
    *,
    only: str | Path | Sequence[str] | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    **reading: Any,
) -> EmbedPlan:
    """What `embed` with the same arguments would cost; encodes a small sample and writes nothing."""
    pairs = chosen_pairs(pairs, only, **reading)
    options: dict[str, Any] = {"device": device, "trust_remote_code": trust_remote_code}
    encoders = load_sides(image, text, **options)
    distinct = list(dict.fromkeys(pairs.captions["caption"].to_pylist()))
    counts = {"image": len(pairs), "text": len(distinct)}
    samples = {"image": lambda: readable(pairs, range(32)), "text": lambda: sorted(distinct[:256], key=len)}
    seconds = 0.0
    memory = 0
    for modality, chosen in encoders.items():
        for views in by_network(chosen):
            started = time.perf_counter()
            items: list[Any] = samples[modality]()
            by_length, place = views[0].spec.length is not None, views[0].device
            ends = caption_batches(items, batch_size) if by_length else image_batches(len(items), batch_size, place)
            for start, stop in pairwise([0, *ends.tolist()]):
                inputs = views[0].preprocess(items[start:stop])
                encode_views(views, inputs)
                memory = max(memory, sum(value.nbytes for value in inputs.values() if hasattr(value, "nbytes")))
            seconds += (time.perf_counter() - started) / max(1, len(items)) * counts[modality]
    networks = [views[0] for chosen in encoders.values() for views in by_network(chosen)]
    weights = sum(p.nbytes for encoder in networks for p in encoder.network.parameters())
    stored = {str(e.uri): counts[m] * (2 * e.width + 16) for m, chosen in encoders.items() for e in chosen}
    unit = min(LEAST_ITEMS, len(pairs)) * 4 * max(sum(e.width for e in chosen) for chosen in encoders.values())
    memory += weights + 2 * unit  # its batches, and all of them put together
    rows = len(pairs), pairs.captions.num_rows, len(distinct)
    return EmbedPlan(*rows, sum(stored.values()), stored, memory, seconds)
