"""Systems that are not Linux: what they lack is taken away here; nothing of this was run on one of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from isthmus import api, cache, files, temporary
from isthmus.training.processes import Processes
from toys import pixel_encoder, word_encoder, write_pairs


class Windows:
    """`os` as it is there: without users' numbers and some flags; what is open cannot be renamed."""

    MISSING = ("geteuid", "getuid", "O_NOFOLLOW", "O_NONBLOCK", "pread", "memfd_create", "RTLD_NOW")

    def __getattr__(self, name: str) -> Any:
        if name in self.MISSING:
            raise AttributeError(name)
        return getattr(os, name)

    def replace(self, source: str | Path, target: str | Path) -> None:
        opened = {os.path.realpath(f"/proc/self/fd/{handle}") for handle in os.listdir("/proc/self/fd")}
        if os.path.realpath(source) in opened:
            raise PermissionError(13, "being used by another process", str(source))
        os.replace(source, target)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "fcntl", None)
    monkeypatch.setattr(files, "FULL_SYNC", None)
    for name, module in list(sys.modules.items()):
        if name.startswith("isthmus") and getattr(module, "os", None) is os:
            monkeypatch.setattr(module, "os", Windows())


def test_a_file_is_replaced_whole_where_open_files_cannot_be_renamed(tmp_path: Path, windows: None) -> None:
    for text in ("old", "new"):
        with files.atomic_path(tmp_path / "file") as aside:
            aside.write_text(text)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "new"


def test_a_store_a_model_and_a_cache_are_written_without_what_windows_lacks(tmp_path: Path, windows: None) -> None:
    pairs = write_pairs(tmp_path)
    store = api.embed(pairs, pixel_encoder(), word_encoder(), out=tmp_path / "store")
    api.train(store, recipe="cca", out=tmp_path / "model")
    cache.check_private(tmp_path / "cache")
    assert (tmp_path / "model" / "config.json").exists()
    assert not list(tmp_path.rglob(f"{temporary.TEMPORARY}*"))


def test_macos_is_asked_to_empty_the_cache_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(files, "FULL_SYNC", 51)
    monkeypatch.setattr(files.fcntl, "fcntl", lambda handle, what: asked.append(what))
    files.write_json(tmp_path / "j.json", {})
    assert asked == [51]


def test_numbers_of_a_single_process_need_no_float64() -> None:
    class NoDoubles(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            assert not isinstance(out, torch.Tensor) or out.dtype != torch.float64
            return out

    with NoDoubles():
        assert Processes().numbers_of_first({"loss": 0.1}, torch.device("cpu")) == {"loss": 0.1}


def test_an_output_of_another_encoding_ends_no_command() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "isthmus", "eval", "--help"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert shown.returncode == 0, shown.stderr
    assert b"\\u" in shown.stdout
