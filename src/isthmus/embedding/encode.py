"""The work of one worker, the same in every engine: read and hash images, or encode one unit of the plan."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from isthmus.data.budget import BATCH_BYTES, resized_bytes
from isthmus.data.images import OUT_OF_MEMORY, BadImage
from isthmus.data.pairs import Pairs
from isthmus.data.ragged import Ragged, join_ragged
from isthmus.embedding.networks import Network
from isthmus.embedding.work_plan import Unit
from isthmus.errors import IsthmusError

THREADS = 4  # threads that read and decode images ahead of the network
Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


@dataclass
class Encoded:
    """One unit, encoded.

    features: for every view (modality, fingerprint, keys uint8 [n, 16], features float32 [n, width] or n sequences).
    items: how many the unit has. fresh: those that were new, counted once per network. bad: (row, reason) of
        images that cannot be decoded.
    """

    items: int
    features: list[tuple[str, str, np.ndarray, np.ndarray | Ragged]] = field(default_factory=list)
    fresh: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)


def hash_images(pairs: Pairs, rows: Sequence[int]) -> list[tuple[int, str | None, str | None]]:
    """(row, content hash, None) of each image, or (row, None, reason) if it cannot be read."""

    def read(row: int) -> tuple[int, str | None, str | None]:
        try:
            return row, pairs.content_hash(pairs.read_bytes(row), row), None
        except (BadImage, MemoryError) as error:
            return row, None, _reason(error)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(in_order(pool, read, rows, ahead=4 * THREADS))


def encode_unit(
    networks: Sequence[Network], pairs: Pairs, unit: Unit, tick: Callable[[int], Any] = lambda items: None
) -> Encoded:
    """Encode the needed items of one unit; `tick(n)` is called after each batch of n items.

    Threads read, decode and preprocess (or tokenise) the next batches while the networks work on this one.
    """
    result = Encoded(len(unit.items))
    rows: list[list[int]] = [[] for _ in networks]
    parts: list[list[list[np.ndarray | Ragged]]] = [[] for _ in networks]
    with ThreadPoolExecutor(THREADS) as pool:
        prepared = in_order(pool, partial(_prepare, networks, pairs, unit), unit.batches(), ahead=THREADS + 1)
        for batch in prepared:
            result.bad += batch.bad
            for n, chosen, inputs in batch.inputs:
                for kept, features in _encoded(networks[n], unit, chosen, inputs, result.bad):
                    parts[n].append(features)
                    rows[n] += kept
            tick(batch.items)
    for network, chosen, batches in zip(networks, rows, parts, strict=True):
        result.fresh += len(chosen)
        for view, features in zip(network.views, zip(*batches, strict=True), strict=bool(batches)):
            owned = view.modality, view.fingerprint
            result.features.append((*owned, unit.keys[chosen], _joined(features)))
    return result


def _encoded(
    network: Network, unit: Unit, chosen: list[int], inputs: Any, bad: list[tuple[int, str]]
) -> list[tuple[list[int], list[np.ndarray | Ragged]]]:
    """(positions, features by view) of one batch; images that the network fails on by themselves are added to `bad`.

    If it fails on every one of several, the network is at fault, and its error is raised; so is one of a text.
    """
    try:
        return [(chosen, network.encode(inputs))]
    except (BadImage, MemoryError, RuntimeError) as error:  # a film is decoded while it is encoded
        if isinstance(unit.items[chosen[0]], str) or isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        if len(chosen) == 1:
            why = error.reason if isinstance(error, BadImage) else f"cannot be encoded: {_in_words(error)}"
            bad.append((int(unit.items[chosen[0]]), why))
            return []
        failed: list[tuple[int, str]] = []
        each = [
            found
            for row, position in enumerate(chosen)
            for found in _encoded(network, unit, [position], _row(inputs, row, len(chosen)), failed)
        ]
        if not each and not isinstance(error, BadImage):
            raise
        bad += failed
        return each


def _row(inputs: Any, row: int, count: int) -> Any:
    """The inputs of one item of a batch of `count`."""
    batched = {name: hasattr(value, "__len__") and len(value) == count for name, value in inputs.items()}
    return {name: value[row : row + 1] if batched[name] else value for name, value in inputs.items()}


def _in_words(error: Exception) -> str:
    return OUT_OF_MEMORY if isinstance(error, MemoryError) else " ".join(str(error).split()) or type(error).__name__


def _joined(batches: Sequence[Any]) -> np.ndarray | Ragged:
    return join_ragged(batches) if isinstance(batches[0], Ragged) else np.concatenate(batches)


@dataclass
class Prepared:
    """One batch, ready for the networks.

    inputs: (network, positions in the unit that it has yet to encode, their tensors); a network may have several.
    """

    items: int
    inputs: list[tuple[int, list[int], Any]]
    bad: list[tuple[int, str]]


def _prepare(networks: Sequence[Network], pairs: Pairs, unit: Unit, batch: range) -> Prepared:
    """Read, decode and preprocess what any network needs of one batch, `BATCH_BYTES` of pictures at a time."""
    bad: list[tuple[int, str]] = []
    parts: list[list[tuple[list[int], Any]]] = [[] for _ in networks]
    for ready in _ready(pairs, unit, batch, bad):
        for n, (network, needed) in enumerate(zip(networks, unit.needed, strict=True)):
            if chosen := [i for i in ready if needed[i]]:
                parts[n] += _prepared(network, unit, chosen, ready, bad)
    return Prepared(len(batch), [(n, *part) for n, listed in enumerate(parts) for part in joined(listed)], bad)


def _ready(pairs: Pairs, unit: Unit, batch: range, bad: list[tuple[int, str]]) -> Iterator[dict[int, Any]]:
    """The items of a batch by position in the unit, a limited number at a time; those that fail are added to `bad`."""
    ready: dict[int, Any] = {}
    held = 0
    for i in batch:
        if unit.needed[:, i].any():
            try:
                ready[i] = _item(pairs, unit, i)
                held += resized_bytes(ready[i]) if isinstance(ready[i], Image.Image) else getattr(ready[i], "nbytes", 0)
            except (BadImage, MemoryError) as error:
                bad.append((int(unit.items[i]), _reason(error)))
        if held > BATCH_BYTES:
            yield ready
            ready, held = {}, 0
    if ready:
        yield ready


def _reason(error: BadImage | MemoryError) -> str:
    return error.reason if isinstance(error, BadImage) else OUT_OF_MEMORY


def _prepared(
    network: Network, unit: Unit, chosen: list[int], ready: dict[int, Any], bad: list[tuple[int, str]]
) -> list[tuple[list[int], Any]]:
    """(positions, tensors) of these items; an image that fails is identified and added to `bad`."""
    try:
        return [(chosen, network.prepare([ready[i] for i in chosen]))]
    except Exception as error:
        of_encoder = isinstance(error, IsthmusError) and not isinstance(error, BadImage)  # whatever the picture
        if of_encoder or isinstance(unit.items[chosen[0]], str):
            raise
        if len(chosen) == 1:
            why = error.reason if isinstance(error, BadImage) else f"cannot be preprocessed: {_in_words(error)}"
            bad.append((int(unit.items[chosen[0]]), why))
            return []
    return [part for i in chosen for part in _prepared(network, unit, [i], ready, bad)]


def joined(parts: list[tuple[list[int], Any]]) -> list[tuple[list[int], Any]]:
    """Join neighbouring parts of one batch whose tensors have the same shape, so that batches stay as planned."""
    found: list[tuple[list[int], Any]] = []
    for chosen, inputs in parts:
        if found and _alike(found[-1][1], inputs):
            before, held = found[-1]
            found[-1] = (before + chosen, {name: _added(held[name], inputs[name]) for name in held})
        else:
            found.append((chosen, inputs))
    return found


def _alike(one: Any, other: Any) -> bool:
    return all(
        (isinstance(one[name], list) and isinstance(other.get(name), list))
        or (isinstance(one[name], Tensor) and isinstance(other.get(name), Tensor)
            and one[name].ndim > 0 and one[name].shape[1:] == other[name].shape[1:])
        for name in one
    )  # fmt: skip


def _added(one: Any, other: Any) -> Any:
    return one + other if isinstance(one, list) else torch.cat([one, other])


def _item(pairs: Pairs, unit: Unit, i: int) -> Any:
    """The caption, or the decoded image; BadImage if it is damaged, or has changed since it was planned."""
    item = unit.items[i]
    if isinstance(item, str):
        return item
    data = pairs.read_bytes(int(item))
    if pairs.content_hash(data, int(item)) != unit.keys[i].tobytes().hex():
        raise BadImage("changed while it was being embedded; run the same command again.")
    return pairs.picture(int(item), data)


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Job], Outcome], tasks: Iterable[Job], *, ahead: int
) -> Iterator[Outcome]:
    """`work(task)` in threads, at most `ahead` of them in flight; results in order of the tasks."""
    rest = iter(tasks)
    waiting = deque(pool.submit(work, task) for task in islice(rest, ahead))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(pool.submit(work, task) for task in islice(rest, 1))
