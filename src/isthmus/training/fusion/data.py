"""From a store of states to questions, texts and pictures by row: stored states, or live ones from the encoders."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from isthmus.data.answers import read_written
from isthmus.data.encoder_record import EncoderRecord
from isthmus.data.feature_pairs import SIDES, FeaturePairs
from isthmus.data.pairs import Pairs
from isthmus.encoders import Encoder, load_recorded
from isthmus.errors import UsageError
from isthmus.fusion import FusionOptions
from isthmus.models.saved import check_encoders
from isthmus.store import Store, open_store
from isthmus.store.opening import first_choice, open_pairs, uppermost_states
from isthmus.store.states import rows_of
from isthmus.training.contrastive.pixels import PixelFeatures


class StatesSource(Protocol):
    """States of some items by number: `gather` gives them as `StatesMatrix.gather` does."""

    records: list[EncoderRecord]

    def __len__(self) -> int: ...

    def gather(self, index: Any) -> tuple[Any, Any]: ...


class LiveTexts:
    """States of texts, encoded when they are asked for."""

    def __init__(self, texts: Sequence[str], views: Sequence[Encoder]) -> None:
        self.texts, self.views = list(texts), list(views)
        self.records = [view.record() for view in views]

    def __len__(self) -> int:
        return len(self.texts)

    def prepare(self, index: Any) -> Any:
        """The encoder's inputs of these texts."""
        return self.views[0].prepare([self.texts[row] for row in np.asarray(index).tolist()])

    def gather(self, index: Any) -> tuple[Any, Any]:
        found = self.views[0].states(self.prepare(index), [view.layer for view in self.views], gradients=True)
        return found.values, found.mask


class LivePictures(PixelFeatures):
    """States of pictures, read, augmented and encoded when they are asked for."""

    def __init__(self, pictures: Pairs, ids: list[str], views: Sequence[Encoder], augment: str = "none") -> None:
        super().__init__(pictures, ids, views[0], augment)
        self.views = list(views)
        self.records = [view.record() for view in views]

    def prepare(self, index: Any) -> Any:
        """The encoder's inputs of these pictures."""
        rows = np.asarray(index, np.int64).tolist()
        return self._prepare(rows, self._seeds(len(rows)))

    def gather(self, index: Any) -> tuple[Any, Any]:  # type: ignore[override]
        found = self.encoder.states(self.prepare(index), [view.layer for view in self.views], gradients=True)
        return found.values, found.mask


@dataclass(frozen=True)
class LayeredPairs:
    """Pictures and texts whose features are states of layers.

    pairs: which belong together; its matrices hold numbers of rows of the sources. image, text: the sources.
    answers: of each text of `pairs`, scores by answer; {} where it is no question.
    """

    pairs: FeaturePairs
    image: StatesSource
    text: StatesSource
    answers: list[dict[str, float]]

    def __len__(self) -> int:
        """The number of texts."""
        return len(self.pairs.image_of)

    def source(self, side: str) -> StatesSource:
        found: StatesSource = getattr(self, side)
        return found

    def numbers(self, side: str) -> np.ndarray:
        """Of each picture, or of each text, the row in its source: int64."""
        return rows_of(getattr(self.pairs, side))

    @property
    def widths(self) -> dict[str, list[int]]:
        """Of the layers of each side, bottom first."""
        return {side: [record["width"] for record in self.source(side).records] for side in SIDES}

    @property
    def records(self) -> dict[str, list[EncoderRecord]]:
        return {side: self.source(side).records for side in SIDES}


def layered_split(
    store: Store | str | Path,
    options: FusionOptions,
    *,
    image: str | None = None,
    text: str | None = None,
    only: Any = None,
    seed: int = 0,
) -> tuple[LayeredPairs, LayeredPairs]:
    """Training and validation pairs of a store, with the uppermost layers that the options ask for.

    Raises `UsageError` for layers that the store lacks, and what `Store.states` and `Store.pairs` raise.
    """
    if not isinstance(store, Store):
        folder, chosen = first_choice(store, {"image": image, "text": text})
        image, text, store = chosen["image"], chosen["text"], open_store(folder)
    named = {"image": image, "text": text}
    wanted = {"image": options.image_layers, "text": options.text_layers}
    states = {side: _uppermost(store, side, named[side], wanted[side]) for side in SIDES}
    answers = [read_written(cell) for cell in store.captions["answers"].to_pylist()]

    def part(split: str, only: Any) -> LayeredPairs:
        pairs = store.numbered_pairs(states, split=split, only=only, seed=seed)
        told = [answers[row] for row in rows_of(pairs.text).tolist()]
        return LayeredPairs(pairs, states["image"], states["text"], told)

    return part("train", only), part("val", None)


def _uppermost(store: Store, side: str, named: Any, count: int) -> Any:
    """The states of the uppermost `count` layers that a store holds; 0: of all."""
    if isinstance(named, list | tuple):
        if len(named) > 1:
            raise UsageError(f"fusion takes the layers of one {side} encoder, not of {len(named)} side by side.")
        named = named[0]
    return uppermost_states(store, side, named, count, f"fusion.{side}_layers")


def live(data: LayeredPairs, side: str, views: Sequence[Encoder], pictures: Pairs | None, augment: str) -> LayeredPairs:
    """The same pairs with the states of one side computed while training."""
    numbers = np.arange(len(data.pairs) if side == SIDES[0] else len(data))
    if side == SIDES[0]:
        assert pictures is not None
        source: Any = LivePictures(pictures, data.pairs.image_ids, views, augment)
    else:
        source = LiveTexts(data.pairs.captions or [], views)
    changed: dict[str, Any] = {side: numbers[:, None]}
    pairs = dataclasses.replace(data.pairs, **changed)
    return dataclasses.replace(data, pairs=pairs, **{side: source})


def load_views(data: LayeredPairs, side: str, device: str | None) -> list[Encoder]:
    """The encoder of a side, one view for each layer. Raises `InputError` where it is not the one of the store."""
    records = data.records[side]
    views = load_recorded([record["uri"] for record in records], modality=side, device=device)
    check_encoders(views, records)
    return views


def open_pictures(pixels: Any) -> Pairs:
    """The pictures that `--pixels` names."""
    return open_pairs(pixels, captions="optional")


def identity(data: LayeredPairs) -> dict[str, Any]:
    """What a checkpoint must agree on: ids, texts, answers, and the fingerprints of all layers."""
    pairs, digest = data.pairs, hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([pairs.image_ids, pairs.caption_ids, pairs.captions, data.answers]).encode())
    for index in (pairs.image_of, pairs.image_group, pairs.text_group):
        digest.update(index.tobytes())
    fingerprints = {side: [one["fingerprint"] for one in listed] for side, listed in data.records.items()}
    return {"pairs": digest.hexdigest(), **fingerprints}
