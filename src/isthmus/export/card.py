"""The card of an export: what it needs to be loaded, how it is used, what it is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isthmus.models.dual_encoder import DualEncoder


def write_card(path: Path, to: str, model: DualEncoder, licences: dict[str, str], report: dict[str, Any]) -> None:
    path.write_text("todo", encoding="utf-8")
