"""Urban1k (Zhang et al. 2024, arXiv:2403.15378): pictures of streets with long captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from isthmus.data.text import read_text
from isthmus.errors import InputError


def read_urban1k(root: Path) -> Iterator[tuple[str, Path, str]]:
    """`image/NAME.jpg` and `caption/NAME.txt`, of which the first line is the caption."""
    files = sorted((root / "caption").glob("*.txt"))
    if not files:
        raise InputError(f"{root / 'caption'}: no captions (*.txt), as Urban1k has them.")
    for file in files:
        yield file.stem, root / "image" / f"{file.stem}.jpg", read_text(file).partition("\n")[0]
