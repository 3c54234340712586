"""Retrieval by a model that fuses: the nearest by contrast, put in order by matching, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from isthmus.data.feature_pairs import SIDES, FeaturePairs
from isthmus.data.groups import whole_groups
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.errors import InputError, UsageError
from isthmus.evaluation.asking import encoded_pictures
from isthmus.evaluation.exposure import Exposure
from isthmus.evaluation.inputs import named
from isthmus.metrics.retrieval import Ranks, ranks, score
from isthmus.models.fusion_model import FusionModel
from isthmus.store.opening import holds_features

TOP = 32  # candidates that are compared word by word
TEXTS = 256  # texts, and pairs, at a time
DEFINITION = (
    " The {top} candidates of the greatest cosine between the unimodal ends are then put in order by the probability "
    "of a match; those beyond keep their order, behind them. contrastive_… is the order before that."
)


def reranked_retrieval(
    model: FusionModel,
    data: Any,
    *,
    split: str | None,
    only: Any,
    rerank: int | None,
    unseen: bool,
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """What `retrieval` gives, of pairs. Raises `UsageError` for a model that cannot, `InputError` for other data."""
    for objective in ("contrast", "matching"):
        if getattr(model.network, objective) is None:
            raise UsageError(
                f"Retrieval needs a model trained to match and to contrast: objectives.{objective} was 0 in its recipe."
            )
    top = TOP if rerank is None else rerank
    if top < 1:
        raise UsageError(f"rerank={top}: compare one candidate or more.")
    if isinstance(data, FeaturePairs) or holds_features(data):
        raise InputError(f"{named(data)}: re-ranking reads the pictures: give the pairs that the store was made from.")
    pairs = data if isinstance(data, Pairs) else read_pairs(data)
    pairs = pairs if split is None else pairs.filter(split=split)
    if only is not None:
        pairs = pairs.subset([id for id in pairs.images["id"].to_pylist() if id in set(only)])
    exposure = Exposure(model, named(data), unseen)
    found = Reranking(model, pairs, exposure)
    before = ranks(found.ends[SIDES[0]], found.ends[SIDES[1]], found.image_of)
    after = found.reordered(before, top)
    told: Any = {"bootstrap": bootstrap, "seed": seed}
    scored, first = score(after, found.groups, **told), score(before, found.groups, **told)
    for name, values in (("metrics", scored["metrics"]), ("ci95", scored["ci95"])):
        values |= {f"contrastive_{key}": one for key, one in first[name].items() if key.startswith("mean_")}
    scored["definition"] += DEFINITION.format(top=top)
    return scored | exposure.report() | {"skipped": found.skipped, "notes": list(pairs.notes)}


class Reranking:
    """Pictures and captions by their unimodal ends; states are computed again for those that are compared.

    ends: float32 [n, d] and [m, d]. image_of: int64 [m]. groups: int64 [n]. Raises `InputError` where no picture with
    a caption can be read.
    """

    def __init__(self, model: FusionModel, pairs: Pairs, exposure: Exposure) -> None:
        self.model, self.skipped = model, list(pairs.skipped)
        kept: list[str] = []
        ends = []
        counterparts = exposure.counterparts(pairs, SIDES[1])
        for ids, states in encoded_pictures(model, pairs, exposure, self.skipped, counterparts):
            kept += ids
            ends.append(model.end(SIDES[0], states))
        exposure.check(len(kept))
        row = {id: place for place, id in enumerate(kept)}
        captions = [one for one in pairs.captions.select(["id", "caption"]).to_pylist() if one["id"] in row]
        if not captions:
            raise InputError(f"{pairs.path}: no picture with a caption can be read; the first: {self.skipped[:1]}.")
        self.pairs = pairs.subset(kept)
        self.texts = [one["caption"] for one in captions]
        self.image_of = np.array([row[one["id"]] for one in captions], np.int64)
        text = [model.encode_text(self.texts[at : at + TEXTS]) for at in range(0, len(self.texts), TEXTS)]
        self.ends = {SIDES[0]: np.concatenate(ends), SIDES[1]: np.concatenate(text)}
        self.groups = whole_groups(self.pairs.images["group"].to_pylist(), np.arange(len(kept)))

    def reordered(self, before: Ranks, top: int) -> Ranks:
        """The ranks after the `top` nearest of every query have been put in order by matching."""
        images, texts = self.ends[SIDES[0]], self.ends[SIDES[1]]
        of_text, of_image = nearest(texts, images, top), nearest(images, texts, top)
        n, m = len(images), len(texts)
        codes = np.concatenate([of_text * m + np.arange(m)[:, None], np.arange(n)[:, None] * m + of_image], axis=None)
        codes = np.unique(codes)
        chance = np.concatenate(list(self.matched(codes // m, codes % m)))

        def of(image: np.ndarray, text: np.ndarray) -> np.ndarray:
            return chance[np.searchsorted(codes, image * m + text)]

        text, own = np.arange(m), self.image_of
        by_text = _standing(of_text, own, of(of_text, text[:, None]), before.image)
        by_image = _standing(of_image[own], text, of(own[:, None], of_image[own]), before.text)
        return Ranks(by_text, by_image, before.image_of, before.images)

    def matched(self, images: np.ndarray, texts: np.ndarray) -> Iterator[np.ndarray]:
        """Probabilities of a match of pictures [p], ascending, with texts [p], some at a time."""
        start = 0
        for ids, states in encoded_pictures(self.model, self.pairs, Exposure(None, ""), []):
            low, high = np.searchsorted(images, [start, start + len(ids)])
            for at in range(low, high, TEXTS):
                some = slice(at, min(at + TEXTS, high))
                several, text_of = np.unique(texts[some], return_inverse=True)
                side = self.model.side(SIDES[1], [self.texts[k] for k in several.tolist()])
                place, text = (torch.as_tensor(x, device=self.model.device) for x in (images[some] - start, text_of))
                yield self.model.match(states.take(place), side.take(text))
            start += len(ids)


def nearest(queries: np.ndarray, candidates: np.ndarray, top: int) -> np.ndarray:
    """The rows of the `top` candidates of the greatest cosine with each query, int64 [q, top]; unit rows."""
    top = min(top, len(candidates))
    others = torch.from_numpy(candidates)
    some = torch.from_numpy(queries).split(TEXTS)
    return np.concatenate([(part @ others.T).topk(top, dim=1).indices.numpy() for part in some])


def _standing(candidates: np.ndarray, right: np.ndarray, chances: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Ranks float64 [q] of the right candidate among the candidates [q, k] by `chances`; `before` where it is not."""
    own = candidates == right[:, None]
    mine = (chances * own).sum(1, keepdims=True)
    greater, equal = (chances > mine).sum(1), ((chances == mine) & ~own).sum(1)
    return np.where(own.any(1), 1 + greater + equal / 2, before)
