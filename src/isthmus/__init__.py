"""isthmus joins frozen encoders: thin trained projectors make two of them a CLIP-like model."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from isthmus import moved as _moved
from isthmus.version import __version__ as __version__

_moved.install()

# Loaded when first used, so that `import isthmus` and `isthmus --help` cost nothing.
_EXPORTS = {
    "DualEncoder": "isthmus.models.dual_encoder",
    "FeaturePairs": "isthmus.data",
    "ask": "isthmus.api",
    "build_index": "isthmus.index",
    "caption": "isthmus.api",
    "classify": "isthmus.api",
    "curate": "isthmus.api",
    "cross_validate": "isthmus.api",
    "doctor": "isthmus.api",
    "embed": "isthmus.api",
    "encode": "isthmus.api",
    "evaluate": "isthmus.api",
    "export": "isthmus.api",
    "load_encoder": "isthmus.api",
    "load_model": "isthmus.models.loading",
    "load_recipe": "isthmus.api",
    "losses": "isthmus.losses",
    "open_index": "isthmus.index",
    "open_store": "isthmus.api",
    "read_pairs": "isthmus.api",
    "search": "isthmus.image_search.run",
    "segment": "isthmus.api",
    "select": "isthmus.api",
    "serve": "isthmus.api",
    "train": "isthmus.api",
    "transcribe": "isthmus.api",
}
__all__ = [
    "DualEncoder",
    "FeaturePairs",
    "ask",
    "build_index",
    "caption",
    "classify",
    "cross_validate",
    "curate",
    "doctor",
    "embed",
    "encode",
]
__all__ += ["evaluate", "export", "load_encoder"]
__all__ += ["load_model", "load_recipe", "losses", "open_index", "open_store", "read_pairs", "search", "segment"]
__all__ += ["select", "serve", "train", "transcribe"]

if TYPE_CHECKING:
    from isthmus import losses
    from isthmus.api import (
        ask,
        caption,
        classify,
        cross_validate,
        curate,
        doctor,
        embed,
        encode,
        evaluate,
        export,
        load_encoder,
        load_recipe,
        open_store,
        read_pairs,
        search,
        segment,
        select,
        serve,
        train,
        transcribe,
    )
    from isthmus.data import FeaturePairs
    from isthmus.index import build_index, open_index
    from isthmus.models.dual_encoder import DualEncoder
    from isthmus.models.loading import load_model


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'isthmus' has no attribute {name!r}")
    module = importlib.import_module(_EXPORTS[name])
    return module if name == "losses" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
