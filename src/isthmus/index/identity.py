"""What tells models apart whose embeddings do not compare; of a saved one without loading it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isthmus.data.feature_pairs import SIDES
from isthmus.errors import InputError
from isthmus.files import locate, read_sealed
from isthmus.weights import CONFIG, WEIGHTS, read_arrays

if TYPE_CHECKING:
    from isthmus.models.dual_encoder import DualEncoder


def model_fingerprint(model: DualEncoder) -> str:
    """32 hex digits that differ when embeddings do: of the projectors' weights, the width and the encoders."""
    weights = ((name, tensor.detach().float().cpu().numpy()) for name, tensor in model.state_dict().items())
    return _fingerprint(weights, model.width, model.records)


def saved_fingerprint(path: Path) -> str | None:
    """`model_fingerprint` of the dual encoder in a folder; None where there is none to be read."""
    try:
        config = read_sealed(locate(path, CONFIG))
        arrays = read_arrays(locate(path, WEIGHTS), config["weights"])
        width = config.get("width") or _whole_width(config["projectors"][SIDES[0]])
        weights = ((name, array) for name, array in arrays.items() if name not in ("scale", "bias"))
        return _fingerprint(weights, width, config["encoders"])
    except (InputError, AttributeError, KeyError, TypeError):
        return None


def _fingerprint(weights: Iterable[tuple[str, np.ndarray]], width: int, records: Any) -> str:
    told = hashlib.blake2b(digest_size=16)
    for name, array in sorted(weights, key=lambda one: one[0]):
        told.update(f"{name} {list(array.shape)}".encode() + array.astype(np.float32, copy=False).tobytes())
    told.update(f"{width} {[(m, one['fingerprint']) for m in SIDES for one in records[m]]}".encode())
    return told.hexdigest()


def _whole_width(head: dict[str, Any]) -> int:
    """Of a projector, or of several as one."""
    if "members" not in head:
        return int(head["width"])
    widths = [_whole_width(member) for member in head["members"]]
    return sum(widths) if head["kind"] == "concat" else widths[0]
