"""Where modules of isthmus 0.1.0 are now: an old import still works, and warns with the new place.

To be removed with 0.3.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

METRICS = ("scores", "bootstrap", "nearest", "counting", "calibration", "geometry", "results")
CONTRASTIVE = ("joint", "batches", "validation", "pixels", "views", "folds", "trainer")
DATASETS = "isthmus.evaluation.datasets"
# A module; or module:name by name, if names have changed or are in several places.
MOVED: dict[str, str | dict[str, str]] = {
    "isthmus.model": "isthmus.models.dual_encoder",
    "isthmus.ready": "isthmus.models.pretrained",
    "isthmus.card": "isthmus.models.card",
    "isthmus.ledger": "isthmus.models.ledger",
    "isthmus.outputs": "isthmus.models.outputs",
    "isthmus.checkup": "isthmus.models.checkup",
    "isthmus.anchor": "isthmus.training.contrastive.locked_tower",
    "isthmus.contact_sheet": "isthmus.report.contact_sheet",
    "isthmus.training.values": "isthmus.values",
    "isthmus.selection.unimodal": "isthmus.metrics.probing",
    **{f"isthmus.evaluation.{name}": f"isthmus.metrics.{name}" for name in METRICS},
    **{f"isthmus.training.{name}": f"isthmus.training.contrastive.{name}" for name in CONTRASTIVE},
    "isthmus.data.longtext": {"_docci": f"{DATASETS}.docci:read_docci"},
    "isthmus.data.compositional": {
        "_json_lines": "isthmus.data.text:json_lines",
        "_csv_rows": f"{DATASETS}.questions:csv_rows",
        **{f"read_{name}": f"{DATASETS}.{name}:read_{name}" for name in ("winoground", "mmvp", "sugarcrepe", "aro")},
        "read_whatsup": f"{DATASETS}.whatsup:read_whatsup",
    },
}


class MovedFinder(MetaPathFinder, Loader):
    """Finds the old modules, and looks up their names in the new places."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return spec_from_loader(name, self) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__getattr__"] = lambda name: _look_up(module.__name__, name)


def install() -> None:
    """Add the finder once, after those for existing modules."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())


def _look_up(module: str, name: str) -> Any:
    new = MOVED[module]
    place, _, attribute = (new.get(name, "") if isinstance(new, dict) else f"{new}:{name}").partition(":")
    if not place or name.startswith("__"):  # names that Python itself looks up
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(f"{module}.{name} is {place}.{attribute} now.", DeprecationWarning, stacklevel=3)
    return getattr(importlib.import_module(place), attribute)
