"""From a store of states to lines: who says what, the states of each sense, and how else a line may be heard."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isthmus.data.encoder_record import EncoderRecord
from isthmus.data.groups import components, whole_groups
from isthmus.data.splits import assign_splits
from isthmus.errors import InputError, UsageError
from isthmus.speech.model import SENSES
from isthmus.speech.recordings import Heard
from isthmus.speech.vocabulary import plain
from isthmus.store import Store, open_store
from isthmus.store.joining import read_ids
from isthmus.store.keys import to_keys
from isthmus.store.opening import first_choice, uppermost_states
from isthmus.store.states import StatesMatrix

BySense = dict[str, Tensor]  # by sense


@dataclass(frozen=True)
class Version:
    """Another way in which lines are heard. rows: of each line, the row of `states`; −1 where it has none.

    contents: of each row, the hash of what it was made of, noise included.
    """

    heard: Heard
    states: StatesMatrix
    rows: np.ndarray
    contents: list[str]


@dataclass(frozen=True)
class SpokenLines:
    """Lines with their text.

    states, rows: by sense, the states of a store, and of each line its row there. contents: by sense, of each line, the
    hash of what it was made of. versions: of the audio. texts: as written.
    """

    ids: list[str]
    texts: list[str]
    states: dict[str, StatesMatrix]
    rows: dict[str, np.ndarray]
    contents: dict[str, list[str]]
    versions: list[Version] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def records(self) -> dict[str, list[EncoderRecord]]:
        """The records of the layers, by sense."""
        return {name: states.records for name, states in self.states.items()}

    def width(self, sense: str) -> tuple[int, float]:
        """(width of the layers side by side, rate in Hz) of the states of a sense.

        Raises `UsageError` for states without a rate, and layers that are not alike.
        """
        states = self.states[sense]
        if states.rate_hz is None or not states.uniform:
            raise UsageError(f"{states!r}: the states of lines have a rate in Hz, and layers of one width.")
        return sum(states.widths), states.rate_hz

    def lengths(self, sense: str) -> np.ndarray:
        """Frames of each line, int64 [n]."""
        return self.states[sense].lengths(self.rows[sense])

    def take(self, sense: str, lines: np.ndarray, versions: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """(states float32 [n, T, width], valid frames int64 [n]) of some lines; layers stand side by side.

        versions: int64 [n], of each line how it is heard: 0 as it is, k as `versions[k - 1]` where that has the line.
        """
        if versions is None or not versions.any():
            return _side_by_side([self.states[sense]], [self.rows[sense][lines]], [np.arange(len(lines))])
        sources, rows, places = [], [], []
        for number in np.unique(versions).tolist():
            mine = np.flatnonzero(versions == number)
            where = self.rows[sense][lines[mine]]
            if number:
                heard = self.versions[number - 1].rows[lines[mine]]
                absent = heard < 0
                if absent.any():
                    sources.append(self.states[sense])
                    rows.append(where[absent])
                    places.append(mine[absent])
                where, mine = heard[~absent], mine[~absent]
            sources.append(self.versions[number - 1].states if number else self.states[sense])
            rows.append(where)
            places.append(mine)
        return _side_by_side(sources, rows, places)

    def where(self, kept: np.ndarray) -> SpokenLines:
        """Some of the lines, bool [n]."""
        rows = np.flatnonzero(kept).tolist()
        return dataclasses.replace(
            self,
            ids=[self.ids[row] for row in rows],
            texts=[self.texts[row] for row in rows],
            rows={name: one[kept] for name, one in self.rows.items()},
            contents={name: [one[row] for row in rows] for name, one in self.contents.items()},
            versions=[dataclasses.replace(one, rows=one.rows[kept]) for one in self.versions],
        )

    def having(self, senses: Sequence[str]) -> SpokenLines:
        """The lines of which there are states of all these senses."""
        return self.where(np.all([self.rows[name] >= 0 for name in senses], axis=0))

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        heard = [
            (one.heard.name, [record["fingerprint"] for record in one.states.records],
             [one.contents[row] if row >= 0 else "" for row in one.rows.tolist()])
            for one in self.versions
        ]  # fmt: skip
        digest = hashlib.blake2b(json.dumps([self.ids, self.texts, self.contents, heard]).encode(), digest_size=16)
        return {
            "lines": digest.hexdigest(),
            **{name: [one["fingerprint"] for one in listed] for name, listed in self.records.items()},
        }


def _side_by_side(
    sources: list[StatesMatrix], rows: list[np.ndarray], places: list[np.ndarray]
) -> tuple[Tensor, Tensor]:
    found = [source.gather(some) for source, some in zip(sources, rows, strict=True) if len(some)]
    places = [place for place, some in zip(places, rows, strict=True) if len(some)]
    longest = max(mask.shape[1] for _, mask in found)
    layers, _, width = found[0][0].shape[1:]
    count = sum(map(len, places))
    values, frames = torch.zeros(count, longest, layers * width), torch.zeros(count, dtype=torch.long)
    for (states, mask), place in zip(found, places, strict=True):
        values[place, : mask.shape[1]] = torch.from_numpy(states).transpose(1, 2).flatten(2)
        frames[place] = torch.from_numpy(mask.sum(1))
    return values, frames


def split_lines(
    store: Store | str | Path,
    *,
    audio: str | None = None,
    video: str | None = None,
    layers: int = 0,
    only: Any = None,
    seed: int = 0,
) -> dict[str, SpokenLines]:
    """The lines of a store by split: train, val, test, those that are there.

    audio, video: which encoder's states, where the store holds those of several. layers: the uppermost so many of the
    audio's, 0: all. The splits are those of the store; where none validates, some groups do, and lines of equal text or
    equal sound are of one group. `only` keeps these ids for training.
    Raises `UsageError` for a store without such states, `InputError` for one without lines.
    """
    opened = store if isinstance(store, Store) else open_store(first_choice(store, {})[0])
    lines, groups, named = _gathered(opened, {"audio": audio, "video": video}, layers)
    split = assign_splits(named, groups, seed=seed)
    if only is not None:
        wanted = set(read_ids(only))
        split = np.where((split == "train") & ~np.isin(lines.ids, list(wanted)), "left", split)
    found = {name: lines.where(split == name) for name in ("train", "val", "test") if (split == name).any()}
    if "train" not in found:
        raise InputError(f"{opened.path}: no line of it is for training.")
    return found


def _gathered(
    store: Store, named: dict[str, str | None], layers: int
) -> tuple[SpokenLines, list[str], list[str | None]]:
    """All lines of a store, the name of each one's group, and its split as the store has it."""
    held = {record["modality"] for record in store.encoders}
    senses = [name for name in SENSES if name in store.modalities and name in held]
    if not senses:
        raise UsageError(
            f"{store.path}: holds no states of sound or video. Embed lines with an encoder of speech, "
            "layer=4&pool=states in its URI."
        )
    captions = store.captions
    ids, texts = captions["id"].to_pylist(), captions["caption"].to_pylist()
    if len(set(ids)) < len(ids):
        raise InputError(f"{store.path}: some recordings have several texts, but a line is said once.")
    tables = {name: store.table(name) for name in senses}
    rows, contents, about = {}, {}, dict[str, list[str | None]]()
    for name, table in tables.items():
        place = {id: row for row, id in enumerate(table["id"].to_pylist())}
        if len(place) < table.num_rows:
            raise InputError(f"{store.path}: some lines have several items of {name!r}.")
        rows[name] = np.array([place.get(id, -1) for id in ids], np.int64)
        hashes = table["content_hash"].to_pylist()
        contents[name] = [hashes[row] if row >= 0 else "" for row in rows[name].tolist()]
        for column in ("group", "split"):
            values = table[column].to_pylist()
            told = about.setdefault(column, [None] * len(ids))
            about[column] = [
                one or (values[row] if row >= 0 else None) for one, row in zip(told, rows[name], strict=True)
            ]
    wanted = {"audio": layers, "video": 1}
    states = {name: uppermost_states(store, name, named[name], wanted[name], "speech.layers") for name in senses}
    lines = SpokenLines(ids, texts, states, rows, contents)
    kept = np.any([one >= 0 for one in rows.values()], axis=0) & np.array(
        [bool(plain(text, "written")) for text in texts]
    )
    groups = _groups(lines, about["group"])
    chosen = np.flatnonzero(kept).tolist()
    return lines.where(kept), [groups[row] for row in chosen], [about["split"][row] for row in chosen]


def _groups(lines: SpokenLines, given: list[str | None]) -> list[str]:
    """The smallest id of each line's group: by the column `group`, equal content or equal text."""
    first = lines.contents[next(iter(lines.contents))]
    keys = to_keys(
        [
            one or hashlib.blake2b(id.encode(), digest_size=16).hexdigest()
            for one, id in zip(first, lines.ids, strict=True)
        ]
    )
    own = whole_groups(given, keys)
    texts = np.array([plain(text, "spoken") or id for text, id in zip(lines.texts, lines.ids, strict=True)])
    group, _ = components(own, texts, np.arange(len(texts)))
    least: dict[int, str] = {}
    for number, id in zip(group.tolist(), lines.ids, strict=True):
        least[number] = min(id, least.get(number, id))
    return [least[number] for number in group.tolist()]
