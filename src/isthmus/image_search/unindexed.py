"""Searching pictures that are no index: encoded now, all of them, or a store's features."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.feature_pairs import SIDES
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.errors import UsageError
from isthmus.evaluation.inputs import embed_items
from isthmus.image_search.query import AskedQuery
from isthmus.image_search.result import Hit, SearchResult
from isthmus.metrics.absence import null_of
from isthmus.metrics.nearest import top_k
from isthmus.modality import Modality, spec_of
from isthmus.models.dual_encoder import DualEncoder
from isthmus.store import Store, open_store
from isthmus.store.opening import holds_features, read_first


def check_images(images: Any, reading: dict[str, Any], out: str | Path | None, filtered: str | None) -> Any:
    """What is searched, read where it is not yet. Raises `UsageError` for options that it does not have."""
    found = read_first(images.path if isinstance(images, Store) else images, **reading)
    if out is not None and holds_features(found):
        raise UsageError(f"{out}: {found} is a store, which holds no pictures; name their folder.")
    if filtered:
        raise UsageError("Only an index is filtered by label or folder: make one with `isthmus index`.")
    return found


def search_pairs(model: DualEncoder, images: Any, asked: AskedQuery, k: int, out: str | Path | None) -> SearchResult:
    """In a store's features, or in pictures that are all encoded now."""
    wanted, gallery = asked.embed(model), _gallery(model)
    if out is not None and gallery != SIDES[0]:
        raise UsageError(f"{out}: there are no pictures of {gallery} for a contact sheet.")
    pairs = None
    skipped: list[tuple[str, str]] = []
    notes: list[str] = []
    if isinstance(images, str | Path) and holds_features(images):
        ids, embeddings, captions = _from_store(model, images, gallery)
    else:
        read = images if isinstance(images, Pairs) else read_pairs(images, captions="optional")
        pairs = read.side(gallery)
        found_items = embed_items(model, pairs)
        every = pairs.images["id"].to_pylist()
        ids, embeddings = [every[row] for row in found_items.kept], found_items.emb
        skipped, notes = [*read.skipped, *found_items.skipped], read.notes
        captions = read.captions["caption"].to_pylist()
    scores, rows = (found[0].tolist() for found in top_k(wanted, embeddings, k))
    null = null_of(partial(model.encode, SIDES[1]), embeddings, captions) if asked.text else None
    sure = [None] * len(scores) if null is None else null.probability(scores).tolist()
    hits = [Hit(score=s, id=ids[row], probability=p) for s, row, p in zip(scores, rows, sure, strict=True)]
    return SearchResult(str(asked), hits, skipped, notes, pairs)


def _gallery(model: DualEncoder) -> Modality:
    """What is searched: items of the model's first modality that is no text."""
    return next(modality for modality in model.modalities if spec_of(modality).decode is not None)


def _from_store(
    model: DualEncoder, path: str | Path, modality: Modality
) -> tuple[list[str], np.ndarray, list[str | None]]:
    """The ids, embeddings [n, d] of the cached features, and the captions."""
    store, side = open_store(path), model.side_of(modality)
    features = store.features(modality, [record["fingerprint"] for record in model.records[side]])
    captions = store.captions["caption"].to_pylist()
    return store.table(modality).column(0).to_pylist(), model.project(side, features), captions
