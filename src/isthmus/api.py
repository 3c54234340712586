"""The verbs of isthmus, exported lazily by the package: `import isthmus as ist; ist.train(...)`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.anchor import Anchor
from isthmus.checkup import doctor
from isthmus.curation import curate
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.embedding import embed as _embed
from isthmus.encoders import load_encoder
from isthmus.errors import UsageError
from isthmus.evaluation.tasks import Saved, check_options, find_task, read_first
from isthmus.ledger import model_ledger
from isthmus.model import DualEncoder
from isthmus.selection.choice import first_choice
from isthmus.selection.run import select
from isthmus.store import Store, open_store
from isthmus.store.joining import choose_ids
from isthmus.training import load_recipe, train_projectors
from isthmus.training.folds import cross_validate as _cross_validate
from isthmus.training.pixels import live_split
from isthmus.training.plan import plan_training
from isthmus.training.processes import Processes

__all__ = [
    "cross_validate",
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
    pixels: Pairs | str | Path | None = None,
    only: str | Path | Sequence[str] | None = None,
    val: FeaturePairs | None = None,
    init: DualEncoder | str | Path | None = None,
    freeze: str | None = None,
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
        pixels: where the pictures of the store's images are (see `read_pairs`): then `image`, one encoder that the
            store need not hold, encodes them while training, augmented if the recipe's `data.augment` says so.
        only: ids to train on (a list, or a Parquet file with an `id` column). The validation split stays whole, so
            that runs on different selections compare.
        val: validation pairs where `store` is `FeaturePairs`; a store brings its own validation split.
        init, freeze: a trained model (or its folder), and which side of it ("image" or "text") stays as it is, bit for
            bit: the other side's encoder joins its space. Its features must be those of the model's own encoder.
        seed: of the order of samples, initial weights, dropout and the validation split.
        max_seconds: stop after this time; the model's summary says at which epoch.
        resume: go on from a checkpoint in `out`.

    Raises:
        InputError: features, splits or checkpoints that cannot be used; the message says why.
        UsageError: an unknown recipe, key or encoder.
    """
    anchor = None if init is None and freeze is None else Anchor.of(init, freeze)
    choices = load_recipe(recipe, overrides)
    chosen = {"image": image, "text": text, "only": only, "seed": seed}
    pairs, val = _split(store, chosen, val, anchor, pixels, choices.data.augment)
    trained = train_projectors(
        pairs,
        val,
        choices,
        frozen=anchor.side if anchor else None,
        out=out,
        seed=seed,
        max_seconds=max_seconds,
        resume=resume,
        progress=progress,
        **options,
    )
    joined = {} if anchor is None else {"joined": anchor.summary()}
    records = {"image": pairs.image_encoder, "text": pairs.text_encoder}
    ledger = model_ledger(_folder(store), records, trained.summary["ledger"])
    model = DualEncoder(
        anchor.projector if anchor and anchor.side == "image" else trained.image_projector,
        anchor.projector if anchor and anchor.side == "text" else trained.text_projector,
        scale=trained.scale,
        bias=trained.bias,
        records=records,
        summary={"recipe": trained.recipe, **trained.summary, **joined, "ledger": ledger},
        width=anchor.cut if anchor else None,
    )
    if out is not None and Processes().first:
        model.save_pretrained(out)
    return model


def cross_validate(
    store: Store | FeaturePairs | str | Path,
    *,
    folds: int = 5,
    recipe: str = "default",
    overrides: Sequence[str] = (),
    image: str | Sequence[str] | None = None,
    text: str | Sequence[str] | None = None,
    only: str | Path | Sequence[str] | None = None,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """How good models trained so on these pairs are, where a test split would be too small to say (below about 1,000).

    All pairs but those of a test split are dealt into `folds` by groups; every one is tested once. Arguments as for
    `train`; result and further options as of `isthmus.training.folds.cross_validate`.
    """
    if isinstance(store, FeaturePairs):
        pairs = store if only is None else choose_ids(store, only)
    else:
        chosen: dict[str, Any] = {"image": image, "text": text, "only": only}
        if isinstance(store, str | Path):
            store, chosen = first_choice(store, chosen)
            store = open_store(store)
        pairs = store.pairs(**chosen)
    kept = np.array([split != "test" for split in pairs.splits or [None] * len(pairs)])
    return _cross_validate(pairs.subset(kept), load_recipe(recipe, overrides), folds=folds, seed=seed, **options)


def training_plan(
    store: Any,
    *,
    recipe: str = "default",
    overrides: Sequence[str] = (),
    init: Any = None,
    freeze: str | None = None,
    pixels: Any = None,
    **chosen: Any,
) -> dict[str, Any]:
    """What `train` with the same arguments would do: the recipe in force, pairs, steps and parameters."""
    anchor = None if init is None and freeze is None else Anchor.of(init, freeze)
    choices = load_recipe(recipe, overrides)
    pairs, val = _split(store, chosen, None, anchor, pixels, choices.data.augment)
    return plan_training(pairs, val, choices, frozen=anchor.side if anchor else None)


def evaluate(
    model: Any,
    task: str,
    data: Any,
    *,
    device: str | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> Any:
    """Evaluate a model on pairs, or on a store's cached features.

    Args:
        model: a `DualEncoder`, its folder, or the URI of a ready one (`hf:openai/clip-vit-base-patch32`).
        task: "retrieval" (R@k in both directions), "zeroshot" (classification of the images' labels), or another of
            `isthmus.evaluation.tasks.TASKS`.
        data: what the task takes: pairs (images run through the model), a store, `FeaturePairs`, a data frame, a
            folder.
        device, trust_remote_code: for loading a model that is given by its folder or URI.
        options: the task's own, given by its function: `split`, `only`, `bootstrap`, `seed`, `classes`, …; and, where
            its data are pairs, those of `read_pairs`: `columns`, `images`, `pages`, `range`.

    Returns:
        CLIP_benchmark's dictionary: dataset, model, pretrained, task, metrics, language, and our additions
        (ci95, n, definition, skipped, seed); a list of them where a task gives several.

    Raises:
        UsageError: an unknown task, split or set of templates, or an option that the task does not take.
        InputError: data that cannot be used: no captions, no labels, a store of other encoders.
    """
    check_options(task, options)
    data = read_first(task, data, options)
    if isinstance(model, str | Path):
        model = Saved(model, device, trust_remote_code)
    return find_task(task)(model, data.path if isinstance(data, Store) else data, **options)


def _split(
    store: Any,
    chosen: dict[str, Any],
    val: FeaturePairs | None = None,
    anchor: Anchor | None = None,
    pixels: Any = None,
    augment: str = "none",
) -> tuple[FeaturePairs, FeaturePairs | None]:
    """Train and validation pairs, one side of which is embedded where it is anchored in a space that exists.

    Or whose images are encoded while training, where there are `pixels`.
    """
    if pixels is not None:
        if anchor is not None or isinstance(store, FeaturePairs):
            raise UsageError("pixels (--pixels) needs a store, and does not go with init and freeze.")
        return live_split(open_store(store) if isinstance(store, str | Path) else store, chosen, pixels, augment)
    given = isinstance(store, FeaturePairs) and val is not None
    pairs, val = (store, val) if given else _split_of(store, anchor.choose(chosen) if anchor else chosen)
    return (pairs, val) if anchor is None else (anchor.embedded(pairs), anchor.embedded(val))  # type: ignore[return-value]


def _split_of(store: Any, chosen: dict[str, Any]) -> tuple[FeaturePairs, FeaturePairs | None]:
    """Train and validation pairs of a store; of arrays, only where their `splits` name a validation part."""
    if isinstance(store, FeaturePairs):
        found = store.split(seed=chosen.get("seed", 0)) if store.splits else {"train": store}
        only = chosen.get("only")
        return found["train"] if only is None else choose_ids(found["train"], only), found.get("val")
    if isinstance(store, str | Path):
        store, chosen = first_choice(store, chosen)
        store = open_store(store)
    return store.pairs(split="train", **chosen), store.pairs(split="val", **{**chosen, "only": None})


def _folder(store: Any) -> Path | None:
    """Where a store's ledger is; None for arrays."""
    if isinstance(store, str | Path):
        return Path(first_choice(store, {})[0])
    return store.path if isinstance(store, Store) else None
