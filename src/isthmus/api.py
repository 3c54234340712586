"""The verbs of isthmus, exported lazily by the package: `import isthmus as ist; ist.train(...)`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isthmus.checkup import doctor
from isthmus.curation import curate
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.embedding import embed as _embed
from isthmus.encoders import load_encoder
from isthmus.errors import UsageError, did_you_mean
from isthmus.evaluation.inputs import embed_for_evaluation, holds_features, zeroshot_labels
from isthmus.evaluation.results import result
from isthmus.evaluation.retrieval import retrieval
from isthmus.model import DualEncoder
from isthmus.selection.choice import first_choice
from isthmus.selection.run import select
from isthmus.store import Store, open_store
from isthmus.store.joining import choose_ids
from isthmus.training import load_recipe, train_projectors
from isthmus.training.plan import plan_training

__all__ = [
    "curate",
    "doctor",
    "embed",
    "evaluate",
    "load_encoder",
    "load_recipe",
    "open_store",
    "read_pairs",
    "select",
    "train",
]

TASKS = {"retrieval": "zeroshot_retrieval", "zeroshot": "zeroshot_classification"}  # CLIP_benchmark's names


def embed(pairs: Any, image: Any, text: Any, *, out: str | Path, **options: Any) -> Store:
    """Write the features of `pairs` by every named encoder into a store and open it.

    The options are those of `isthmus.embedding.embed`. `store.skipped` says what was skipped, and why.
    """
    _embed(pairs, image, text, out=out, **options)
    return open_store(out)


def train(
    store: Store | FeaturePairs | str | Path,
    *,
    recipe: str = "default",
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    image: str | Sequence[str] | None = None,
    text: str | Sequence[str] | None = None,
    only: str | Path | Sequence[str] | None = None,
    val: FeaturePairs | None = None,
    seed: int = 0,
    max_seconds: float | None = None,
    resume: bool = True,
    progress: bool = False,
    **options: Any,
) -> DualEncoder:
    """Train projectors on the train split of a store (or on arrays) and return the dual encoder.

    Args:
        store: a store, its folder, the folder of a selection (its first choice is trained), or
            `FeaturePairs.from_arrays(...)` for features made elsewhere.
        recipe: a recipe's name or a path to a TOML file.
        out: folder for the model, its history and checkpoints; None keeps all in memory.
        overrides: "section.key=value" strings that override the recipe.
        image, text: which of the store's encoders (URI or fingerprint prefix); several stand side by side.
            Needed only where the store holds more than one of a modality.
        only: ids to train on (a list, or a Parquet file with an `id` column). The validation split stays whole, so
            that runs on different selections compare.
        val: validation pairs where `store` is `FeaturePairs`; a store brings its own validation split.
        seed: of the order of samples, initial weights, dropout and the validation split.
        max_seconds: stop after this time; the model's summary says at which epoch.
        resume: go on from a checkpoint in `out`.

    Raises:
        InputError: features, splits or checkpoints that cannot be used; the message says why.
        UsageError: an unknown recipe, key or encoder.
    """
    if isinstance(store, FeaturePairs) and val is not None:
        pairs = store
    else:
        pairs, val = _split(store, {"image": image, "text": text, "only": only, "seed": seed})
    trained = train_projectors(
        pairs,
        val,
        load_recipe(recipe, overrides),
        out=out,
        seed=seed,
        max_seconds=max_seconds,
        resume=resume,
        progress=progress,
        **options,
    )
    model = DualEncoder(
        trained.image_projector,
        trained.text_projector,
        scale=trained.scale,
        bias=trained.bias,
        records={"image": pairs.image_encoder, "text": pairs.text_encoder},
        summary={"recipe": trained.recipe, **trained.summary},
    )
    if out is not None:
        model.save_pretrained(out)
    return model


def training_plan(
    store: Any, *, recipe: str = "default", overrides: Sequence[str] = (), **chosen: Any
) -> dict[str, Any]:
    """What `train` with the same arguments would do: the recipe in force, pairs, steps and parameters."""
    pairs, val = _split(store, chosen)
    return plan_training(pairs, val, load_recipe(recipe, overrides))


def evaluate(
    model: DualEncoder | str | Path,
    task: str,
    data: Pairs | FeaturePairs | str | Path,
    *,
    split: str | None = None,
    only: str | Path | Sequence[str] | None = None,
    classes: str | Path | Sequence[str] | None = None,
    templates: str | Path | Sequence[str] = "default",
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluate a model on pairs, or on a store's cached features.

    Args:
        model: a `DualEncoder` or its folder.
        task: "retrieval" (R@k in both directions) or "zeroshot" (classification of the images' labels).
        data: pairs (images run through the model), a store, or `FeaturePairs`.
        split: only this split of the data.
        only: only these ids (a list, or a Parquet file with an `id` column).
        classes: class names for zeroshot (a list, or a file with one a line); default: the labels that occur.
        templates: prompts with a `{}` slot: a list, a file, or the name of a packaged set.
        bootstrap: resamples of groups behind the 95 % intervals; 0 for none.
        seed: of the bootstrap and of a validation split that the data does not name.

    Returns:
        CLIP_benchmark's dictionary: dataset, model, pretrained, task, metrics, language, and our additions
        (ci95, n, definition, skipped, seed).

    Raises:
        UsageError: an unknown task, split or set of templates.
        InputError: data that cannot be used: no captions, no labels, a store of other encoders.
    """
    if task not in TASKS:
        raise UsageError(f"Unknown task {task!r}." + did_you_mean(task, TASKS))
    name = str(model) if isinstance(model, str | Path) else "isthmus"
    if not isinstance(model, DualEncoder):
        model = DualEncoder.from_pretrained(model, load=task == "zeroshot" or not holds_features(data))
    embedded = embed_for_evaluation(model, data, split=split, only=only, seed=seed)
    options: dict[str, Any] = {"groups": embedded.groups, "bootstrap": bootstrap, "seed": seed}
    if task == "retrieval":
        evaluation = retrieval(embedded.image, embedded.text, embedded.image_of, **options)
    else:
        evaluation = zeroshot_labels(model.encode_text, embedded, classes, templates, **options)
    dataset = str(data) if isinstance(data, str | Path) else "arrays"
    evaluation["skipped"] = embedded.skipped
    return result(evaluation, dataset=dataset, model=name, task=TASKS[task])


def _split(store: Any, chosen: dict[str, Any]) -> tuple[FeaturePairs, FeaturePairs | None]:
    """Train and validation pairs of a store; of arrays, only where their `splits` name a validation part."""
    if isinstance(store, FeaturePairs):
        found = store.split(seed=chosen.get("seed", 0)) if store.splits else {"train": store}
        only = chosen.get("only")
        return found["train"] if only is None else choose_ids(found["train"], only), found.get("val")
    if isinstance(store, str | Path):
        store, chosen = first_choice(store, chosen)
        store = open_store(store)
    return store.pairs(split="train", **chosen), store.pairs(split="val", **{**chosen, "only": None})
