"""Retrieval in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isthmus.data.columns import Columns
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.errors import UsageError
from isthmus.evaluation.asking import fuses, opened_fusion
from isthmus.evaluation.inputs import Data, Given, embed_for_evaluation, named, opened
from isthmus.evaluation.protocols import find_protocol
from isthmus.evaluation.reranking import reranked_retrieval
from isthmus.evaluation.tasks import task
from isthmus.metrics.results import Result, result
from isthmus.metrics.retrieval import retrieval as rank
from isthmus.store.opening import holds_features, read_first

COLUMNS = (
    *("image_retrieval_recall@1", "text_retrieval_recall@1"),
    *("mean_recall@1", "mean_recall@5", "mean_recall@10"),
)


@task(primary="mean_recall@1", columns=COLUMNS)
def retrieval(
    model: Given,
    data: Data,
    *,
    split: str | None = None,
    only: str | Path | Sequence[str] | None = None,
    columns: str | Columns | None = None,
    images: str | Path | None = None,
    pages: str | int | None = None,
    range: str | Sequence[float] | None = None,
    rerank: int | None = None,
    protocol: str | None = None,
    unseen: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Result:
    """Retrieval from captions to images and from images to captions, on pairs or a store's cached features.

    Args:
        rerank: of a model that fuses: how many of the nearest are compared word by word (32).
        protocol: treat the captions of pairs as a paper does: sail, freeze-align.
    """
    data = read_first(data, columns=columns, images=images, pages=pages, range=range)
    source, preset = data, find_protocol(protocol)
    if fuses(model):
        fused, name = opened_fusion(model, "re-ranking")
        given = preset.prepared(data if isinstance(data, Pairs) else read_pairs(data)) if preset else data
        how: Any = {"split": split, "only": only, "rerank": rerank, "unseen": unseen, "bootstrap": bootstrap}
        found = reranked_retrieval(fused, given, **how, seed=seed)
        return result(found, dataset=named(source), model=name, task="zeroshot_retrieval")
    if rerank is not None:
        raise UsageError("rerank: is for models that fuse; this one compares pictures and texts at their ends alone.")
    model, name = opened(model, encoders=not holds_features(data))
    if preset is not None:
        if isinstance(data, FeaturePairs) or holds_features(data):
            raise UsageError(
                "protocol: changes captions, but those of a store are encoded already; give the pairs instead."
            )
        data = preset.prepared(data if isinstance(data, Pairs) else read_pairs(data))
    embedded = embed_for_evaluation(model, data, split=split, only=only, seed=seed, unseen=unseen)
    found = rank(
        embedded.image, embedded.text, embedded.image_of, groups=embedded.groups, bootstrap=bootstrap, seed=seed
    )
    found |= embedded.seen | {"skipped": embedded.skipped}
    found |= {"notes": [*embedded.notes, *(preset.remarks() if preset else [])]}
    return result(found, dataset=named(source), model=name, task="zeroshot_retrieval")
