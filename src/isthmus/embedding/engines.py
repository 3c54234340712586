"""Engines that do the planned work: this process, or the workers of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from isthmus.data.pairs import Pairs
from isthmus.embedding import networks as loading
from isthmus.embedding.encode import Encoded, encode_unit, hash_images
from isthmus.embedding.networks import Network
from isthmus.embedding.work_plan import Unit
from isthmus.encoders import Encoder
from isthmus.encoders.modality import Modality
from isthmus.errors import InputError, UsageError, did_you_mean

ENGINES = ("local", "ray")
Tick = Callable[[int], Any]


def check_engine(engine: str) -> None:
    """UsageError for an engine that does not exist."""
    if engine not in ENGINES:
        raise UsageError(f"Unknown engine {engine!r}." + did_you_mean(engine, ENGINES))


def hash_all(engine: str, pairs: Pairs, chunks: Sequence[Sequence[int]]) -> Iterator[list[Any]]:
    """`hash_images` of every chunk of rows; chunks come back in any order."""
    if engine == "local":
        return (hash_images(pairs, rows) for rows in chunks)
    from isthmus.ray_data import run

    return run(partial(_hasher, pairs), chunks)


def encode_all(
    engine: str, networks: Sequence[Network], pairs: Pairs, units: Sequence[Unit], options: dict[str, Any], tick: Tick
) -> Iterator[Encoded]:
    """`encode_unit` of every unit, which come back in any order; `tick(n)` whenever n more items are done."""
    if engine == "local":
        yield from (encode_unit(networks, pairs, unit, tick) for unit in units)
        return
    from isthmus.ray_data import run

    make = partial(_encoder, [_portable(network) for network in networks], pairs, options)
    gpus = float(networks[0].views[0].device.type == "cuda")
    for encoded in run(make, units, threads=torch.get_num_threads(), gpus=gpus):
        tick(encoded.items)
        yield encoded


def _hasher(pairs: Pairs) -> Callable[[Sequence[int]], list[Any]]:
    return partial(hash_images, pairs)


def _encoder(
    portable: Sequence[tuple[Modality, list[Any], list[str], Any]], pairs: Pairs, options: dict[str, Any]
) -> Callable[[Unit], Encoded]:
    """On a worker: load the networks, check that they are the same, and encode the units that it receives."""
    networks = []
    for modality, references, fingerprints, autocast in portable:
        views = loading.load(references, modality, **options)
        if not all(map(Encoder.recognise, views, fingerprints)):
            raise InputError(
                f"{references[0]}: other weights or another preprocessing on a worker than where the run was "
                "started. Give all machines the same files and versions."
            )
        networks.append(Network(views, autocast))
    return partial(encode_unit, networks, pairs)


def _portable(network: Network) -> tuple[Modality, list[str | Encoder], list[str], Any]:
    """A network in a form that another process can load: its URI, or the callable itself."""
    references: list[str | Encoder] = [
        view if view.uri.source == "callable" else str(view.uri) for view in network.views
    ]
    fingerprints = [view.fingerprint for view in network.views]
    return network.views[0].modality, references, fingerprints, network.autocast
