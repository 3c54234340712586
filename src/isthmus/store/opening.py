"""Recognising and opening whatever holds pairs; every command uses these functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.pairs import Pairs, as_pairs, read_pairs
from isthmus.data.records import CaptionRule
from isthmus.data.tables import is_frame
from isthmus.errors import InputError, UsageError
from isthmus.files import read_sealed
from isthmus.store.manifest import is_store, is_unfinished
from isthmus.store.reader import Store, open_store
from isthmus.store.states import StatesMatrix

SELECTION = "select.json"  # what `isthmus select` writes


def holds_features(source: Any) -> bool:
    """Whether `source` is arrays, or a store or its folder: features that need no encoder.

    True also for a store whose first run was interrupted: `open_store` finds its commit, or explains what to do.
    """
    if isinstance(source, str | Path):
        return is_store(Path(source)) or is_unfinished(Path(source))
    return isinstance(source, Store | FeaturePairs)


def open_source(source: Any, captions: CaptionRule = "optional") -> Store | FeaturePairs | Pairs:
    """A store from its folder, pairs from anything else that `read_pairs` reads; opened ones are returned as they are.

    Raises `InputError` as `open_store` and `read_pairs` do, `UsageError` for what is neither a path nor open.
    """
    if isinstance(source, Store | FeaturePairs | Pairs):
        return source
    if not isinstance(source, str | Path) and not is_frame(source):
        raise UsageError(f"Give pairs, a data frame, a store or the path of one, not a {type(source).__name__}.")
    return open_store(source) if holds_features(source) else read_pairs(source, captions=captions)


def open_pairs(source: Any, captions: CaptionRule = "required", **options: Any) -> Pairs:
    """Pairs with their pictures, read where they are named; options: those of `read_pairs`.

    Raises `InputError` as `read_pairs` does, and for features alone; `UsageError` for options of what is read already.
    """
    if holds_features(source):
        name = source if isinstance(source, str | Path) else getattr(source, "path", "arrays")
        raise InputError(f"{name}: holds features, and no pictures. Give the pairs that they were made of.")
    return as_pairs(source, captions=captions, **options)


def read_first(source: Any, captions: CaptionRule = "optional", **reading: Any) -> Any:
    """`source` as it is, or read as pairs if options of `read_pairs` are given (`columns`, `images`, …).

    Raises `UsageError` for such options of a store or arrays.
    """
    given = {name: value for name, value in reading.items() if value is not None}
    if not given:
        return source
    if holds_features(source):
        name = source if isinstance(source, str | Path) else getattr(source, "path", "arrays")
        raise UsageError(f"{name}: holds features: {', '.join(given)} are for reading pairs.")
    return open_pairs(source, captions, **given)


def first_choice(folder: str | Path, named: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The store and the encoders of a selection's first choice; encoders in `named` take precedence.

    A folder without select.json is a store itself and passes. Raises `InputError` for a selection among arrays.
    """
    folder = Path(folder)
    if not (folder / SELECTION).is_file():
        return folder, named
    written = read_sealed(folder / SELECTION)
    if not isinstance(written, dict) or not isinstance(written.get("first_choice"), dict) or "store" not in written:
        raise InputError(f"{folder / SELECTION}: not what `isthmus select` writes. Run it again.")
    if written["store"] is None:
        raise InputError(
            f"{folder}: a selection among arrays, which are not stored; train `selection.feature_pairs()` in Python."
        )
    chosen = {side: named.get(side) or written["first_choice"][side] for side in written["first_choice"]}
    if "modalities" in written:
        chosen["modalities"] = tuple(written["modalities"])
    return folder / written["store"], named | chosen


def uppermost_states(store: Store, modality: str, which: str | None, count: int, asked: str) -> StatesMatrix:
    """The states of the uppermost `count` layers that a store holds of an encoder (`Store.states`); 0: of all.

    asked: what the count is called. Raises `UsageError` where there are fewer, and as `Store.states`.
    """
    found = store.states(modality, which)
    if count > len(found.records):
        there = ", ".join(map(str, found.layers))
        raise UsageError(
            f"{asked} = {count}, but {store.path} holds {len(found.records)} layers of the {modality} encoder "
            f"({there}). Embed more (layer=…&pool=states), or ask for fewer."
        )
    return store.states(modality, which, layers=found.layers[-count:]) if count else found
