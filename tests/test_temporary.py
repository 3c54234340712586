"""Temporary files: of which mode, and who removes those of a run that was killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from isthmus import files, weights
from isthmus.files import atomic_path, file_digest, write_json
from isthmus.temporary import TEMPORARY
from isthmus.weights import read_tensors, write_tensors

TENSORS = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(2, dtype=torch.bfloat16)}


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_have_the_mode_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    write_tensors(tmp_path / "w.safetensors", TENSORS)
    write_json(tmp_path / "j.json", {})
    with atomic_path(tmp_path / "plain") as aside:
        aside.write_bytes(b"x")
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o666 & ~umask}


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_tensors(path, TENSORS)
    found = read_tensors(path, file_digest(path))
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items()) and len(found) == 2


def killed(work) -> None:
    """Run `work` in a process that ends itself by SIGKILL, as a kill from outside does."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def temporaries(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(TEMPORARY)]


def test_only_names_of_ours_are_left_by_a_kill_and_the_next_run_removes_them(tmp_path: Path, monkeypatch) -> None:
    def work() -> None:
        files.sync_file = lambda path: os.kill(os.getpid(), signal.SIGKILL)
        write_tensors(tmp_path / "w.safetensors", TENSORS)

    killed(work)
    assert len(temporaries(tmp_path)) == len(list(tmp_path.iterdir())) == 1
    write_tensors(tmp_path / "w.safetensors", TENSORS)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_temporary_file_in_use_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "j.json"
    with atomic_path(path) as slow:
        slow.write_text("slow")
        write_json(path, {"quick": 1})
        assert slow.read_text() == "slow"
    assert path.read_text() == "slow" and temporaries(tmp_path) == []


def test_files_that_only_look_like_leftovers_stay(tmp_path: Path) -> None:
    others = [
        f"{TEMPORARY}0123456-j.json",
        f"{TEMPORARY}01234567-other.json",
        "j.json.bak",
        f"x{TEMPORARY}01234567-j.json",
    ]
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / f"{TEMPORARY}01234567-j.json").write_text("left over")
    write_json(tmp_path / "j.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "j.json"])


def test_nothing_of_safetensors_own_writes_a_file() -> None:
    """It would choose another name and another mode."""
    sources = [path.read_text() for path in Path(weights.__file__).parent.rglob("*.py")]
    assert not any("save_file" in source for source in sources)
