"""Coverage-guided fuzzing of what reads untrusted files; a longer run: `python tests/fuzz.py tar 1000000`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("target", ["manifest", "shard", "tar", "table"])
def test_mutated_files_end_in_an_error_of_ours(target: str) -> None:
    run = subprocess.run(
        [sys.executable, str(HERE / "fuzz.py"), target, "20000"],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-3000:]
    assert "Done " in run.stderr
