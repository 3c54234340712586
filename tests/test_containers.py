"""A user without home or name, a cache that cannot be used, a disk that fails: what is said, and what still works."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from isthmus.cache import cache_dir, check_private
from isthmus.encoders import hub, load_encoder
from isthmus.encoders.uri import EncoderURI
from isthmus.errors import InputError
from isthmus.files import write_json
from isthmus.locking import alone
from isthmus_demo.encoders import wheels
from store_cases import write
from tiny_encoders import save_dinov2, save_processor, save_sentence_pipeline
from toys import write_pairs

NOBODY = """
import pwd
def unknown(*_): raise KeyError("no such user")
pwd.getpwuid = pwd.getpwnam = unknown
"""


def test_embedding_works_for_a_user_without_home_or_name(tmp_path: Path) -> None:
    save_processor(save_dinov2(tmp_path / "image"))
    text = save_sentence_pipeline(tmp_path / "text")
    table = write_pairs(tmp_path / "data", copies=1)
    for name in ("nobody", "tmp", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "nobody" / "sitecustomize.py").write_text(NOBODY)
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "OMP_NUM_THREADS")}
    environment |= {"TMPDIR": str(tmp_path / "tmp"), "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "nobody"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "isthmus", "embed", str(table), "--out", str(tmp_path / "store")]
    command += ["--image-encoder", f"hf:{tmp_path / 'image'}", "--text-encoder", f"st:{text}"]
    done = subprocess.run(command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "here").iterdir()) == [], "no folder named ~"
    home = tmp_path / "tmp" / f"isthmus-{os.getuid()}"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700 and (home / ".cache" / "isthmus" / "digests").is_dir()


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    def unknown(*_: object) -> None:
        raise KeyError("no such user")

    for name in ("HOME", "XDG_CACHE_HOME", "ISTHMUS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"isthmus-{os.getuid()}"


def test_without_a_home_the_cache_is_private(homeless: Path) -> None:
    assert cache_dir() == homeless / "isthmus" and stat.S_IMODE(homeless.stat().st_mode) == 0o700


def test_a_folder_that_another_made_first_is_not_used(homeless: Path) -> None:
    homeless.mkdir(mode=0o755)
    with pytest.raises(InputError, match="set ISTHMUS_CACHE"):
        cache_dir()


def test_a_private_folder_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    check_private(tmp_path / "real")
    with pytest.raises(OSError, match="this user alone"):
        check_private(tmp_path / "link")


def test_an_unreadable_cache_is_named_with_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where a folder should be stands for what root, who runs tests in containers, could read."""
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("ISTHMUS_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=f"{tmp_path / 'cache'}.*set ISTHMUS_CACHE"):
        wheels.fetch("wordllama")


def test_an_unreadable_hub_cache_is_named_with_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hub").write_text("no folder")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(InputError, match=f"{tmp_path / 'hub'}.*set HF_HOME"):
        load_encoder("hf:a/b", fetch=False)


def test_a_hub_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object, **__: object) -> None:
        try:
            raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "blobs"))
        except OSError as error:
            raise FileNotFoundError("not found in the cache") from error

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", closed)
    with pytest.raises(InputError, match=f"{tmp_path / 'blobs'}: Permission denied.*set HF_HOME"):
        hub.resolve(EncoderURI.parse("hf:a/b"), "a/b", None)


FAILURES = ("EIO", "ESTALE", "EDQUOT", "ENOSPC", "EROFS")


def failing(code: str) -> Callable:
    def fail(*_: object, **__: object) -> None:
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    return fail


@pytest.mark.parametrize("code", FAILURES)
def test_a_failing_disk_is_told_with_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """The system names no file when fsync fails."""
    monkeypatch.setattr(os, "fsync", failing(code))
    with pytest.raises(InputError, match=rf"{tmp_path}/a\.json: "):
        write_json(tmp_path / "a.json", {})
    with pytest.raises(InputError, match=f"{tmp_path}/store"):
        write(tmp_path / "store", ["a"])


@pytest.mark.parametrize("code", ["EIO", "EROFS"])
def test_what_cannot_be_removed_is_told_with_the_path(tmp_path: Path, monkeypatch, code: str) -> None:
    """The journal goes at the end of a run."""
    with monkeypatch.context() as patch:
        rmdir = os.rmdir
        fail = failing(code)
        patch.setattr(os, "rmdir", lambda path, **at: (fail if str(path).endswith("journal") else rmdir)(path, **at))
        with pytest.raises(InputError, match=f"{tmp_path}/store/journal: "):
            write(tmp_path / "store", ["a"])
    write(tmp_path / "store", ["a"])
    assert not (tmp_path / "store" / "journal").exists()


@pytest.mark.parametrize("code", ["ENOLCK", "EIO"])
def test_a_lock_that_cannot_be_had_is_told_with_the_path(tmp_path: Path, monkeypatch, code: str) -> None:
    monkeypatch.setattr("fcntl.flock", failing(code))
    with pytest.raises(InputError, match=rf"{tmp_path}/out: .*(no locks|fails)"), alone(tmp_path / "out", "testing"):
        pass
