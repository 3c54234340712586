"""What encoders there are: sources, those that a source packages, and what the caches hold."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from isthmus.encoders.sources import SOURCES
from isthmus.errors import UsageError

OURS = {  # the package that each needs, and what it has
    "hf": ("transformers", "transformers, from the hub or a folder: hf:facebook/dinov2-base"),
    "st": ("sentence_transformers", "Sentence-Transformers: st:sentence-transformers/all-MiniLM-L6-v2"),
    "timm": ("timm", "image models of timm: timm:convnext_base.fb_in22k"),
    "open_clip": ("open_clip", "towers of open_clip: open_clip:ViT-B-32@laion2b_s34b_b79k"),
}
MARKS = {"modules.json": "st", "open_clip_config.json": "open_clip"}  # files that tell whose format a folder has


@dataclass(frozen=True)
class SourceListing:
    """A source of encoders. about: what it has. missing: what must be installed for it, None where it works."""

    name: str
    about: str
    missing: str | None = None


@dataclass(frozen=True)
class EncoderListing:
    """An encoder that can be named. licence: None where it does not say. cached: whether it is on this machine."""

    uri: str
    bytes: int
    licence: str | None
    cached: bool
    note: str = ""


@dataclass(frozen=True)
class EncodersFound:
    """What `list_encoders` found. hub: models in the hub's cache, which need not be encoders. caches: their folders."""

    sources: list[SourceListing]
    packaged: list[EncoderListing]
    hub: list[EncoderListing]
    caches: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def list_encoders() -> EncodersFound:
    """Look at what is installed and in the caches; nothing is loaded or fetched.

    A source lists what it packages by a function `packaged() -> list[EncoderListing]` beside its `load`.
    """
    from isthmus.cache import cache_dir
    from isthmus.encoders.hub import cache_folder

    sources: list[SourceListing] = []
    packaged: list[EncoderListing] = []
    for name in SOURCES.names():
        if name in OURS:
            package, about = OURS[name]
            sources.append(SourceListing(name, about, None if find_spec(package) else f"pip install 'isthmus[{name}]'"))
            continue
        try:
            module = sys.modules[SOURCES.find(name).__module__]
        except UsageError as error:
            sources.append(SourceListing(name, "", str(error)))
            continue
        about = (module.__doc__ or "").partition("\n")[0].rpartition(" – ")[2]
        sources.append(SourceListing(name, about))
        packaged += getattr(module, "packaged", list)()
    return EncodersFound(sources, packaged, _in_hub_cache(), [str(cache_dir()), cache_folder()])


def _in_hub_cache() -> list[EncoderListing]:
    """Models of the hub's cache in their newest revision there."""
    from isthmus.encoders import hub

    return [
        EncoderListing(f"{_source(one.folder)}:{one.repo}", one.bytes, hub.licence_of(one.folder), cached=True)
        for one in hub.cached_models()
    ]


def _source(folder: Path) -> str:
    """The source whose format a snapshot has."""
    for mark, source in MARKS.items():
        if (folder / mark).exists():
            return source
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "hf"
    return "timm" if isinstance(config, dict) and "pretrained_cfg" in config else "hf"
