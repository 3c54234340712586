"""XM3600, Crossmodal-3600 (Thapliyal et al. 2022, arXiv:2205.12522): 36 languages."""

from __future__ import annotations

from pathlib import Path

from isthmus.data.text import json_lines
from isthmus.errors import InputError
from isthmus.evaluation.datasets.languages import CaptionsByLanguage, iso

IMAGES = ("images", ".")


def read_xm3600(root: Path, split: str | None = None) -> CaptionsByLanguage | None:
    """`captions.jsonl` (image/key, and per language a list `caption`) beside `images/KEY.jpg`; None where it is not."""
    file = root / "captions.jsonl"
    if not file.is_file():
        return None
    captions: CaptionsByLanguage = {}
    for line, row in json_lines(file):
        try:
            said = {lang: value["caption"] for lang, value in row.items() if isinstance(value, dict)}
            captions[f"{row['image/key']}.jpg"] = {iso(lang): list(texts) for lang, texts in said.items() if texts}
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{file}: line {line} is not a row of XM3600 ({error!r}).") from None
    return captions
