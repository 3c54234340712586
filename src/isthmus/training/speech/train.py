"""From a store of states of lines to a recogniser, stage after stage."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from isthmus.errors import InputError
from isthmus.models.ledger import model_ledger
from isthmus.models.seen import SeenItems
from isthmus.models.speech_model import SpeechModel
from isthmus.speech.model import SENSES
from isthmus.speech.vocabulary import Characters, Subwords, Symbols
from isthmus.store import Store
from isthmus.store.opening import first_choice
from isthmus.training.fit import Fitting, alone_in
from isthmus.training.objective import Objective
from isthmus.training.processes import Processes
from isthmus.training.recipe import Stage
from isthmus.training.speech.data import SpokenLines, split_lines
from isthmus.training.speech.objective import SpeechObjective, WordObjective
from isthmus.training.speech.recipe import SpeechRecipe
from isthmus.training.speech.versions import FOLDER, Splits, ways, with_versions
from isthmus.training.stages import fit_stages

recipe = SpeechRecipe  # the class of this objective's recipes
WORDS = "words"
FEWEST_WORDS = 2  # lines of a single word, for a stage of words


def train(
    store: Store | str | Path,
    choices: SpeechRecipe,
    how: Fitting,
    *,
    audio: str | None = None,
    video: str | None = None,
    recordings: Any = None,
    noise: Any = None,
    only: Any = None,
    remember: bool = True,
) -> SpeechModel:
    """Train a recogniser over the states of a store, saved in `how.out`; arguments as for `isthmus.train`.

    audio, video: which encoder's states, where the store holds those of several. recordings: pairs with the recordings
    of the store's lines; noise: a recording, or a folder or table of them that babble: lines are then heard through
    noise, or faster, as the recipe says. Stages of a sense that the store does not hold are left out.
    """
    with alone_in(how.out), torch.random.fork_rng(), _room(how.out) as folder:
        lines = split_lines(store, audio=audio, video=video, layers=choices.speech.layers, only=only, seed=how.seed)
        symbols = _symbols(lines["train"], choices)
        choices = fitting(choices, lines, symbols)
        lines = with_versions(lines, choices.noise, how, recordings=recordings, noise=noise, folder=folder)
        made: dict[str, Objective] = {}
        run, summaries = fit_stages(lambda chosen: _made(chosen, lines, symbols, made), choices, how)
    networks = {name: one.result().cpu() for name, one in made.items() if isinstance(one, SpeechObjective)}
    told = {"recipe": run.plan.recipe.to_dict(), **run.summary(), "stages": summaries}
    records = {name: listed for name, listed in lines["train"].records.items() if _needed(name, networks)}
    told["ledger"] = model_ledger(_path(store), records, _cost(summaries))
    model = SpeechModel(
        networks, records=records, symbols=symbols, decoding=choices.decoding, lazy=True, summary=told,
        seen=_seen(lines) if remember else None,
    )  # fmt: skip
    if how.out is not None and Processes().first:
        model.save_pretrained(how.out)
    return model


def plan(
    store: Store | str | Path,
    choices: SpeechRecipe,
    how: Fitting,
    *,
    audio: str | None = None,
    video: str | None = None,
    recordings: Any = None,
    noise: Any = None,
    only: Any = None,
) -> dict[str, Any]:
    """What `train` with the same arguments would do: each stage's lines, batch, steps and parameters."""
    lines = split_lines(store, audio=audio, video=video, layers=choices.speech.layers, only=only, seed=how.seed)
    symbols = _symbols(lines["train"], choices)
    choices = fitting(choices, lines, symbols)
    return {
        "recipe": choices.resolve(len(lines["train"])).to_dict(),
        "lines": {name: len(part) for name, part in lines.items()},
        "symbols": symbols.symbols,
        "heard": ["clean", *(one.name for one in ways(choices.noise, noise, recordings))],
        "stages": {stage.name: _planned(choices.at(stage), lines, symbols) for stage in choices.stages},
    }


def _planned(chosen: SpeechRecipe, lines: Splits, symbols: Symbols) -> dict[str, Any]:
    """The amounts of a stage."""
    objective = _made(chosen, lines, symbols, {})
    objective.plan = planned = objective.planned(chosen)
    with torch.device("meta"):
        network = objective.build()
    return {
        **objective.counts(),
        "batch": planned.batch,
        "steps": planned.steps,
        "parameters": sum(one.numel() for one in network.parameters()),
        "deviations": planned.deviations(),
    }


def fitting(choices: SpeechRecipe, lines: Splits, symbols: Symbols) -> SpeechRecipe:
    """The recipe with the stages that these lines allow. Raises `InputError` where that is none."""
    held = list(lines["train"].states)
    kept: list[Stage] = []
    for stage in choices.stages or (Stage(choices.speech.senses),):
        senses = choices.at(stage).speech.senses
        needed = {"av": SENSES, WORDS: ("video",)}.get(senses, (senses,))
        if not set(needed) <= set(held):
            continue
        if senses == WORDS and WordObjective(lines["train"], None, symbols).items < FEWEST_WORDS:
            continue
        if not len(lines["train"].having(needed)):
            continue
        known = {one.name for one in kept}
        start = {part: other for part, other in stage.start.items() if other in known}
        kept.append(dataclasses.replace(stage, start=start))
    if not kept:
        raise InputError(f"recipe {choices.name!r}: none of its stages is for {' and '.join(held)} alone.")
    return dataclasses.replace(choices, stages=tuple(kept))


def _made(chosen: SpeechRecipe, lines: Splits, symbols: Symbols, made: dict[str, Objective]) -> Objective:
    """The objective of a stage, which is kept under what it is of."""
    senses, val = chosen.speech.senses, lines.get("val")
    found: Objective
    if senses == WORDS:
        found = WordObjective(lines["train"], val, symbols)
    else:
        found = SpeechObjective(lines["train"], val, symbols, senses, senses)
    made[senses] = found
    return found


def _symbols(lines: SpokenLines, choices: SpeechRecipe) -> Symbols:
    options = choices.speech
    if options.subwords:
        return Subwords.of(lines.texts, options.subwords, spelling=options.spelling)
    return Characters.of(lines.texts, spelling=options.spelling)


@contextmanager
def _room(out: Path | None) -> Iterator[Path]:
    """Where stores of noisy lines are kept; without a folder of the run, as long as it lasts."""
    if out is not None:
        yield out / FOLDER
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _needed(sense: str, networks: dict[str, Any]) -> bool:
    return any(sense in network.back_ends for network in networks.values())


def _cost(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Of all stages together."""
    seconds = round(sum(one["seconds"] for one in summaries), 2)
    return {"pairs_seen": sum(one["ledger"]["pairs_seen"] for one in summaries), "flops": None, "seconds": seconds}


def _seen(lines: Splits) -> SeenItems:
    return SeenItems.of_contents({role: lines[role].contents | {"text": lines[role].texts} for role in lines})


def _path(store: Store | str | Path) -> Path:
    return store.path if isinstance(store, Store) else Path(first_choice(store, {})[0])
