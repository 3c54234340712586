"""From a store to a dual encoder: training pairs, the locked side, and the resulting model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isthmus.data.feature_pairs import SIDES, FeaturePairs
from isthmus.data.pairs import Pairs
from isthmus.encoders.modality import Modality
from isthmus.errors import UsageError
from isthmus.models.dual_encoder import DualEncoder
from isthmus.models.ledger import model_ledger
from isthmus.models.seen import SeenItems
from isthmus.store import Store, open_store
from isthmus.store.joining import choose_ids
from isthmus.store.opening import first_choice
from isthmus.training.contrastive.locked_tower import LockedTower
from isthmus.training.contrastive.pixels import live_split
from isthmus.training.contrastive.recipe import ContrastiveRecipe
from isthmus.training.contrastive.trainer import Trained, plan_training, train_projectors
from isthmus.training.contrastive.trials import tune as find_best
from isthmus.training.fit import Fitting
from isthmus.training.history import History
from isthmus.training.processes import Processes
from isthmus.training.tuning import TrialBudget

recipe = ContrastiveRecipe  # the class of this objective's recipes
Named = str | Sequence[str] | None  # encoders of a store


def train(
    store: Store | FeaturePairs | str | Path,
    choices: ContrastiveRecipe,
    how: Fitting,
    *,
    image: Named = None,
    text: Named = None,
    pixels: Pairs | str | Path | None = None,
    only: str | Path | Sequence[str] | None = None,
    val: FeaturePairs | None = None,
    init: DualEncoder | str | Path | None = None,
    freeze: str | None = None,
    modalities: tuple[str, str] = SIDES,
    remember: bool = True,
    tune: float | None = None,
) -> DualEncoder:
    """Train two projectors and return the dual encoder, saved in `how.out`; arguments as for `isthmus.train`."""
    locked = _locked(init, freeze)
    chosen = {"image": image, "text": text, "only": only, "seed": how.seed, "modalities": tuple(modalities)}
    pairs, val = _split(store, chosen, val, locked, pixels, choices.data.augment)
    trained = _trained(pairs, val, choices, how, tune, locked.side if locked else None)
    model = _model(trained, pairs, locked, _folder(store))
    if remember:
        all_pairs = pairs.joined(val) if val is not None and "refit" in trained.summary else pairs
        model.seen = SeenItems.of_pairs(all_pairs, val).joined(locked.model.seen if locked else None)
    if how.out is not None and Processes().first:
        model.save_pretrained(how.out)
    return model


def _trained(
    pairs: FeaturePairs,
    val: FeaturePairs | None,
    choices: ContrastiveRecipe,
    how: Fitting,
    minutes: float | None,
    frozen: Modality | None,
) -> Trained:
    """The trained projectors, with the settings that trials of so many minutes chose, if any are wanted."""
    if minutes is None:
        return train_projectors(pairs, val, choices, frozen=frozen, **vars(how))
    chosen, folder, tuned = find_best(pairs, val, choices, how, TrialBudget(minutes), frozen)
    trained = train_projectors(
        pairs, val, chosen, frozen=frozen, **vars(dataclasses.replace(how, out=folder, resume=True))
    )
    assert how.out is not None  # `find_best` has checked it
    History(how.out / "history.jsonl", trained.history)
    return dataclasses.replace(trained, summary={**trained.summary, "tuned": tuned})


def plan(
    store: Store | FeaturePairs | str | Path,
    choices: ContrastiveRecipe,
    how: Fitting,
    *,
    image: Named = None,
    text: Named = None,
    pixels: Pairs | str | Path | None = None,
    only: str | Path | Sequence[str] | None = None,
    val: FeaturePairs | None = None,
    init: DualEncoder | str | Path | None = None,
    freeze: str | None = None,
    modalities: tuple[str, str] = SIDES,
) -> dict[str, Any]:
    """What `train` with the same arguments would do: the recipe in force, pairs, steps and parameters."""
    locked = _locked(init, freeze)
    chosen = {"image": image, "text": text, "only": only, "seed": how.seed, "modalities": tuple(modalities)}
    pairs, val = _split(store, chosen, val, locked, pixels, choices.data.augment)
    return plan_training(pairs, val, choices, frozen=locked.side if locked else None)


def _locked(init: DualEncoder | str | Path | None, freeze: str | None) -> LockedTower | None:
    return None if init is None and freeze is None else LockedTower.of(init, freeze)


def _model(trained: Trained, pairs: FeaturePairs, locked: LockedTower | None, store: Path | None) -> DualEncoder:
    """The model of the trained projectors, or of one and the frozen side."""
    joined = {} if locked is None else {"joined": locked.summary()}
    records = pairs.records
    ledger = model_ledger(store, records, trained.summary["ledger"])
    return DualEncoder(
        locked.projector if locked and locked.side == "image" else trained.image_projector,
        locked.projector if locked and locked.side == "text" else trained.text_projector,
        scale=trained.scale,
        bias=trained.bias,
        records=records,
        summary={"recipe": trained.recipe, **trained.summary, **joined, "ledger": ledger},
        width=locked.cut if locked else None,
        lazy=True,
    )


def _split(
    store: Store | FeaturePairs | str | Path,
    chosen: dict[str, Any],
    val: FeaturePairs | None = None,
    locked: LockedTower | None = None,
    pixels: Pairs | str | Path | None = None,
    augment: str = "none",
) -> tuple[FeaturePairs, FeaturePairs | None]:
    """Train and validation pairs, with one side embedded if it is frozen, or with images encoded while training if
    there are `pixels`.
    """
    if pixels is not None:
        if locked is not None or isinstance(store, FeaturePairs):
            raise UsageError("pixels (--pixels) needs a store, and does not go with init and freeze.")
        return live_split(open_store(store) if isinstance(store, str | Path) else store, chosen, pixels, augment)
    pairs, val = (
        (store, val)
        if isinstance(store, FeaturePairs) and val is not None
        else _split_of(store, locked.choose(chosen) if locked else chosen)
    )
    if locked is None:
        return pairs, val
    return locked.embedded(pairs.identified()), locked.embedded(val and val.identified())  # type: ignore[return-value]


def _split_of(
    store: Store | FeaturePairs | str | Path, chosen: dict[str, Any]
) -> tuple[FeaturePairs, FeaturePairs | None]:
    """Train and validation pairs of a store; of arrays, only if their `splits` name a validation part."""
    if isinstance(store, FeaturePairs):
        found = store.split(seed=chosen.get("seed", 0)) if store.splits else {"train": store}
        only = chosen.get("only")
        return found["train"] if only is None else choose_ids(found["train"], only), found.get("val")
    if isinstance(store, str | Path):
        store, chosen = first_choice(store, chosen)
        store = open_store(store)
    return store.pairs(split="train", **chosen), store.pairs(split="val", **{**chosen, "only": None})


def _folder(store: Store | FeaturePairs | str | Path) -> Path | None:
    """Where a store's ledger is; None for arrays."""
    if isinstance(store, str | Path):
        return Path(first_choice(store, {})[0])
    return store.path if isinstance(store, Store) else None
