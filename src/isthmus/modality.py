"""The modalities there are, by name, and what the rest of isthmus asks of one: light enough for every part to import.

Nothing else lists modalities. Ours are in `isthmus.encoders.modality`, `isthmus.data.audio` and `isthmus.data.video`.
Another package adds one by an entry point of the group `isthmus.modalities` that names a `ModalitySpec`; its encoders
come from a source of its own (`isthmus.encoders.sources`). From then on its items are read from pairs, embedded,
selected, trained on, evaluated and searched beside those of any other modality.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from isthmus.registry import Registry

Modality = str  # a name of `MODALITIES`


@dataclass(frozen=True)
class ModalitySpec:
    """What is particular to a modality.

    read: a list of items as encoders take them; `InputError` for anything else.
    probe: makes the small item that an encoder's widths are learned from.
    options: of an encoder's URI, that only encoders of such modalities have.
    many: its poolings that give several vectors of an item. single, tokens: the poolings to embed with for heads of
        pooled features, and for heads of tokens, as messages advise them.
    padded: whether items differ in their number of tokens, so that features of tokens end in padding.
    length: of an item, by which those that are batched together are sorted; None where all cost the same.
    held: whether an item holds its file until the network has gone through it, as a film does, so that few may wait.
    decode: the item in the bytes of a file, of which `part` holds the cells of a row; any exception says that it is
        damaged. None where items are no files but stand in the table itself, as texts do.
    columns: of a table of pairs, that hold its items: its own first, then as others spell it.
    part: further columns, that say which part of the file an item is (`start`, `end`).
    about: columns that say more of an item, and are kept with pairs (`speaker`).
    endings: of its files in folders, with their dot, in small letters.
    table: of a store, in which its items stand; None: one with the modality's name. Only ours have another.
    """

    read: Callable[[Sequence[Any]], list[Any]]
    probe: Callable[[], Any]
    options: tuple[str, ...]
    many: tuple[str, ...]
    single: str
    tokens: str
    padded: bool
    length: Callable[[Any], int] | None = None
    held: bool = False
    decode: Callable[..., Any] | None = None
    columns: tuple[str, ...] = ()
    part: tuple[str, ...] = ()
    about: tuple[str, ...] = ()
    endings: tuple[str, ...] = ()
    table: str | None = None


MODALITIES = Registry(
    "isthmus.modalities",
    {
        "image": "isthmus.encoders.modality:IMAGE",
        "text": "isthmus.encoders.modality:TEXT",
        "audio": "isthmus.data.audio:AUDIO",
        "video": "isthmus.data.video:VIDEO",
    },
    noun="modality",
)
FIRST = tuple(MODALITIES.own)[:2]  # image and text, of which every store has a table


def spec_of(modality: Modality) -> ModalitySpec:
    """The spec of a modality by its name; `UsageError` for one that is not registered."""
    spec: ModalitySpec = MODALITIES.find(modality)
    return spec


def others() -> dict[Modality, ModalitySpec]:
    """Those beside images and texts whose items are files: audio, video, and those of other packages."""
    names = [name for name in MODALITIES.names() if name not in FIRST]
    return {name: spec for name in names if (spec := spec_of(name)).decode is not None}


def table_of(modality: Modality) -> str:
    """The table of a store in which the items of a modality stand, registered here or not; also what they are called,
    several of them.
    """
    return (spec_of(modality).table or modality) if modality in FIRST else modality
