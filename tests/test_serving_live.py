"""`isthmus serve` as a process, and a server under the load of many clients."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest

from isthmus.cli import main
from isthmus.index import build_index
from live_server import colours, live, served_models
from tiny_models import save_dual
from toys import write_pairs

CLIENTS = 64
SECONDS = float(os.environ.get("SERVE_SECONDS", "15"))  # of the load; a minute: SERVE_SECONDS=60


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results: a tiny random model that loads by its path, and an index of its."""
    folder = tmp_path_factory.mktemp("results")
    build_index(save_dual(folder), write_pairs(folder / "pairs", copies=1), out=folder / "index")
    return folder


def started(process: subprocess.Popen[str]) -> str:
    """The address that the command prints."""
    assert process.stdout is not None
    told = []
    for line in process.stdout:
        told.append(line)
        if found := re.search(r"serving at (\S+)", line):
            return found[1]
    raise AssertionError("".join(told))


@pytest.mark.slow
def test_the_command_serves_a_folder_of_results_until_it_is_interrupted(saved: Path) -> None:
    command = [sys.executable, "-m", "isthmus", "serve", str(saved), "--port", "0"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": saved}
    with subprocess.Popen(command, **options) as process:
        try:
            address = started(process)
            body = json.dumps({"text": "a red dog", "k": 3}).encode()
            asked = urllib.request.Request(f"{address}api/search", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(asked, timeout=60) as answer:
                assert len(json.load(answer)["hits"]) == 3
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "stopped" in rest
    assert "Traceback" not in errors


def test_a_port_in_use_and_a_folder_without_a_model_are_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(tmp_path), "--port", str(port)]) == 2
    assert f"port {port} of 127.0.0.1 is in use" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["serve", str(tmp_path / "empty")]) == 2
    assert "neither a model nor a folder with one" in capsys.readouterr().err


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with live(served_models(tmp_path)) as found:
        yield found


@pytest.mark.slow
def test_64_clients_all_get_their_own_answers_and_memory_stays_flat(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each asks for texts of its own, which are compared with what the model gives alone."""
    given: list[tuple[str, list[float]]] = []
    taken: list[float] = []
    sizes: list[int] = []
    end = time.monotonic() + SECONDS

    async def client(number: int, session: httpx2.AsyncClient) -> int:
        asked = 0
        while time.monotonic() < end:
            text = f"{('red', 'green', 'blue')[number % 3]} {number} {asked}" if asked % 2 else f"text {number} {asked}"
            body = {"model": "first", "input": text, "encoding_format": "float"}
            start = time.monotonic()
            answer = await session.post("/v1/embeddings", json=body)
            taken.append(time.monotonic() - start)
            assert answer.status_code == 200, answer.text
            given.append((text, answer.json()["data"][0]["embedding"]))
            asked += 1
        return asked

    async def everyone() -> list[int]:
        limits = httpx2.Limits(max_connections=CLIENTS)
        async with httpx2.AsyncClient(base_url=address, limits=limits, timeout=60) as session:
            return await asyncio.gather(*(client(number, session) for number in range(CLIENTS)))

    def watch() -> None:
        while time.monotonic() < end:
            sizes.append(resident())
            time.sleep(SECONDS / 30)

    watching = threading.Thread(target=watch)
    watching.start()
    counts = asyncio.run(everyone())
    watching.join()
    assert sum(counts) == len(given)
    assert min(counts) > 0
    np.testing.assert_allclose([row for _, row in given], colours().encode_text([text for text, _ in given]), atol=1e-6)
    p50, p99 = np.quantile(taken, [0.5, 0.99])
    grown = sizes[-1] - sizes[len(sizes) // 3]
    with capsys.disabled():
        sys.stdout.write(
            f"\n{len(taken):,} requests of {CLIENTS} clients in {SECONDS:.0f} s: median {1000 * p50:.0f} ms, "
            f"p99 {1000 * p99:.0f} ms; memory {grown / 2**20:+.1f} MiB over the last two thirds\n"
        )
    assert grown < 64 * 2**20
