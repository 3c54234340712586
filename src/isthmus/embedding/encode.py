"""What one worker does: read and hash images, or encode one unit of the plan. The same in every engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from isthmus.data.images import BadImage
from isthmus.data.pairs import Pairs
from isthmus.data.ragged import Ragged, join_ragged
from isthmus.embedding.networks import Network
from isthmus.embedding.work_plan import Unit

THREADS = 4  # that read and decode images ahead of the network
Task = TypeVar("Task")
Result = TypeVar("Result")


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
    """(row, content hash, None) of each image, or (row, None, reason) where it cannot be read."""

    def read(row: int) -> tuple[int, str | None, str | None]:
        try:
            return row, pairs.content_hash(pairs.read_bytes(row)), None
        except BadImage as error:
            return row, None, error.reason

    with ThreadPoolExecutor(THREADS) as pool:
        return list(in_order(pool, read, rows, ahead=4 * THREADS))


def encode_unit(
    networks: Sequence[Network], pairs: Pairs, unit: Unit, tick: Callable[[int], Any] = lambda items: None
) -> Encoded:
    """Encode what is needed of one unit; `tick(n)` is called after each batch of n items.

    Threads read, decode and preprocess (or tokenise) the next batches while the networks work on this one.
    """
    result = Encoded(len(unit.items))
    rows: list[list[int]] = [[] for _ in networks]
    parts: list[list[list[np.ndarray | Ragged]]] = [[] for _ in networks]
    with ThreadPoolExecutor(THREADS) as pool:
        prepared = in_order(pool, partial(_prepare, networks, pairs, unit), unit.batches(), ahead=THREADS + 1)
        for batch in prepared:
            result.bad += batch.bad
            for n, (chosen, inputs) in enumerate(batch.inputs):
                if chosen:
                    parts[n].append(networks[n].encode(inputs))
                    rows[n] += chosen
            tick(batch.items)
    for network, chosen, batches in zip(networks, rows, parts, strict=True):
        result.fresh += len(chosen)
        for view, features in zip(network.views, zip(*batches, strict=True), strict=bool(batches)):
            owned = view.modality, view.fingerprint
            result.features.append((*owned, unit.keys[chosen], _joined(features)))
    return result


def _joined(batches: Sequence[Any]) -> np.ndarray | Ragged:
    return join_ragged(batches) if isinstance(batches[0], Ragged) else np.concatenate(batches)


@dataclass
class Prepared:
    """One batch on its way into the networks.

    inputs: for each network, the positions in the unit that it has yet to encode, and their tensors.
    """

    items: int
    inputs: list[tuple[list[int], Any]]
    bad: list[tuple[int, str]]


def _prepare(networks: Sequence[Network], pairs: Pairs, unit: Unit, batch: range) -> Prepared:
    """Read, decode and preprocess what any network needs of one batch."""
    ready: dict[int, Any] = {}
    bad = []
    for i in batch:
        if unit.needed[:, i].any():
            try:
                ready[i] = _item(pairs, unit, i)
            except BadImage as error:
                bad.append((int(unit.items[i]), error.reason))
    inputs = []
    for network, needed in zip(networks, unit.needed, strict=True):
        chosen = [i for i in ready if needed[i]]
        inputs.append((chosen, network.prepare([ready[i] for i in chosen]) if chosen else None))
    return Prepared(len(batch), inputs, bad)


def _item(pairs: Pairs, unit: Unit, i: int) -> Any:
    """The caption, or the decoded image; BadImage if it is damaged, or not the one that was planned."""
    item = unit.items[i]
    if isinstance(item, str):
        return item
    data = pairs.read_bytes(int(item))
    if pairs.content_hash(data) != unit.keys[i].tobytes().hex():
        raise BadImage("changed while it was being embedded; run the same command again.")
    return pairs.picture(int(item), data)


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Task], Result], tasks: Iterable[Task], *, ahead: int
) -> Iterator[Result]:
    """`work(task)` in threads, at most `ahead` of them in flight; results in order of the tasks."""
    rest = iter(tasks)
    waiting = deque(pool.submit(work, task) for task in islice(rest, ahead))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(pool.submit(work, task) for task in islice(rest, 1))
