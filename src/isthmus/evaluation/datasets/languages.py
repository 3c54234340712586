"""What the sets of captions in several languages share."""

from __future__ import annotations

from pathlib import Path

from isthmus.errors import InputError

ISO = {"jp": "ja", "cz": "cs"}  # as two sets write them

CaptionsByLanguage = dict[str, dict[str, list[str]]]  # image -> language -> captions


def add_captions(
    captions: CaptionsByLanguage, names: list[str], lang: str, texts: list[str], place: str, names_file: Path
) -> None:
    """One language's captions, line by line those of the images `names`."""
    if len(texts) != len(names):
        raise InputError(f"{place}: {len(texts):,} captions for the {len(names):,} images of {names_file}.")
    for name, text in zip(names, texts, strict=True):
        captions[name].setdefault(lang, []).append(text)


def iso(lang: str) -> str:
    """The ISO code of a language."""
    return ISO.get(lang, lang)
