"""Class names and prompts of public data sets, packaged with their sources (`names.json`)."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from isthmus.metrics.zeroshot import load_templates

THOUSAND = ("imagenetv2", "imagenet_sketch")  # sets with ImageNet's own thousand classes
OF_IMAGENET = (*THOUSAND, "imagenet-a", "imagenet-r", "objectnet")  # sets that ImageNet's prompts are used for


@cache
def _packaged() -> dict[str, Any]:
    return json.loads(resources.files("isthmus.evaluation.datasets").joinpath("names.json").read_text("utf-8"))


def class_names(name: str) -> list[str] | None:
    """The class names of a data set by number; two of them may be the same. None where none are packaged."""
    if ids := synsets(name):
        number = {id: i for i, id in enumerate(_packaged()["imagenet1k"]["synsets"])}
        return [_packaged()["imagenet1k"]["classes"][number[id]] for id in ids]
    found = _packaged().get(name, {}).get("classes")
    return None if found is None else list(found)


def templates(name: str) -> list[str] | None:
    """CLIP's prompts for a data set, with `{}` for the class. None where there are none."""
    if name == "imagenet1k" or name in OF_IMAGENET:
        return list(load_templates("imagenet"))
    found = _packaged().get(name, {}).get("templates")
    return None if found is None else list(found)


def synsets(name: str) -> list[str] | None:
    """WordNet's ids of the classes of ImageNet and its like, in the order of the classes."""
    found = _packaged().get("imagenet1k" if name in THOUSAND else name, {}).get("synsets")
    return None if found is None else list(found)
