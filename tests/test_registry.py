"""Names that other packages add by entry points, and what happens where such a package is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.cli import COMMANDS, main
from isthmus.encoders import load_encoder
from isthmus.encoders.sources import SOURCES
from isthmus.encoders.uri import EncoderURI
from isthmus.errors import UsageError
from isthmus.registry import Registry
from toys import write_pairs

INSTALL = "comes with the package isthmus-demo: to install it, run `pip install -e ./demo`"
ACME = '''"""Say what was given."""

import numpy as np

from isthmus.encoders import from_callable


def load(uri, *, modality, device, trust_remote_code, fetch):
    return from_callable(lambda texts: np.ones((len(texts), 3)), modality="text", fingerprint=uri.name)


def add_arguments(parser):
    parser.add_argument("--word")


def run(args):
    print("acme says", args.word)
'''
ENTRIES = """[isthmus.encoder_sources]
acme = acme:load
hf = acme:load
gone = no_such_module:load

[isthmus.commands]
acme = acme
gone = no_such_module
"""


@pytest.fixture
def acme(tmp_path: Path) -> Path:
    """A folder with an installed package that adds an encoder source and a command, and two that are broken."""
    (tmp_path / "acme.py").write_text(ACME)
    (tmp_path / "acme-1.0.dist-info").mkdir()
    (tmp_path / "acme-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (tmp_path / "acme-1.0.dist-info" / "entry_points.txt").write_text(ENTRIES)
    return tmp_path


@pytest.fixture
def without_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no other package had registered anything."""
    for one in (COMMANDS, SOURCES):
        monkeypatch.setattr(one, "_entries", {name: entry for name, entry in one._entries.items() if name in one.own})


def test_own_names_are_imported_when_asked_for() -> None:
    one = Registry("isthmus.nothing", {"path": "os.path", "join": "os.path:join", "bad": "no_such_module"})
    assert one.names() == ["path", "join", "bad"]
    assert one.find("path") is os.path and one.find("join") is os.path.join


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no loss 'infonse'\. Did you mean 'infonce'"):
        Registry("isthmus.nothing", {"infonce": "os:path"}, noun="loss").find("infonse")


def test_another_package_adds_names_and_replaces_none(acme: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(acme))
    one = Registry(SOURCES.group, {"hf": "os.path:join"}, noun="encoder source")
    assert one.names()[0] == "hf" and {"acme", "gone"} < set(one.names())
    assert one.find("acme").__module__ == "acme" and one.find("hf") is os.path.join
    with pytest.raises(UsageError, match="encoder source 'gone' of the package acme cannot be loaded: No module"):
        one.find("gone")


def test_an_encoder_of_another_package_is_loaded_by_its_uri(acme: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(acme))
    fresh = Registry(SOURCES.group, SOURCES.own)
    monkeypatch.setattr(SOURCES, "_entries", fresh._entries)
    assert load_encoder("acme:x", modality="text").encode(["a", "b"]).shape == (2, 3)


def test_a_command_of_another_package_runs_and_a_broken_one_breaks_no_other(acme: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess:
        paths = os.pathsep.join([str(acme), *sys.path])
        command = [sys.executable, "-m", "isthmus", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})

    assert "Say what was given" in run("--help").stdout
    assert run("acme", "--word", "hello").stdout == "acme says hello\n"
    broken = run("gone", "--word", "hello")
    assert broken.returncode == 2 and broken.stderr.startswith("isthmus gone: the command 'gone' of the package acme")


@pytest.mark.parametrize("arguments", [["demo", "--limit", "800", "--out", "x"], ["fetch", "demo"], ["demo", "--help"]])
def test_without_the_demo_its_commands_name_what_to_install(
    without_demo: None, arguments: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"isthmus {arguments[0]}: the command '{arguments[0]}' {INSTALL}")


def test_without_the_demo_packaged_encoders_name_what_to_install(
    without_demo: None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    table = write_pairs(tmp_path / "data")
    encoders = ["--image-encoder", "wheel:efficientnet-lite0", "--text-encoder", "wheel:minilm-l6"]
    assert main(["embed", str(table), *encoders, "--out", str(tmp_path / "store")]) == 2
    assert f"the encoder source 'wheel' {INSTALL}" in capsys.readouterr().err
    assert str(EncoderURI.parse("wheel:minilm-l6?layer=0")) == "wheel:minilm-l6?layer=0"  # records stay readable
