"""What is indexed: folders and tables of pictures by name, read as pairs, and their pictures as items."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from isthmus.data.feature_pairs import SIDES
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.data.sources import file_of
from isthmus.embedding.content_index import Contents
from isthmus.errors import InputError, UsageError
from isthmus.index.items import ITEM_SCHEMA
from isthmus.store.opening import holds_features


@dataclass
class IndexSource:
    """A source: its name, which stays the same from scan to scan, and its pictures."""

    name: str
    pairs: Pairs


def read_sources(named: Any, **reading: Any) -> list[IndexSource]:
    """Each of those named as pairs; captions are not needed.

    Raises `InputError` for what cannot be read, or a store, which holds no pictures; `UsageError` for one named twice.
    """
    listed = list(named) if isinstance(named, list | tuple) else [named]
    found = []
    for one in listed:
        if holds_features(one):
            raise InputError(f"{one}: a store, which holds no pictures. Name the folder or the table that they are in.")
        pairs = one if isinstance(one, Pairs) else read_pairs(one, captions="optional", **reading)
        if SIDES[0] not in pairs.modalities:
            raise InputError(f"{one}: holds no images but {' and '.join(pairs.modalities)}; an index is of images.")
        name = os.path.abspath(pairs.path) if isinstance(one, Pairs) and pairs.path else _name(one)
        found.append(IndexSource(name, pairs.side(SIDES[0])))
    if twice := {source.name for source in found if [other.name for other in found].count(source.name) > 1}:
        raise UsageError(f"{min(twice)} is named twice.")
    return found


def _name(source: Any) -> str:
    return os.path.abspath(source) if isinstance(source, str | os.PathLike) else "table"


def scanned_items(source: IndexSource, contents: Contents) -> pa.Table:
    """The items of a source (`ITEM_SCHEMA`, rows not yet known); pictures that cannot be used are left out."""
    pairs = source.pairs
    captions: dict[str, list[str]] = defaultdict(list)
    for id, caption in zip(*(pairs.captions[name].to_pylist() for name in ("id", "caption")), strict=True):
        captions[id].append(caption)
    labels, places = (pairs.images[name].to_pylist() for name in ("label", "source"))
    samples, signatures = pairs.samples, pairs.signatures()
    usable = [row for row, why in enumerate(contents.reasons) if not why and contents.hashes[row]]
    columns: dict[str, Sequence[Any]] = {
        "row": [-1] * len(usable),
        "source": [source.name] * len(usable),
        "id": [contents.ids[row] for row in usable],
        "path": [_path(pairs, places[row]) for row in usable],
        "captions": [captions.get(samples[row]) for row in usable],
        "label": [labels[row] for row in usable],
        "folder": [_folder(contents.ids[row]) for row in usable],
        "content_hash": [contents.hashes[row] for row in usable],
        "signature": [signatures[row] for row in usable],
        "missing": [False] * len(usable),
    }
    return pa.table(columns, schema=ITEM_SCHEMA)


def _path(pairs: Pairs, place: int) -> str | None:
    found = file_of(pairs.reader, place)
    return None if found is None else os.path.abspath(found)


def _folder(id: str) -> str:
    parent = PurePosixPath(Path(id).as_posix()).parent.as_posix()
    return "" if parent == "." else parent.strip("/")
