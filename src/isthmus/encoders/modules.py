"""The modules of a Sentence-Transformers folder: their types, places and weights."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from isthmus.encoders.limits import MAX_MODULES
from isthmus.errors import InputError
from isthmus.files import read_json

WEIGHTED = {
    *("Transformer", "CLIPModel", "StaticEmbedding", "WordEmbeddings", "WeightedLayerPooling"),
    *("CNN", "Dense", "LayerNorm", "LSTM"),
}
ROUTERS = ("Router", "Asym")  # hold modules themselves
DEEPEST = 4  # routers inside one another


def find_modules(folder: Path) -> dict[str, str]:
    """Path, relative to `folder` ("" is the folder itself), and type of every module, those of routers included.

    Empty without modules.json. Raises InputError for a malformed list, and for a path outside of the folder.
    """
    listed = folder / "modules.json"
    if not listed.exists():
        return {}
    found: dict[str, str] = {}
    entries = read_json(listed)
    for entry in entries if isinstance(entries, list) else [entries]:
        path, type_ = (entry.get("path"), entry.get("type")) if isinstance(entry, dict) else (None, None)
        _add(found, folder, listed, path, type_, depth=0)
    return found


def kind(type_: str) -> str:
    """The class name of a module's type."""
    return type_.rpartition(".")[2]


def router_config(folder: Path) -> Path:
    """The file that says which modules the router in `folder` holds, as Sentence-Transformers looks for it."""
    return folder / ("router_config.json" if (folder / "router_config.json").exists() else "config.json")


def _add(found: dict[str, str], folder: Path, file: Path, path: Any, type_: Any, depth: int) -> None:
    """A module, which `file` lists, and those inside it."""
    if not (isinstance(path, str) and isinstance(type_, str)) or depth > DEEPEST:
        raise InputError(f"{file}: not a list of modules with path and type.")
    parts = PurePosixPath(path).parts
    if ".." in parts or "\\" in path or PurePosixPath(path).is_absolute():
        raise InputError(f"{file}: the module {path!r} is not inside the model's folder.")
    name = "/".join(parts)
    found[name] = type_
    if len(found) > MAX_MODULES:
        raise InputError(f"{file}: more than {MAX_MODULES} modules.")
    if kind(type_) in ROUTERS:
        own = router_config(folder / name)
        held = read_json(own)
        types = held.get("types") if isinstance(held, dict) else None
        for inner, inner_type in (types if isinstance(types, dict) else {"": None}).items():
            if not PurePosixPath(inner).parts:
                raise InputError(f"{own}: not a router's configuration with the types of its modules.")
            _add(found, folder, own, _joined(name, inner), inner_type, depth + 1)


def _joined(path: str, inner: str) -> str:
    return f"{path}/{inner}" if path else inner
