"""Image–text matching: does a model that fuses tell a picture's own caption from another's?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isthmus.data.columns import Columns
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.data.tables import Frame
from isthmus.errors import InputError, UsageError
from isthmus.evaluation.asking import GivenFusion, encoded_pictures, opened_fusion
from isthmus.evaluation.exposure import Exposure
from isthmus.evaluation.inputs import named
from isthmus.evaluation.tasks import task
from isthmus.fusion.sides import joined
from isthmus.metrics.bootstrap import estimate
from isthmus.metrics.results import Result, result
from isthmus.models.fusion_model import FusionModel
from isthmus.store.opening import holds_features, read_first

METRICS = ("accuracy", "choice_accuracy")
DEFINITION = (
    "Every caption is put to its own picture and to one other, that of another group. accuracy = share of both on the "
    "right side of a probability of one half; choice_accuracy = share of captions with a strictly greater probability "
    "for their own picture. chance = 50 %: every caption is once right and once wrong, so that captions alone tell "
    "nothing. ci95 = 95 % intervals over groups of pictures (docs/intervals.md)."
)


@task(primary="accuracy", columns=METRICS)
def matching(
    model: GivenFusion,
    data: Pairs | Frame | str | Path,
    *,
    split: str | None = None,
    columns: str | Columns | None = None,
    images: str | Path | None = None,
    pages: str | int | None = None,
    range: str | Sequence[float] | None = None,
    unseen: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Result:
    """Whether a caption belongs to a picture: its own against another's, on pairs."""
    source = read_first(data, columns=columns, images=images, pages=pages, range=range)
    loaded, name = opened_fusion(model, "matching")
    if loaded.network.matching is None:
        raise UsageError(f"{name}: was not trained to match: its recipe's objectives.matching was 0.")
    if isinstance(source, FeaturePairs) or holds_features(source):
        raise InputError(f"{named(source)}: matching reads the pictures: give the pairs that the store was made from.")
    pairs = source if isinstance(source, Pairs) else read_pairs(source)
    pairs = pairs if split is None else pairs.filter(split=split)
    exposure = Exposure(loaded, named(data), unseen)
    found = matched(loaded, pairs, exposure)
    return result(
        _scored(found, bootstrap, seed) | exposure.report() | {"skipped": found["skipped"], "definition": DEFINITION},
        dataset=named(data),
        model=name,
        task="image_text_matching",
    )


def matched(model: FusionModel, pairs: Pairs, exposure: Exposure) -> dict[str, Any]:
    """Probabilities float32 [m] of every caption with its own picture and with another; groups int64 [m].

    Raises `InputError` where fewer than two groups of pictures can be read.
    """
    captions: dict[str, list[str]] = {}
    for row in pairs.captions.select(["id", "caption"]).to_pylist():
        captions.setdefault(row["id"], []).append(row["caption"])
    group_of = {row["id"]: row["group"] or row["id"] for row in pairs.images.select(["id", "group"]).to_pylist()}
    skipped = list(pairs.skipped)
    own, other, groups, before = [], [], [], None
    for ids, states in encoded_pictures(model, pairs, exposure, skipped, exposure.counterparts(pairs, "text")):
        held, names = (states, ids) if before is None else (joined([before[1], states]), [*before[0], *ids])
        start = len(names) - len(ids)
        rows = [(start + place, text) for place, id in enumerate(ids) for text in captions.get(id, [])]
        partner = [_partner(names, place, group_of) for place, _ in rows]
        rows = [row for row, found in zip(rows, partner, strict=True) if found is not None]
        if rows:
            texts = model.side("text", [text for _, text in rows])
            index = [torch.tensor(some, device=model.device) for some in zip(*_places(rows, partner), strict=True)]
            own.append(model.match(held.take(index[0]), texts))
            other.append(model.match(held.take(index[1]), texts))
            groups += [group_of[names[place]] for place, _ in rows]
        before = ids, states
    if not own:
        exposure.check(0)
        raise InputError(f"{pairs.path}: fewer than two groups of pictures with captions can be read.")
    unit = np.unique(groups, return_inverse=True)[1]
    return {"own": np.concatenate(own), "other": np.concatenate(other), "groups": unit, "skipped": skipped}


def _partner(names: Sequence[str], place: int, group_of: dict[str, str]) -> int | None:
    """The place of the nearest picture before this one, going round, that is of another group."""
    around = range(place - 1, place - len(names), -1)
    return next((k % len(names) for k in around if group_of[names[k]] != group_of[names[place]]), None)


def _places(rows: Sequence[tuple[int, str]], partner: Sequence[int | None]) -> list[tuple[int, int]]:
    return [(place, found) for (place, _), found in zip(rows, (k for k in partner if k is not None), strict=True)]


def _scored(found: dict[str, Any], bootstrap: int, seed: int) -> dict[str, Any]:
    own, other, unit = found["own"], found["other"], found["groups"]
    sides = np.stack([own > 0.5, other <= 0.5]).mean(0)
    values = np.stack([sides, own > other], axis=1)

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.average(values, axis=0, weights=weights[unit])

    count = int(unit.max()) + 1
    metrics, ci95 = estimate(statistic, METRICS, count, bootstrap, seed, shares=METRICS)
    return {
        "metrics": metrics,
        "ci95": ci95,
        "chance": dict.fromkeys(METRICS, 0.5),
        "ties": {METRICS[1]: int((own == other).sum())},
        "n": {"texts": len(own), "groups": count},
        "bootstrap": bootstrap,
        "seed": seed,
    }
