"""The other ways in which the lines of a run are heard: each is encoded once, into a store of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.pairs import Pairs
from isthmus.embedding import embed
from isthmus.encoders import Encoder, load_recorded
from isthmus.errors import InputError, UsageError
from isthmus.models.saved import check_encoders
from isthmus.speech.recordings import AUDIO, Heard, NoiseSource, NoisyRecordings, speakers_of
from isthmus.store import open_store
from isthmus.store.opening import open_pairs
from isthmus.training.fit import Fitting
from isthmus.training.processes import Processes
from isthmus.training.speech.data import SpokenLines, Version
from isthmus.training.speech.recipe import NoiseOptions

FOLDER = "heard"  # in the folder of a run
Splits = dict[str, SpokenLines]


def ways(options: NoiseOptions, noise: Any, recordings: Any) -> list[Heard]:
    """The ways in which lines are heard in training, besides as they are. Raises `UsageError` for noise alone."""
    if recordings is None:
        if noise is not None:
            raise UsageError(
                "noise is mixed with recordings: name those of the store's lines too (--recordings PAIRS)."
            )
        return []
    found = [Heard(snr, draw=draw) for snr in options.snr for draw in range(options.draws)] if noise is not None else []
    return found + [Heard(speed=speed) for speed in options.speeds]


def with_versions(
    lines: Splits, options: NoiseOptions, how: Fitting, *, recordings: Any, noise: Any, folder: Path
) -> Splits:
    """The lines for training and validation with the states of every way of being heard.

    recordings: pairs with the recordings of the store's lines. noise: a recording, or recordings that babble. folder:
    keeps a store for each way, so that a later run encodes nothing again.
    Raises `InputError` for other recordings than the lines were made of, and for noise that is among them.
    """
    heard = ways(options, noise, recordings)
    if not heard:
        return lines
    wanted = {name: part for name, part in lines.items() if name != "test"}
    pairs = _recordings_of(wanted, open_pairs(recordings))
    source = None if noise is None else NoiseSource.open(noise, voices=options.voices)
    if source is not None:
        every = [content for part in lines.values() for content in part.contents[AUDIO]]
        source.check(every, speakers_of(pairs.side(AUDIO)))
    stores = [(one, folder / one.name) for one in heard]
    processes = Processes()
    if processes.first or how.out is None:  # where there is a folder for all, one of them writes
        views = _views(lines, how.device)
        for one, path in stores:
            # what is too long for the encoder at another speed is heard as it is
            changed = NoisyRecordings.of(pairs, one, source, how.seed)
            embed(changed, encoders=views, out=path, max_skip=1.0, progress=how.progress)
    processes.wait()
    return {name: _heard(part, stores) if name in wanted else part for name, part in lines.items()}


def _recordings_of(lines: Splits, pairs: Pairs) -> Pairs:
    """The pairs of the lines, whose recordings are those that the store was made of."""
    contents = {
        id: one for part in lines.values() for id, one in zip(part.ids, part.contents[AUDIO], strict=True) if one
    }
    side = pairs.side(AUDIO)
    lost = [id for id in contents if id not in set(side.samples)]
    if lost:
        raise InputError(f"{pairs.path}: {len(lost):,} lines of the store have no recording there, as {lost[0]!r}.")
    chosen = pairs.subset(contents)
    side = chosen.side(AUDIO)
    for row, id in list(enumerate(side.samples))[:: max(1, len(contents) // 8)]:
        if side.content_hash(side.read_bytes(row), row) != contents[id]:
            raise InputError(f"{pairs.path}: {id!r} is another recording than the one the store was made of.")
    return chosen


def _views(lines: Splits, device: str | None) -> list[Encoder]:
    records = next(iter(lines.values())).records[AUDIO]
    views = load_recorded([record["uri"] for record in records], modality=AUDIO, device=device)
    check_encoders(views, records)
    return views


def _heard(lines: SpokenLines, stores: list[tuple[Heard, Path]]) -> SpokenLines:
    return dataclasses.replace(lines, versions=list(_versions(lines, stores)))


def _versions(lines: SpokenLines, stores: list[tuple[Heard, Path]]) -> Iterator[Version]:
    for heard, path in stores:
        store = open_store(path)
        table = store.table(AUDIO)
        place = {id: row for row, id in enumerate(table["id"].to_pylist())}
        rows = np.array([place.get(id, -1) for id in lines.ids], np.int64)
        yield Version(heard, store.states(AUDIO), rows, table["content_hash"].to_pylist())
