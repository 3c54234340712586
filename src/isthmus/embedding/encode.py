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

from isthmus.data.images import BadImage, content_hash, decode
from isthmus.data.pairs import Pairs
from isthmus.embedding.networks import Network
from isthmus.embedding.units import Unit

THREADS = 4  # that read and decode images ahead of the network
Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass
class Encoded:
    """One unit, encoded.

    features: for every view (modality, fingerprint, keys uint8 [n, 16], features float32 [n, width]).
    items: how many the unit has. fresh: those that were new, counted once per network. bad: (row, reason) of
        images that cannot be decoded.
    """

    items: int
    features: list[tuple[str, str, np.ndarray, np.ndarray]] = field(default_factory=list)
    fresh: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)


def hash_images(pairs: Pairs, rows: Sequence[int]) -> list[tuple[int, str | None, str | None]]:
    """(row, content hash, None) of each image, or (row, None, reason) where it cannot be read."""

    def read(row: int) -> tuple[int, str | None, str | None]:
        try:
            return row, content_hash(pairs.read_bytes(row)), None
        except BadImage as error:
            return row, None, error.reason

    with ThreadPoolExecutor(THREADS) as pool:
        return list(in_order(pool, read, rows, ahead=4 * THREADS))


def encode_unit(
    networks: Sequence[Network], pairs: Pairs, unit: Unit, tick: Callable[[int], Any] = lambda items: None
) -> Encoded:
    """Encode what is needed of one unit; `tick(n)` is called after each batch of n items."""
    result = Encoded(len(unit.items))
    rows: list[list[int]] = [[] for _ in networks]
    parts: list[list[list[np.ndarray]]] = [[] for _ in networks]
    with ThreadPoolExecutor(THREADS) as pool:
        prepared = _prepared(pool, networks, pairs, unit)
        for batch in unit.batches():
            inputs = list(zip(batch, islice(prepared, len(batch)), strict=True))
            result.bad += [(int(unit.items[i]), one.reason) for i, one in inputs if isinstance(one, BadImage)]
            for n, network in enumerate(networks):
                ready = [(i, one[n]) for i, one in inputs if unit.needed[n, i] and not isinstance(one, BadImage)]
                if ready:
                    parts[n].append(network.encode([one for _, one in ready]))
                    rows[n] += [i for i, _ in ready]
            tick(len(batch))
    for network, chosen, batches in zip(networks, rows, parts, strict=True):
        result.fresh += len(chosen)
        for view, features in zip(network.views, zip(*batches, strict=True), strict=bool(batches)):
            owned = view.modality, view.fingerprint
            result.features.append((*owned, unit.keys[chosen], np.concatenate(features)))
    return result


def _prepared(pool: ThreadPoolExecutor, networks: Sequence[Network], pairs: Pairs, unit: Unit) -> Iterator[Any]:
    """The inputs of every item in order: a list with one entry per network, or a `BadImage`."""
    if networks[0].views[0].modality == "text":
        return ([text] * len(networks) for text in unit.items)
    work = partial(_pixels, networks, pairs, unit)
    return in_order(pool, work, range(len(unit.items)), ahead=2 * unit.batch_size)


def _pixels(networks: Sequence[Network], pairs: Pairs, unit: Unit, i: int) -> list[Any] | BadImage:
    """One image, preprocessed for each network that needs it."""
    needed = unit.needed[:, i]
    if not needed.any():
        return []
    row = int(unit.items[i])
    try:
        data = pairs.read_bytes(row)
        if content_hash(data) != unit.keys[i].tobytes().hex():
            raise BadImage("changed while it was being embedded; run the same command again.")
        image = decode(data, max_pixels=pairs.max_pixels)
    except BadImage as error:
        return error
    both = zip(networks, needed, strict=True)
    return [network.views[0].preprocess([image]) if need else None for network, need in both]


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[Task], Result], tasks: Iterable[Task], *, ahead: int
) -> Iterator[Result]:
    """`work(task)` in threads, at most `ahead` of them in flight; results in order of the tasks."""
    rest = iter(tasks)
    waiting = deque(pool.submit(work, task) for task in islice(rest, ahead))
    while waiting:
        yield waiting.popleft().result()
        waiting.extend(pool.submit(work, task) for task in islice(rest, 1))
