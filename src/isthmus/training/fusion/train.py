"""From a store of states to a fusion model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from isthmus.data.feature_pairs import SIDES
from isthmus.encoders import Encoder
from isthmus.encoders.unfrozen import Unfrozen
from isthmus.errors import UsageError
from isthmus.fusion import FusionNetwork
from isthmus.models.fusion_model import FusionModel
from isthmus.models.ledger import model_ledger
from isthmus.models.seen import SeenItems
from isthmus.store import Store
from isthmus.store.opening import first_choice
from isthmus.training.fit import Fitting, alone_in, fit
from isthmus.training.fusion.data import layered_split, live, load_views, open_pictures
from isthmus.training.fusion.objective import FusionObjective
from isthmus.training.fusion.recipe import FusionRecipe
from isthmus.training.processes import Processes

recipe = FusionRecipe  # the class of this objective's recipes


def train(
    store: Store | str | Path,
    choices: FusionRecipe,
    how: Fitting,
    *,
    image: Any = None,
    text: Any = None,
    pixels: Any = None,
    only: Any = None,
    remember: bool = True,
) -> FusionModel:
    """Train a fusion network over the states of a store, saved in `how.out`; arguments as for `isthmus.train`.

    image, text: which encoder's states, where the store holds those of several. pixels: where the pictures of the
    store are; the states of its image encoder are then computed while training.
    """
    objective = _objective(store, choices, how, image=image, text=text, pixels=pixels, only=only)
    with alone_in(how.out), torch.random.fork_rng():
        run = fit(objective, choices, how)
        run.finish()
    model = _model(objective, run.plan.recipe, run.summary(), _folder(store))
    if remember:
        model.seen = SeenItems.of_pairs(objective.train.pairs, None if objective.val is None else objective.val.pairs)
    if how.out is not None and Processes().first:
        model.save_pretrained(how.out)
    return model


def plan(
    store: Store | str | Path,
    choices: FusionRecipe,
    how: Fitting,
    *,
    image: Any = None,
    text: Any = None,
    pixels: Any = None,
    only: Any = None,
) -> dict[str, Any]:
    """What `train` with the same arguments would do: the recipe in force, pairs, steps and parameters."""
    objective = _objective(store, choices, how, image=image, text=text, pixels=pixels, only=only)
    planned = objective.planned(choices)
    shape = objective.shape(planned)
    with torch.device("meta"):
        network = FusionNetwork(shape)
    blocks = [one.blocks for one in objective.unfrozen.values()]
    return {
        "recipe": planned.recipe.to_dict(),
        **objective.counts(),
        "validation_pairs": 0 if objective.val is None else len(objective.val),
        "layers": {side: [one.get("layer") for one in listed] for side, listed in objective.train.records.items()},
        "batch": planned.batch,
        "steps": planned.steps,
        "parameters": sum(one.numel() for part in [network, *blocks] for one in part.parameters()),
        "deviations": planned.deviations(),
    }


def _objective(
    store: Store | str | Path,
    choices: FusionRecipe,
    how: Fitting,
    *,
    image: Any,
    text: Any,
    pixels: Any,
    only: Any,
) -> FusionObjective:
    """The objective on a store's states, with what is to be computed while training in place of them."""
    _check(store, choices, pixels)
    pairs, val = layered_split(store, choices.fusion, image=image, text=text, only=only, seed=how.seed)
    wanted = {"image": pixels is not None, "text": bool(choices.unfreeze.text)}
    views: dict[str, list[Encoder]] = {}
    for side in SIDES:
        if wanted[side] or (side == SIDES[1] and choices.objectives.words):
            views[side] = load_views(pairs, side, how.device)
    for side in (one for one in SIDES if wanted[one]):
        pictures = open_pictures(pixels) if side == SIDES[0] else None
        pairs = live(pairs, side, views[side], pictures, choices.data.augment)
        val = live(val, side, views[side], pictures, "none")
    counts = {side: getattr(choices.unfreeze, side) for side in SIDES}
    unfrozen = {side: Unfrozen.of(views[side], count) for side, count in counts.items() if count}
    return FusionObjective(pairs, val, texts=views.get(SIDES[1]), unfrozen=unfrozen)


def _check(store: Any, choices: FusionRecipe, pixels: Any) -> None:
    if not isinstance(store, Store | str | Path):
        raise UsageError("fusion takes a store of states (layer=…&pool=states), not arrays.")
    if pixels is None and choices.unfreeze.image:
        raise UsageError("unfreeze.image computes pictures while training: give them with pixels (--pixels PAIRS).")
    if pixels is None and choices.data.augment != "none":
        raise UsageError(
            f"data.augment = {choices.data.augment!r} does not go with states that are stored. Give the pictures, to "
            "be encoded while training: --pixels PAIRS."
        )


def _model(objective: FusionObjective, effective: FusionRecipe, summary: dict[str, Any], folder: Path) -> FusionModel:
    records = objective.train.records
    told = {"recipe": effective.to_dict(), **summary, "ledger": model_ledger(folder, records, summary["ledger"])}
    blocks = {side: dict(one.blocks.state_dict()) for side, one in objective.unfrozen.items()}
    for view in (one.views[0] for one in objective.unfrozen.values()):
        view.network.to(view.device)  # whose blocks are on the CPU since training ended
    return FusionModel(
        objective.result(),
        records=records,
        answers=objective.answers,
        loss=effective.objectives.answer_loss,
        blocks=blocks,
        encoders={side: one.views for side, one in objective.unfrozen.items()},
        lazy=True,
        summary=told,
    )


def _folder(store: Store | str | Path) -> Path:
    return store.path if isinstance(store, Store) else Path(first_choice(store, {})[0])
