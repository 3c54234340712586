"""A wheel built from this tree, installed into an environment of its own, works there.

What it depends on is that of the environment the tests run in: a whole installation takes minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORK = """
import numpy as np, isthmus as ist
rows = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
pairs = ist.FeaturePairs.from_arrays(rows, rows[:, ::-1].copy())
model = ist.train(pairs, recipe="default", overrides=["optim.epochs=1"], out="model")
ist.select(image={"a": rows}, text={"b": rows}, seeds=0, bootstrap=20, out="choice")
print(ist.__file__)
"""


def run(*command: str | Path, cwd: Path) -> str:
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=outside, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_wheel_of_this_tree_works_in_an_environment_of_its_own(tmp_path: Path) -> None:
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("isthmus-*.whl")
    needed = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src/isthmus").rglob("*") if path.is_file()}
    assert {name for name in needed if "__pycache__" not in name} <= set(zipfile.ZipFile(wheel).namelist())

    home = tmp_path / "own"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    paths = {"base": str(home), "platbase": str(home)}
    packages = Path(sysconfig.get_path("purelib", vars=paths))
    target = ["--quiet", "--no-deps", "--target", packages]
    run(sys.executable, "-m", "pip", "install", *target, wheel, cwd=tmp_path)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    assert str(home) in run(python, "-c", WORK, cwd=tmp_path)
    assert (tmp_path / "model" / "config.json").exists() and (tmp_path / "choice" / "report.html").exists()
    checked = run(python, "-m", "isthmus", "doctor", "model", cwd=tmp_path)
    assert "ok" in checked
