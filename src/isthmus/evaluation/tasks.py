"""What `evaluate` can be asked for: every task is a function of a model and data, found by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from isthmus.data.pairs import read_pairs
from isthmus.errors import UsageError, did_you_mean
from isthmus.evaluation.inputs import embed_for_evaluation, holds_features, zeroshot_labels
from isthmus.evaluation.protocols import find_protocol
from isthmus.metrics.results import result
from isthmus.metrics.retrieval import retrieval as rank
from isthmus.models.dual_encoder import DualEncoder

# A task is `function(model, data, *, options)` -> one result (see `results.result`), or a list of them. `model` is a
# DualEncoder, or names one, which the task loads with or without its encoders (`opened`).
TASKS = {
    "retrieval": "isthmus.evaluation.tasks:retrieval",
    "zeroshot": "isthmus.evaluation.tasks:zeroshot",
    "suite": "isthmus.evaluation.suite:suite",
    "knn": "isthmus.evaluation.probes:knn",
    "linear_probe": "isthmus.evaluation.probes:linear_probe",
    "fewshot": "isthmus.evaluation.probes:fewshot",
    "segmentation": "isthmus.evaluation.segmentation:segmentation",
    "diagnose": "isthmus.evaluation.diagnosis:diagnose",
    "winoground": "isthmus.evaluation.compositional:winoground",
    "mmvp": "isthmus.evaluation.compositional:mmvp",
    "sugarcrepe": "isthmus.evaluation.compositional:sugarcrepe",
    "aro": "isthmus.evaluation.compositional:aro",
    "whatsup": "isthmus.evaluation.compositional:whatsup",
    "longtext": "isthmus.evaluation.longtext:longtext",
    "multilingual": "isthmus.evaluation.multilingual:multilingual",
}


def find_task(name: str) -> Callable[..., Any]:
    """The function of a task; UsageError for one that does not exist."""
    if name not in TASKS:
        raise UsageError(f"Unknown task {name!r}." + did_you_mean(name, TASKS))
    module, _, function = TASKS[name].partition(":")
    return getattr(import_module(module), function)


def check_options(name: str, options: dict[str, Any]) -> None:
    """UsageError for an option that the task does not take."""
    known = list(inspect.signature(find_task(name)).parameters)[2:]
    for option in options:
        if option not in known:
            raise UsageError(f"The task {name} takes no {option!r}: it takes {', '.join(known)}.")


@dataclass(frozen=True)
class Saved:
    """A model's folder or URI, and how to load it when a task knows whether it needs the encoders."""

    path: str | Path
    device: str | None = None
    trust_remote_code: bool = False


def opened(model: Any, *, encoders: bool = True) -> tuple[Any, str]:
    """The model, loaded where it is only named (`encoders`: with them), and its name in results."""
    saved = Saved(model) if isinstance(model, str | Path) else model
    if not isinstance(saved, Saved):
        return model, "isthmus"
    device, trust = saved.device, saved.trust_remote_code
    loaded = DualEncoder.from_pretrained(saved.path, load=encoders, device=device, trust_remote_code=trust)
    return loaded, str(saved.path)


def named(data: Any) -> str:
    """The name of data in results."""
    return str(data) if isinstance(data, str | Path) else "arrays"


def retrieval(
    model: Any,
    data: Any,
    *,
    split: str | None = None,
    only: Any = None,
    protocol: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """R@k in both directions, on pairs or on a store's cached features.

    split: only this split of the data. only: only these ids (a list, or a Parquet file with an `id` column).
    protocol: treat the captions of pairs as a paper does (`protocols`).
    bootstrap: resamples of groups behind the 95 % intervals, 0 for none. seed: of the bootstrap and of a validation
    split that the data does not name.
    """
    model, name = opened(model, encoders=not holds_features(data))
    source, preset = data, find_protocol(protocol)
    if preset is not None:
        if holds_features(data):
            raise UsageError("protocol: changes captions, which a store holds encoded; give the pairs instead.")
        data = preset.prepared(read_pairs(data) if isinstance(data, str | Path) else data)
    embedded = embed_for_evaluation(model, data, split=split, only=only, seed=seed)
    found = rank(
        embedded.image, embedded.text, embedded.image_of, groups=embedded.groups, bootstrap=bootstrap, seed=seed
    )
    found["skipped"] = embedded.skipped
    return result(found, dataset=named(source), model=name, task="zeroshot_retrieval")


def zeroshot(
    model: Any,
    data: Any,
    *,
    classes: Any = None,
    templates: Any = "default",
    split: str | None = None,
    only: Any = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Classification of the images' labels by the text of their names; the options of `retrieval`, and two more.

    classes: class names (a list, or a file with one a line); default: the labels that occur. templates: prompts with
    a `{}` slot: a list, a file, or the name of a packaged set.
    """
    model, name = opened(model)
    embedded = embed_for_evaluation(model, data, split=split, only=only, seed=seed)
    found = zeroshot_labels(
        model.encode_text, embedded, classes, templates, groups=embedded.groups, bootstrap=bootstrap, seed=seed
    )
    found["skipped"] = embedded.skipped
    return result(found, dataset=named(data), model=name, task="zeroshot_classification")
