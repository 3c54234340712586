"""What a selection chose, as `train` takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isthmus.errors import InputError
from isthmus.files import read_sealed

RESULT = "select.json"


def first_choice(folder: str | Path, named: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The store and the encoders of a selection's first choice; encoders that are `named` already stay.

    A folder without select.json is a store itself and passes. Raises `InputError` for a selection among arrays.
    """
    folder = Path(folder)
    if not (folder / RESULT).is_file():
        return folder, named
    told = read_sealed(folder / RESULT)
    if not isinstance(told, dict) or not isinstance(told.get("first_choice"), dict) or "store" not in told:
        raise InputError(f"{folder / RESULT}: not what `isthmus select` writes. Run it again.")
    if told["store"] is None:
        raise InputError(
            f"{folder}: a selection among arrays, which are not stored; train `selection.feature_pairs()` in Python."
        )
    chosen = {side: named.get(side) or told["first_choice"][side] for side in ("image", "text")}
    return folder / told["store"], named | chosen
