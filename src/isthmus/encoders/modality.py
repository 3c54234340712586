"""Our own modalities: what an image and a text are, how encoders of them are probed, their poolings and options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isthmus.data.columns import SPELLINGS
from isthmus.data.images import EXTENSIONS, decode
from isthmus.data.records import encodable
from isthmus.encoders.images import probe_image, to_pil
from isthmus.errors import InputError
from isthmus.modality import MODALITIES, Modality, ModalitySpec, spec_of

__all__ = ["IMAGE", "MODALITIES", "TEXT", "Modality", "ModalitySpec", "check_texts", "read_images", "spec_of"]


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
    options=("size",),
    many=("grid", "patches"),
    single="cls+mean",
    tokens="cls+patches, or cls+grid16 at a sixteenth of the bytes",
    padded=False,
    decode=decode,
    columns=("image", *SPELLINGS["image"]),
    endings=EXTENSIONS,
    table="images",
)
TEXT = ModalitySpec(
    read=check_texts,
    probe=lambda: "a",
    options=("max_tokens", "prompt"),
    many=("tokens",),
    single="mean",
    tokens="tokens",
    padded=True,
    length=len,
    columns=("caption", *SPELLINGS["caption"], "captions", *SPELLINGS["captions"]),
    table="captions",
)
