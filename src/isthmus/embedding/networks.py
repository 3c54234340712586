"""The encoders of a run, grouped by network, and the precision that each network may run in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from isthmus.data.feature_pairs import SIDES
from isthmus.data.ragged import Ragged
from isthmus.encoders import Encoder, encode_views, load_encoders
from isthmus.encoders.base import Inputs
from isthmus.encoders.modality import Modality
from isthmus.encoders.uri import STATES
from isthmus.errors import InputError, UsageError
from isthmus.precision import choose_precision

LEAST_COSINE = 0.999
MOST_TOKENS = 512  # tokens of a text that are planned for if its encoder has no limit


@dataclass
class Network:
    """Views (layers, poolings) that share one forward pass, and the type of its products (None: its own)."""

    views: list[Encoder]
    autocast: torch.dtype | None = None

    def prepare(self, items: Sequence[Any]) -> Inputs:
        """The inputs of one batch of decoded images, or of captions, which are padded to the longest of them."""
        return self.views[0].prepare(items)

    def encode(self, inputs: Inputs) -> list[np.ndarray | Ragged]:
        """Features of one batch by every view, float32 [n, width_i] each, or sequences of states."""
        return encode_views(self.views, inputs, self.autocast)


def load(encoders: Any, modality: Modality, **options: Any) -> list[Encoder]:
    """One or several encoders or their URIs, as `load_encoders` loads them. Raises `InputError` if none is named."""
    listed = [encoders] if isinstance(encoders, str | Encoder) else list(encoders)
    if not listed:
        raise InputError(f"No {modality} encoder was named.")
    return load_encoders(listed, modality=modality, **options)


def load_all(image: Any, text: Any, encoders: Any = (), **options: Any) -> dict[Modality, list[Encoder]]:
    """The encoders of a run by modality: those of images, of texts, and `encoders`, each of its own modality.

    Raises `UsageError` where none is named.
    """
    found = {
        modality: load(given, modality, **options)
        for modality, given in zip(SIDES, (image, text), strict=True)
        if given is not None
    }
    listed = [encoders] if isinstance(encoders, str | Encoder) else list(encoders)
    for encoder in load_encoders(listed, **options) if listed else ():
        found.setdefault(encoder.modality, []).append(encoder)
    if not found:
        raise UsageError("No encoder was named: --image-encoder, --text-encoder or --encoder.")
    return found


def preparable(view: Encoder, items: list[Any]) -> list[Any]:
    """The items that an encoder can preprocess: a sample must not fail because of one picture or recording."""
    if view.spec.decode is None:
        return items
    try:
        view.prepare(items)
        return items
    except Exception:  # whatever a library raises on a strange picture; the run will list it
        return [one for item in items for one in preparable(view, [item])] if len(items) > 1 else []


def states_bytes(views: Sequence[Encoder]) -> int:
    """Bytes in float32 of the states of one item, at most, of all views that give them; 0 where none does."""
    return sum(4 * view.width * (view.most_tokens or MOST_TOKENS) for view in views if view.pool == STATES)


def by_network(encoders: Sequence[Encoder]) -> list[list[Encoder]]:
    """Encoders grouped by network: one forward pass serves a whole group."""
    groups: dict[str, list[Encoder]] = {}
    for encoder in encoders:
        groups.setdefault(encoder.backbone_key, []).append(encoder)
    return list(groups.values())


def choose_autocast(
    views: list[Encoder], sample: Callable[[], list[Any]], precision: str
) -> tuple[torch.dtype | None, dict[str, Any]]:
    """The type for a network's matrix products, and what to record about it; see `precision` of `embed`.

    sample: gives a few items to compare the types on; called only if "auto" has a choice.
    """
    network = views[0].network
    if choose_precision(precision, views[0].device) == "float32" or not any(True for _ in network.parameters()):
        return None, {}  # a callable chooses its own precision
    fast = {"compute_dtype": "bfloat16 autocast"}
    if precision == "bf16":
        return torch.bfloat16, fast
    items = preparable(views[0], sample())
    if not items:
        return None, {}
    inputs = views[0].prepare(items)
    both = zip(encode_views(views, inputs), encode_views(views, inputs, torch.bfloat16), strict=True)
    cosine = min(_least_cosine(_rows(exact), _rows(quick)) for exact, quick in both)
    if not cosine >= LEAST_COSINE:  # NaN included
        return None, {}
    return torch.bfloat16, fast | {"bfloat16_cosine": cosine}


def _rows(features: np.ndarray | Ragged) -> np.ndarray:
    return features.values if isinstance(features, Ragged) else features


def _least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(norms, 1e-30)).min())
