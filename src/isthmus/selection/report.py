"""select.json as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_report(told: dict[str, Any], path: Path) -> None: ...
