"""A test split where the data bring none: whole groups, so that no item and no caption is on both sides.

Splits are of samples: a picture, a signal and their captions with one id are on one side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from isthmus.data.feature_pairs import SIDES
from isthmus.data.groups import connected
from isthmus.data.pairs import Pairs
from isthmus.data.splits import normalise_split, test_groups
from isthmus.embedding.content_index import Contents
from isthmus.errors import InputError, UsageError
from isthmus.modality import Modality
from isthmus.store.keys import text_hash

RunContents = Mapping[Modality, Contents]  # the items of a run that are files
Stored = Mapping[Modality, pa.Table]  # the tables that a store has already
TEXT = SIDES[1]


def check_share(share: float | None, pairs: Pairs) -> None:
    """`UsageError` for what is no share, `InputError` for pairs that name a test split already."""
    if share is None:
        return
    if not 0 < share < 1:
        raise UsageError(f"test={share} (--test): the share of images to hold out lies between 0 and 1, as in 0.2.")
    named = _named(pairs).count("test")
    if named:
        raise InputError(
            f"{pairs.path}: names a test split itself, of {named:,} {_called([pairs.modality])}. Leave --test out, or "
            "empty its column."
        )


def keep_splits(run: RunContents, before: Stored) -> list[str]:
    """Give the items of a run without a split that which the store knows of their sample; a note where there are any.

    Changes `pairs` of each `Contents`.
    """
    known = _stored_splits(before)
    kept: set[str] = set()
    for contents in run.values():
        named = contents.pairs.images["split"].to_pylist()
        found = [one or known.get(sample) for one, sample in zip(named, contents.pairs.samples, strict=True)]
        kept |= {
            sample for one, split, sample in zip(named, found, contents.pairs.samples, strict=True) if split and not one
        }
        _set_splits(contents, found)
    note = f"{len(kept):,} {_called(run)}, of which these pairs name no split, keep the one that the store has."
    return [note] if kept else []


def hold_out(run: RunContents, captions: pa.Table, before: Stored, share: float, seed: int) -> list[str]:
    """Put about `share` of the samples of a run into the split test, and say so. Changes `pairs` of each `Contents`.

    Samples belong together that have an equal item (unreadable ones equal none), an equal caption or a group of the
    user's in common, or are linked through others. What is linked to a test sample that the store has from other pairs
    tests too; what is linked to another sample there, or to one that the data name for validation, does not.

    Raises `InputError` if no group is small enough, or if the store has a test split of these samples, whose items are
    of another modality.
    """
    splits = {
        sample: split
        for contents in run.values()
        for sample, split in zip(contents.pairs.samples, _named(contents.pairs), strict=True)
    }
    others = {name: table for name, table in before.items() if name != TEXT}
    _check_free(splits, {name: table for name, table in others.items() if name not in run}, run)
    links = _links(run, captions, others, before.get(TEXT), splits)
    group = links.groups()
    known = _stored_splits(others)
    rest = [sample for table in others.values() for sample in table["id"].to_pylist() if sample not in splits]
    tested = {group[sample] for sample in rest if known.get(sample) == "test"}
    fixed = {group[sample] for sample in [*rest, *(one for one, split in splits.items() if split == "val")]}
    names: dict[int, str] = {}
    sizes: dict[int, int] = {}
    for sample in splits:
        one = group[sample]
        names[one], sizes[one] = min(sample, names.get(one, sample)), sizes.get(one, 0) + 1
    free = {names[one]: size for one, size in sizes.items() if one not in fixed}
    chosen = test_groups(free, round(share * len(splits)), seed=seed)
    held = {sample for sample in splits if group[sample] in tested or names[group[sample]] in chosen}
    for contents in run.values():
        own = [("test" if sample in held else splits[sample]) for sample in contents.pairs.samples]
        _set_splits(contents, own)
    return [_said(len(held), len(splits), len({group[sample] for sample in held}), share, SIDES[0] in run)]


@dataclass
class _Links:
    """What samples have in common: edges between samples and whatever they are equal in."""

    nodes: dict[tuple[str, str], int] = field(default_factory=dict)
    edges: list[tuple[int, int]] = field(default_factory=list)

    def add(self, what: str, samples: Iterable[str], keys: Iterable[str | None]) -> None:
        for sample, key in zip(samples, keys, strict=True):
            node = self._node("sample", sample)
            if key is not None:
                self.edges.append((node, self._node(what, key)))

    def groups(self) -> dict[str, int]:
        """The group of each sample."""
        ends = np.array(self.edges, np.int64).reshape(-1, 2)
        found = connected(len(self.nodes), ends[:, 0], ends[:, 1]).tolist()
        return {name: found[node] for (what, name), node in self.nodes.items() if what == "sample"}

    def _node(self, what: str, name: str) -> int:
        return self.nodes.setdefault((what, name), len(self.nodes))


def _links(
    run: RunContents, captions: pa.Table, others: Stored, texts: pa.Table | None, mine: Mapping[str, object]
) -> _Links:
    """Of a run and of what the store has from other pairs; what it has of the same samples is replaced."""
    links = _Links()
    for modality, contents in run.items():
        samples = contents.pairs.samples
        links.add(modality, samples, contents.hashes)
        links.add("group", samples, contents.pairs.images["group"].to_pylist())
    links.add(TEXT, captions["id"].to_pylist(), map(text_hash, captions["caption"].to_pylist()))
    for modality, table in {**others, **({} if texts is None else {TEXT: texts})}.items():
        rest = table.filter(pa.array([sample not in mine for sample in table["id"].to_pylist()], pa.bool_()))
        samples = rest["id"].to_pylist()
        links.add(modality, samples, rest["content_hash"].to_pylist())
        if "group" in rest.column_names:
            links.add("group", samples, rest["group"].to_pylist())
    return links


def _check_free(samples: Mapping[str, object], others: Stored, run: RunContents) -> None:
    """The store has no test split of these samples already, with items of other modalities than the run's."""
    held = sum(split == "test" and sample in samples for sample, split in _stored_splits(others).items())
    if held:
        raise InputError(
            f"The store holds out {held:,} of these {_called(run)} already, by their items of {', '.join(others)}. "
            "Leave --test out: they keep their split."
        )


def _stored_splits(before: Stored) -> dict[str, str]:
    """The split of each sample that a store names."""
    tables = [table for table in before.values() if "split" in table.column_names]
    rows = [row for table in tables for row in zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True)]
    return {sample: split for sample, split in reversed(rows) if split is not None}


def _set_splits(contents: Contents, splits: list[str | None]) -> None:
    images = contents.pairs.images
    column = pa.chunked_array([pa.array(splits, pa.string())])
    contents.pairs = contents.pairs.having(images.set_column(images.column_names.index("split"), "split", column))


def _named(pairs: Pairs) -> list[str | None]:
    """The split of each image as the data say it, by its usual name."""
    return [name and normalise_split(name) for name in pairs.images["split"].to_pylist()]


def _called(modalities: Iterable[Modality]) -> str:
    return "images" if SIDES[0] in modalities else "samples"


def _said(count: int, of: int, groups: int, share: float, pictures: bool) -> str:
    called, item = ("images", "picture") if pictures else ("samples", "item")
    if not count:
        raise InputError(
            f"test={share} (--test): equal {item}s, captions or groups link the {called} into parts too large to hold "
            "out. Give a larger share, or name splits in a column `split`."
        )
    text = f"test: {count:,} of {of:,} {called} ({count / of:.1%}) are held out, {groups:,} whole groups; "
    return text + f"none shares {'a picture' if pictures else 'an item'}, a caption or a group with the rest."
