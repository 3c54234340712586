"""Modalities: their items, the probe of their encoders, their poolings, options and tables.

Nothing else lists modalities. Another package adds one by an entry point of the group `isthmus.modalities` that names
a `ModalitySpec`; its encoders come from a source of its own (`isthmus.encoders.sources`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from isthmus.data.records import encodable
from isthmus.encoders.images import probe_image, to_pil
from isthmus.errors import InputError
from isthmus.registry import Registry

Modality = str  # a name of `MODALITIES`


@dataclass(frozen=True)
class ModalitySpec:
    """The specification of a modality, which the rest of isthmus uses.

    read: a list of items as encoders take them; `InputError` for anything else.
    probe: makes the small item that an encoder's widths are learned from.
    table: the table of a store for its items: "images" or "captions".
    options: options of an encoder's URI that only encoders of this modality have.
    many: its poolings that give several vectors of an item. single, tokens: the poolings to embed with for heads of
        pooled features, and for heads of tokens, as messages advise them.
    padded: whether items differ in their number of tokens, so that features of tokens end in padding.
    length: of an item, by which those that are batched together are sorted; None if all cost the same.
    """

    read: Callable[[Sequence[Any]], list[Any]]
    probe: Callable[[], Any]
    table: str
    options: tuple[str, ...]
    many: tuple[str, ...]
    single: str
    tokens: str
    padded: bool
    length: Callable[[Any], int] | None = None


def read_images(items: Sequence[Any]) -> list[Any]:
    """Images (PIL, or tensors [3, H, W]) as RGB PIL images; anything else is an `InputError`."""
    return [to_pil(item) for item in items]


def check_texts(items: Sequence[Any]) -> list[str]:
    """The texts as a list; anything but strings is an `InputError`."""
    if isinstance(items, str):
        raise InputError("a text encoder takes a list of strings, not one string.")
    for i, item in enumerate(items):
        if not isinstance(item, str):
            raise InputError(f"a text encoder takes strings; item {i} is of type {type(item).__name__}.")
        if not encodable(item):
            raise InputError(f"text {i}, {item[:40]!r}, holds half a character, which is not valid Unicode.")
    return list(items)


IMAGE = ModalitySpec(
    read=read_images,
    probe=probe_image,
    table="images",
    options=("size",),
    many=("grid", "patches"),
    single="cls+mean",
    tokens="cls+patches, or cls+grid16 at a sixteenth of the bytes",
    padded=False,
)
TEXT = ModalitySpec(
    read=check_texts,
    probe=lambda: "a",
    table="captions",
    options=("max_tokens", "prompt"),
    many=("tokens",),
    single="mean",
    tokens="tokens",
    padded=True,
    length=len,
)
MODALITIES = Registry(
    "isthmus.modalities",
    {"image": "isthmus.encoders.modality:IMAGE", "text": "isthmus.encoders.modality:TEXT"},
    noun="modality",
)


def spec_of(modality: Modality) -> ModalitySpec:
    """The spec of a modality by its name; `UsageError` for one that is not registered."""
    spec: ModalitySpec = MODALITIES.find(modality)
    return spec
