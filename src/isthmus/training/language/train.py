"""From a store of an image encoder's states to a language model that sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from isthmus.data.feature_pairs import SIDES
from isthmus.data.text import read_text
from isthmus.encoders import load_recorded
from isthmus.errors import UsageError
from isthmus.fusion.language import LanguageNetwork, load_language
from isthmus.fusion.language.pictures import check_head
from isthmus.models.dual_encoder import DualEncoder
from isthmus.models.language_model import VisionLanguageModel
from isthmus.models.ledger import model_ledger
from isthmus.models.saved import check_encoders
from isthmus.models.seen import SeenItems
from isthmus.store import Store
from isthmus.store.opening import first_choice, open_pairs
from isthmus.training.fit import Fitting, alone_in, fit
from isthmus.training.language.data import SpokenPairs, TilePictures, spoken_split
from isthmus.training.language.objective import LanguageObjective
from isthmus.training.language.recipe import LanguageRecipe
from isthmus.training.processes import Processes
from isthmus.training.stages import fit_stages

IMAGE = SIDES[0]
recipe = LanguageRecipe  # the class of this objective's recipes


def train(
    store: Store | str | Path,
    choices: LanguageRecipe,
    how: Fitting,
    *,
    image: Any = None,
    pixels: Any = None,
    only: Any = None,
    remember: bool = True,
) -> VisionLanguageModel:
    """Train a projector, managers and what the recipe says of the language model; arguments as for `isthmus.train`.

    image: which encoder's states, where the store holds those of several. pixels: where the pictures of the store are,
    for grids of tiles, which are encoded as training begins.
    """
    objective = _objective(store, choices, how, image=image, pixels=pixels, only=only)
    with alone_in(how.out), torch.random.fork_rng():
        if choices.stages:
            made: list[LanguageObjective] = []

            def make(stage: LanguageRecipe) -> LanguageObjective:
                made.append(objective if not made else objective.again())
                return made[-1]

            run, summaries = fit_stages(make, choices, how)
            objective, stages = made[-1], {"stages": summaries}
        else:
            run, stages = fit(objective, choices, how), {}
            run.finish()
    model = _model(objective, {**run.summary(), **stages}, store)
    if remember:
        model.seen = SeenItems.of_pairs(objective.train.pairs, None if objective.val is None else objective.val.pairs)
    if how.out is not None and Processes().first:
        model.save_pretrained(how.out)
    return model


def plan(
    store: Store | str | Path,
    choices: LanguageRecipe,
    how: Fitting,
    *,
    image: Any = None,
    pixels: Any = None,
    only: Any = None,
) -> dict[str, Any]:
    """What `train` with the same arguments would do: the recipe in force, answers, steps and parameters."""
    objective = _objective(store, choices, how, image=image, pixels=pixels, only=only)
    stages = [choices.at(stage) for stage in choices.stages] or [choices]
    planned = [objective.planned(stage) for stage in stages]
    shape = objective.shape(planned[-1])
    with torch.device("meta"):
        network = LanguageNetwork(shape)
    return {
        "recipe": planned[-1].recipe.to_dict(),
        "pairs": objective.items,
        "validation_pairs": 0 if objective.val is None else len(objective.val),
        "layers": [one.get("layer") for one in objective.train.states.records],
        "tokens": shape.tokens,
        **({"most_tokens": max(objective.tokens(shape, objective.train))} if shape.grids else {}),
        "batch": planned[-1].batch,
        "steps": sum(one.steps for one in planned),
        "parameters": sum(one.numel() for one in network.parameters() if one.requires_grad),
        "deviations": [told for one in planned for told in one.deviations()],
    }


def _objective(
    store: Store | str | Path, choices: LanguageRecipe, how: Fitting, *, image: Any, pixels: Any, only: Any
) -> LanguageObjective:
    if not isinstance(store, Store | str | Path):
        raise UsageError("a language model takes a store of states (layer=…&pool=states), not arrays.")
    data, val = spoken_split(store, choices, image=image, only=only, seed=how.seed)
    grids = any(one.picture.grids for one in [choices.at(stage) for stage in choices.stages] or [choices])
    if grids != (pixels is not None):
        raise UsageError(
            "picture.grids: tiles are cut from the pictures, which the store does not hold. Say where these are: "
            "--pixels PAIRS."
            if grids
            else "pixels (--pixels) is for picture.grids: without them, what a picture becomes is in the store."
        )
    if grids:
        data, val = _with_tiles(data, val, pixels, how.device)
    template = choices.language.template
    return LanguageObjective(
        data,
        val,
        load_language(choices.language.model),
        template=read_text(Path(template)) if template else "",
        head=_head(choices.picture.head, data),
    )


def _with_tiles(
    data: SpokenPairs, val: SpokenPairs, pixels: Any, device: str | None
) -> tuple[SpokenPairs, SpokenPairs]:
    """The same with their pictures. Raises `InputError` for pictures that are missing, or another encoder's states."""
    views = load_recorded([one["uri"] for one in data.states.records], modality=IMAGE, device=device)
    check_encoders(views, data.states.records)
    pictures = open_pairs(pixels, captions="optional")
    first, second = (replace(one, tiles=TilePictures(pictures, one.pairs.image_ids, views)) for one in (data, val))
    return first, second


def _head(path: str, data: SpokenPairs) -> Any:
    """The image head of a trained model, for tokens of the same encoder and layer as the store's.

    Raises `UsageError` for a head on pooled features, or of another encoder or layer.
    """
    if not path:
        return None
    model = DualEncoder.from_pretrained(path, load=False)
    head, records = model.image_projector, model.records[IMAGE]
    check_head(head)
    if len(records) != 1 or any(
        one.get("backbone_key") != records[0].get("backbone_key") or one.get("layer") != records[0].get("layer")
        for one in data.states.records
    ):
        raise UsageError(
            f"picture.head: {path} was trained on {', '.join(one['uri'] for one in records)}, but the states are of "
            f"{', '.join(one['uri'] for one in data.states.records)}: an image head belongs to one layer of one "
            "encoder."
        )
    return head


def _model(objective: LanguageObjective, summary: dict[str, Any], store: Any) -> VisionLanguageModel:
    records = {IMAGE: objective.train.states.records}
    folder = store.path if isinstance(store, Store) else Path(first_choice(store, {})[0])
    told = {"recipe": objective.plan.recipe.to_dict(), **summary}
    return VisionLanguageModel(
        objective.result(),
        records=records,
        language=objective.language.record,
        prompting=objective.prompting,
        loaded=objective.language,
        answers=objective.answers,
        lazy=True,
        summary={**told, "ledger": model_ledger(folder, records, summary["ledger"])},
    )
