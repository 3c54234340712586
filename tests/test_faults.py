"""Killed, or out of disk, at every boundary of embed, train and curate: the old state or the new, never a mixture."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = ("store", "store_more", "embed", "embed_more", "train", "train_over", "curate", "curate_over")


def strikes(folder: Path, how: str, every: int, *cases: str) -> int:
    here = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, str(here / "fault_cases.py"), str(folder), how, str(every), *cases],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return int(run.stdout)


@pytest.mark.parametrize("how", ["kill", "fill"])
def test_some_boundaries_of_work_over_an_old_state(tmp_path: Path, how: str) -> None:
    """Every 17th; the next test takes them all."""
    assert strikes(tmp_path, how, 17, *CASES[1::2]) >= 12


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "fill"])
@pytest.mark.parametrize("case", CASES)
def test_every_boundary(tmp_path: Path, case: str, how: str) -> None:
    assert strikes(tmp_path, how, 1, case) > 25
