"""DCI, densely captioned images (Urbanek et al. 2024, arXiv:2312.08578)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isthmus.errors import InputError
from isthmus.files import read_json

UNUSABLE = 2  # mask_quality: 0 is fine, 1 has a label only


def read_dci(root: Path) -> Iterator[tuple[str, Path, str]]:
    """`complete/*.json` and `photos/`. The caption is the whole description as DCI's own loader puts it together:
    short and extra caption, then every mask's.
    """
    files = sorted((root / "complete").glob("*.json"))
    if not files:
        raise InputError(f"{root / 'complete'}: no descriptions (*.json), as DCI has them.")
    for file in files:
        entry = read_json(file)
        try:
            yield file.stem, root / "photos" / entry["image"], _description(entry)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{file}: is not a description in DCI's format ({error!r}).") from None


def _description(entry: dict[str, Any]) -> str:
    """As `DenseCaptionedImage.get_formatted_complete_description` words it."""
    whole = f"{entry['short_caption']}\n{entry['extra_caption']}"
    masks = [mask for mask in entry["mask_data"].values() if mask["mask_quality"] != UNUSABLE]
    parts = [m["label"] if m["mask_quality"] else f"{m['label']}: {m['caption']}" for m in masks]
    return whole + ("\nThe following can also be seen in the image:\n" + "\n".join(parts) if parts else "")
