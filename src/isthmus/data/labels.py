"""Names of classes: as a list, or from a file with one a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from isthmus.errors import InputError


def class_names(classes: str | Path | Sequence[str] | None) -> list[str]:
    """Class names as given, or from a file with one a line."""
    if not isinstance(classes, str | Path):
        return list(classes or [])
    try:
        lines = Path(classes).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{classes}: cannot be read as class names, one a line ({error}).") from None
    return [line.strip() for line in lines if line.strip()]
