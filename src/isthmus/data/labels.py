"""Names of classes: as a list, or from a file with one a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from isthmus.data.text import read_entries


def class_names(classes: str | Path | Sequence[str] | None) -> list[str]:
    """Class names as given, or from a file with one a line."""
    return read_entries(classes) if isinstance(classes, str | Path) else list(classes or [])
