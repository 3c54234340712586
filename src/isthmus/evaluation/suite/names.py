"""Class names and templates of well-known data sets, out of open_clip and CLIP_benchmark where they are installed."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from isthmus.files import read_json

IMAGENETS = ("imagenet1k", "imagenetv2", "imagenet_sketch")  # those with all thousand classes
IMAGENET_LIKE = (*IMAGENETS, "imagenet-a", "imagenet-r")


def known_classes(name: str) -> list[str] | None:
    """The class names of a data set, by number."""
    if name in IMAGENETS and (lists := _open_clip()):
        return list(lists.IMAGENET_CLASSNAMES)
    return _clip_benchmark("en_classnames.json").get("imagenet1k" if name in IMAGENETS else name)


def known_templates(name: str) -> list[str] | None:
    """The templates that papers use for a data set, with `{}` or `{c}` for the class."""
    if name in IMAGENET_LIKE and (lists := _open_clip()):
        return [template("{}") for template in lists.OPENAI_IMAGENET_TEMPLATES]
    wanted = "imagenet1k" if name in IMAGENET_LIKE else name
    return _clip_benchmark("en_zeroshot_classification_templates.json").get(wanted)


@cache
def _open_clip() -> Any:
    """open_clip's lists by their file: its package would import torchvision."""
    file = _file_of("open_clip", "zero_shot_metadata.py")
    spec = importlib.util.spec_from_file_location("isthmus_open_clip_lists", file) if file else None
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _clip_benchmark(file: str) -> dict[str, Any]:
    path = _file_of("clip_benchmark", f"datasets/{file}")
    return read_json(path) if path else {}


def _file_of(package: str, name: str) -> Path | None:
    """A file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / name if spec and spec.origin else None
    return path if path and path.is_file() else None
