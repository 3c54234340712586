"""Loads the models that are served, with their indexes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isthmus.errors import UsageError
from isthmus.index import open_index
from isthmus.index.identity import model_fingerprint
from isthmus.models.dual_encoder import DualEncoder
from isthmus.models.loading import load_model
from isthmus.serving.finding import NamedModel
from isthmus.serving.served import ServedModel


def load_served(
    named: Sequence[NamedModel], index: str | Path | Sequence[str | Path], loading: dict[str, Any]
) -> list[ServedModel]:
    """The models with their indexes: those of `index`, or else those that stand beside them.

    loading: options of `load_model`. Raises `UsageError` for an index of none of the models.
    """
    wanted = [index] if isinstance(index, str | Path) else list(index)
    opened = [open_index(path) for path in wanted]
    served = []
    for one in named:
        model = load_model(one.path, **loading)
        if not wanted:
            opened = [open_index(one.index)] if one.index else []
        mark = model_fingerprint(model) if isinstance(model, DualEncoder) else None
        own = [other for other in opened if other.model["fingerprint"] == mark]
        served.append(ServedModel(one.name, model, own[0] if own else None))
    used = [one.index for one in served]
    for other in opened if wanted else ():
        if not any(other is one for one in used):
            names = ", ".join(one.path for one in named)
            raise UsageError(f"{other.path}: an index of another model ({other.model['path']}) than {names}.")
    return served
