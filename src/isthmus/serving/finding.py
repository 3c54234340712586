"""What `isthmus serve` is given: models, or a folder of results with models and indexes in it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isthmus.errors import UsageError
from isthmus.index.layout import is_index
from isthmus.models.pretrained import is_uri
from isthmus.models.saved import CONFIG

MODEL, MODELS, INDEX = "model", "models", "index"


@dataclass(frozen=True)
class NamedModel:
    """A model to serve: its name in requests, its folder or URI, and the folder of its index where one is known."""

    name: str
    path: str
    index: Path | None = None


def find_models(given: Sequence[str | Path]) -> list[NamedModel]:
    """The models that are meant.

    A folder of results, such as that of `isthmus demo`, stands for its `model` with the index in `index`, and for those
    of its `models` that have an index of their name: `models/cca` with `index-cca`. Raises `UsageError` for one without
    a model.
    """
    found: list[NamedModel] = []
    for one in given:
        home = Path(one)
        if is_uri(str(one)) or _holds_model(home):
            some: list[tuple[str, str, Path | None]] = [(_last(str(one)), str(one), None)]
        elif _holds_model(home / MODEL):
            index = home / INDEX
            some = [(_last(str(home)), str(home / MODEL), index if is_index(index) else None)]
            some += [(path.name, str(path), home / f"{INDEX}-{path.name}") for path in _further(home)]
        else:
            raise UsageError(f"{one}: neither a model nor a folder with one. `isthmus train` writes a model.")
        for name, path, index_of in some:
            found.append(NamedModel(_unused(_plain(name), found), path, index_of))
    return found


def _holds_model(path: Path) -> bool:
    return (path / CONFIG).is_file()


def _further(home: Path) -> list[Path]:
    """The models of a folder of results that have an index of their own."""
    models = sorted((home / MODELS).glob("*"))
    return [path for path in models if _holds_model(path) and is_index(home / f"{INDEX}-{path.name}")]


def _last(path: str) -> str:
    """The last part of a folder's path or of a URI."""
    return Path(path).resolve().name if not is_uri(path) else Path(path.partition(":")[2]).name


def _plain(name: str) -> str:
    """A name as it can stand in an address."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.") or MODEL


def _unused(name: str, found: Sequence[NamedModel]) -> str:
    taken = {one.name for one in found}
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], numbered) if one not in taken)
