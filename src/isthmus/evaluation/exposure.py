"""Which of the items that a model is asked about it has seen: they trained it, or validated it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from isthmus.data.contents import LEAST_WORDS, items_of_hashes, items_of_texts
from isthmus.data.encoder_record import modalities_of
from isthmus.data.feature_pairs import SIDES, FeaturePairs
from isthmus.data.images import BadImage
from isthmus.data.pairs import Pairs
from isthmus.errors import InputError
from isthmus.evaluation.labelled import Labelled
from isthmus.metrics.results import Result
from isthmus.modality import spec_of
from isthmus.models.seen import ROLES

NAMES = dict(zip(SIDES, ("pictures", "captions"), strict=True))
NEW, TRAINED, VALIDATED = range(3)


def content_of(pairs: Pairs, row: int) -> str | None:
    """The content hash of an item; None if it cannot be read."""
    try:
        return pairs.content_hash(pairs.read_bytes(row), row)
    except BadImage:
        return None


class SeenWarning(UserWarning):
    """A model was evaluated on what trained or validated it."""


class Exposure:
    """What `model` has seen of the data called `name`, and what `unseen` leaves out of them.

    A pair is seen where its picture is, whatever caption it had then; or where one of its captions of four words or
    more is (captions=False: the task does not ask about these). Nothing is known of a model that does not remember.

    Raises `InputError` for `unseen` of such a model.
    """

    def __init__(self, model: Any, name: str, unseen: bool = False, *, captions: bool = True) -> None:
        self.memory, self.name, self.unseen = getattr(model, "seen", None), name, unseen
        self.asks_captions = captions
        self.modalities: tuple[str, ...] = () if self.memory is None else modalities_of(model.records)
        self.counts: dict[str, dict[str, int]] = {}
        self.pairs_seen = self.by_caption = 0
        if unseen and self.memory is None:
            raise InputError(
                f"{name}: whether it is unseen is not known: the model does not remember what trained it (it comes "
                "from elsewhere or an older version, or was trained with --forget-items). Train it again."
            )

    def roles(self, side: str, items: np.ndarray) -> np.ndarray:
        """`NEW`, `TRAINED` or `VALIDATED` of each item of a side, uint64 [n]: int8 [n]; they are counted."""
        if self.memory is None:
            return np.zeros(len(items), np.int8)
        found = self.memory.roles(self.modalities[SIDES.index(side)], items)
        counted = self.counts.setdefault(side, {"n": 0, **dict.fromkeys(ROLES, 0)})
        for role, number in zip(("n", *ROLES), (len(items), *np.bincount(found, minlength=3)[1:]), strict=True):
            counted[role] += int(number)
        return found

    def pictures(self, items: np.ndarray) -> np.ndarray:
        """Whether each picture is seen, bool [n]; they are counted."""
        return self.roles(SIDES[0], items) > NEW

    def captions(self, items: np.ndarray, texts: Sequence[str] | None) -> np.ndarray:
        """Whether each caption is seen and says enough to be no coincidence, bool [m]; the seen ones are counted."""
        if not self.asks_captions:
            return np.zeros(len(items), bool)
        seen = self.roles(SIDES[1], items) > NEW
        return seen if texts is None else seen & np.array([len(one.split()) >= LEAST_WORDS for one in texts], bool)

    def keep(self, pictures: np.ndarray, captions: np.ndarray | None = None) -> np.ndarray:
        """Which pairs are evaluated, bool [n]. pictures, captions: whether those of each pair are seen, bool [n]."""
        seen = pictures if captions is None else pictures | captions
        self.pairs_seen += int(seen.sum())
        self.by_caption += int((seen & ~pictures).sum())
        return ~seen if self.unseen else np.ones(len(seen), bool)

    def check(self, left: int) -> None:
        """Raise `InputError` where nothing is left to evaluate because all of it is seen."""
        if not left and self.unseen and self.pairs_seen:
            raise InputError(
                f"{self.name}: all {self.pairs_seen:,} trained or validated this model, nothing of it is unseen. "
                "Evaluate on others, or hold some out before training: isthmus embed --test 0.2."
            )

    def rest(self, pairs: FeaturePairs) -> FeaturePairs:
        """Those of the pairs that are evaluated. Raises as `check`."""
        if self.memory is None:
            return pairs
        pictures, captions = self.pictures(pairs.items(SIDES[0])), np.zeros(len(pairs), bool)
        captions[pairs.image_of[self.captions(pairs.items(SIDES[1]), pairs.captions)]] = True
        kept = self.keep(pictures, captions)
        self.check(int(kept.sum()))
        return pairs.subset(kept) if self.unseen else pairs

    def unseen_of(self, images: Labelled) -> Labelled:
        """Those of labelled images that are evaluated. Raises as `check`."""
        kept = self.keep(self.pictures(images.items))
        self.check(int(kept.sum()))
        return images.where(kept) if self.unseen else images

    def counterparts(self, pairs: Pairs, modality: str) -> set[str]:
        """Ids of the samples of which a caption, or another item on the second side, is seen; all are counted."""
        if self.memory is None:
            return set()
        texts: list[str] | None = None
        if spec_of(modality).decode is None:
            owners, texts = pairs.captions["id"].to_pylist(), pairs.captions["caption"].to_pylist()
            seen = self.captions(items_of_texts(texts), texts)
        else:
            side = pairs.side(modality)
            hashed = {row: content for row in range(len(side)) if (content := content_of(side, row))}
            owners = [side.samples[row] for row in hashed]
            seen = self.captions(items_of_hashes(list(hashed.values())), None)
        return {owner for owner, one in zip(owners, seen.tolist(), strict=True) if one}

    def picture(self, pairs: Pairs, row: int, counterpart: bool = False) -> tuple[str, Any]:
        """Content hash and picture of an item, None for one that is left out. Bytes are hashed as they are read.

        counterpart: whether something that belongs to it is seen. Raises `BadImage`.
        """
        data = pairs.read_bytes(row)
        content = pairs.content_hash(data, row)
        kept = self.keep(self.pictures(items_of_hashes([content])), np.array([counterpart]))[0]
        return content, pairs.picture(row, data) if kept else None

    def report(self) -> dict[str, Any]:
        """`seen_items`, the counts by kind of item and role (None: not known), and `warnings`, for a result."""
        if self.memory is None:
            return {"seen_items": None, "warnings": []}
        left_out = self.pairs_seen if self.unseen else 0
        told = {"by_caption": self.by_caption, "left_out": left_out}
        named = {self._named(side): self.counts[side] for side in SIDES if side in self.counts}
        return {"seen_items": {**named, **told}, "warnings": self._warnings()}

    def _named(self, side: str) -> str:
        modality = self.modalities[SIDES.index(side)]
        return NAMES.get(modality, f"{modality} items")

    def _warnings(self) -> list[str]:
        if self.unseen or not self.pairs_seen:
            return []
        kind, found = self._named(SIDES[0]), self.counts[SIDES[0]]
        seen = found["train"] + found["val"]
        if seen:
            which = f"{seen:,} of {found['n']:,} {kind} {_in_words(found)} this model"
        else:
            which = f"none of the {kind}, but captions of {self.by_caption:,} of them, trained or validated this model"
        return [f"{which}. These numbers flatter it; --unseen evaluates the rest."]


def _in_words(found: dict[str, int]) -> str:
    """`trained` or `validated`, or how many of each."""
    if found["train"] and found["val"]:
        return f"trained ({found['train']:,}) or validated ({found['val']:,})"
    return "validated" if found["val"] else "trained"


def told(results: Sequence[Result]) -> list[str]:
    """A line for each of the data sets of `results`: how much of them the model has seen."""
    return list(dict.fromkeys(_line(one) for one in results if "seen_items" in one))


def _line(found: Result) -> str:
    seen = found["seen_items"]
    if seen is None:
        return f"{found['model']}: does not remember what trained it, so what is new to it is not known."
    kinds = {kind: one for kind, one in seen.items() if isinstance(one, dict)}
    counted = [
        f"{one['n']:,} {kind}" + (f" ({one['train']:,} trained it, {one['val']:,} validated it)" if _any(one) else "")
        for kind, one in kinds.items()
    ]
    rest = f"; left out: {seen['left_out']:,}" if seen["left_out"] else ""
    new = "" if any(map(_any, kinds.values())) else ", all new to the model"
    return f"{found['dataset']}: {', '.join(counted)}{new}{rest}."


def _any(one: dict[str, int]) -> bool:
    return bool(one["train"] or one["val"])
