"""From a store of an image encoder's states to what is said about its pictures: questions, captions or messages."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.answers import read_written
from isthmus.data.feature_pairs import SIDES, FeaturePairs
from isthmus.errors import InputError, UsageError
from isthmus.store import Store, open_store
from isthmus.store.opening import first_choice
from isthmus.store.states import StatesMatrix, rows_of
from isthmus.training.fusion.data import LivePictures
from isthmus.training.language.messages import read_messages
from isthmus.training.language.recipe import LanguageRecipe

IMAGE = SIDES[0]


@dataclass(frozen=True)
class SpokenItem:
    """What is to be said about a picture. picture: its row among the pairs. turns: what was said before, the question
    last. asked: whether that is a question of the data, and not the recipe's for captions. accepted: all answers that
    count, and what they earn. place: for messages.
    """

    picture: int
    turns: tuple[str, ...]
    answer: str
    asked: bool
    accepted: dict[str, float]
    place: str


class TilePictures(LivePictures):
    """The pictures of rows themselves, one after the other: their tiles are encoded while training."""

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Width and height of each."""
        return [self._image(row).size for row in range(len(self.ids))]

    def gather(self, index: Any) -> tuple[Any, Any]:  # type: ignore[override]
        return (self._image(row) for row in np.asarray(index).tolist()), None


@dataclass(frozen=True)
class SpokenPairs:
    """Pictures, their states, and what is said about them. tiles: the pictures themselves, for grids."""

    pairs: FeaturePairs
    states: StatesMatrix
    items: list[SpokenItem]
    tiles: TilePictures | None = None

    def __len__(self) -> int:
        return len(self.items)

    @property
    def pictures(self) -> np.ndarray:
        """Of each item, the picture: int64."""
        return np.array([one.picture for one in self.items], np.int64)

    @property
    def numbers(self) -> np.ndarray:
        """Of each picture, its row in `states`: int64."""
        return rows_of(self.pairs.image)


def spoken_split(
    store: Store | str | Path, recipe: LanguageRecipe, *, image: str | None = None, only: Any = None, seed: int = 0
) -> tuple[SpokenPairs, SpokenPairs]:
    """Training and validation data of a store, with the layers that the recipe reads.

    Raises `UsageError` for layers that the store lacks, `InputError` for messages that cannot be used, and what
    `Store.states` raises.
    """
    if not isinstance(store, Store):
        folder, chosen = first_choice(store, {IMAGE: image})
        image, store = chosen[IMAGE], open_store(folder)
    if isinstance(image, list | tuple):
        if len(image) > 1:
            raise UsageError(f"one image encoder's layers are read, not those of {len(image)} side by side.")
        image = image[0]
    states = store.states(IMAGE, image)
    states = store.states(IMAGE, image, layers=wanted_layers(states.layers, recipe, store.path))
    answers = [read_written(cell) for cell in store.captions["answers"].to_pylist()]

    def part(split: str, only: Any) -> SpokenPairs:
        pairs = store.numbered_pairs({IMAGE: states}, split=split, only=only, seed=seed)
        told = [answers[row] for row in rows_of(pairs.text).tolist()]
        messages = recipe.data.messages
        items = _of_messages(pairs, messages) if messages else _of_store(pairs, told, recipe.language.caption)
        return SpokenPairs(pairs, states, items)

    train, val = part("train", only), part("val", None)
    if not len(train):
        raise InputError(
            f"{recipe.data.messages}: none of its rows is about a picture that trains. A row names one by `id`, or by "
            "`image` as the path that was embedded."
        )
    return train, val


def wanted_layers(held: list[int | None], recipe: LanguageRecipe, path: Path) -> list[int | None]:
    """The layers that the recipe reads, in the store's order. Raises `UsageError` for one that is not there."""
    fed = list(recipe.picture.layers) or held[-1:]
    managed = (list(recipe.managers.layers) or held) if recipe.managers.every else []
    for name, layers in (("picture.layers", fed), ("managers.layers", managed)):
        if missing := [layer for layer in layers if layer not in held]:
            there = ", ".join(str(one) if one is not None else "the last one's output" for one in held)
            raise UsageError(
                f"{name}: {path} holds no states of layer {missing[0]}, only of {there}. Embed it "
                "(layer=…&pool=states), or name another."
            )
    return [layer for layer in held if layer in fed or layer in managed]


def _of_store(pairs: FeaturePairs, told: list[dict[str, float]], caption: str) -> list[SpokenItem]:
    """The store's questions with their best answer, and its captions as answers to the recipe's question."""
    if not pairs.captions:
        raise InputError("The store holds no texts of these pictures: embed questions with answers, or captions.")
    items = []
    for row, text in enumerate(pairs.captions):
        accepted = {name: score for name, score in told[row].items() if score > 0}
        best = max(accepted, key=lambda name: accepted[name]) if accepted else text
        turns = (text,) if accepted else (caption,)
        place = pairs.caption_ids[row]
        items.append(SpokenItem(int(pairs.image_of[row]), turns, best, bool(accepted), accepted or {text: 1.0}, place))
    return items


def _of_messages(pairs: FeaturePairs, path: str) -> list[SpokenItem]:
    rows = {id: row for row, id in enumerate(pairs.image_ids)}
    return [
        SpokenItem(rows[one.picture], one.turns, one.answer, True, {one.answer: 1.0}, one.place)
        for one in read_messages(path, rows)
    ]


def spoken_identity(data: SpokenPairs) -> dict[str, Any]:
    """What a checkpoint must agree on: pictures, all that is said, and the fingerprints of the layers."""
    digest = hashlib.blake2b(digest_size=16)
    said = [[one.picture, *one.turns, one.answer] for one in data.items]
    digest.update(json.dumps([data.pairs.image_ids, said]).encode())
    return {"said": digest.hexdigest(), IMAGE: [one["fingerprint"] for one in data.states.records]}


def frequent_answers(data: SpokenPairs, least: int, most: int) -> list[str]:
    """Answers of at least so many questions, the most frequent first, at most so many."""
    counts: dict[str, int] = {}
    for one in data.items:
        for name in one.accepted if one.asked else ():
            counts[name] = counts.get(name, 0) + 1
    names = [name for name, count in counts.items() if count >= least]
    return sorted(names, key=lambda name: (-counts[name], name))[:most]
