"""The encoders to compare, and their features: embedded from pairs, read from a store, or given as arrays."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.encoder_record import EncoderRecord
from isthmus.data.feature_pairs import SIDES, FeaturePairs
from isthmus.data.matrix import Chosen, Matrix, as_matrix
from isthmus.data.pairs import Pairs
from isthmus.data.splits import normalise_split
from isthmus.embedding import embed
from isthmus.embedding.networks import by_network
from isthmus.encoders import Encoder, load_encoders
from isthmus.encoders.modality import Modality, spec_of
from isthmus.encoders.uri import EncoderURI, gives_tokens
from isthmus.errors import InputError, IsthmusError, UsageError
from isthmus.selection.cost import Cost, count_cost
from isthmus.store import Store, open_store
from isthmus.store.joining import choose_ids, join, read_ids
from isthmus.store.opening import open_pairs, open_source

BATCH = 8  # images per forward pass: on a CPU, larger batches exceed its caches
COST_FILES, COST_TEXTS = 16, 128
Log = Callable[[str], None]


@dataclass
class Candidate:
    """One encoder with one layer and pooling.

    modality: the side of pairs that it is compared on, `SIDES`, whatever its items are.
    name: its URI, or the name of an array. matrix: features of all images [N, D], or of all captions [M, D].
    record: as a store keeps it. cost: None if only its features are known.
    """

    name: str
    modality: Modality
    matrix: Matrix
    parts: list[int]
    record: EncoderRecord
    cost: Cost = field(default_factory=Cost)

    @property
    def network(self) -> str:
        """The same for all layers and poolings of one network."""
        return self.record.get("backbone_key") or self.name


@dataclass
class Candidates:
    """What `select` compares.

    frame: images and captions, which belong together, and splits. In place of features it has row numbers [N, 1], [M,
    1], with which `pairs_of` looks up the features of any encoder. failed: encoders that could not be used, and why.
    """

    frame: FeaturePairs
    encoders: dict[Modality, list[Candidate]]
    failed: list[dict[str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    store: Path | None = None

    def fail(self, candidate: Candidate, error: Exception) -> None:
        """Leave this encoder out and continue."""
        self.encoders[candidate.modality].remove(candidate)
        self.failed.append(_failure(candidate.name, candidate.modality, error))


def check_any(
    encoders: Mapping[str, Sequence[Any]],
    failed: Sequence[Mapping[str, str]],
    modalities: tuple[Modality, Modality] = SIDES,
) -> None:
    """Raise `InputError`, with the reasons, if a modality has no encoder left."""
    for side, modality in zip(SIDES, modalities, strict=True):
        if not encoders[side]:
            why = "; ".join(f"{one['encoder']}: {one['reason']}" for one in failed if one["modality"] == side)
            raise InputError(f"No {modality} encoder can be used. {why or 'None was named.'}")


def pairs_of(part: FeaturePairs, image: Candidate, text: Candidate) -> FeaturePairs:
    """A part of the frame with the features of two encoders."""
    return replace(
        part,
        image=Chosen(image.matrix, part.image[:, 0]),
        text=Chosen(text.matrix, part.text[:, 0]),
        image_parts=image.parts,
        text_parts=text.parts,
        image_encoder=[image.record],
        text_encoder=[text.record],
    )


# --- arrays -----------------------------------------------------------------------------------------------------


def from_arrays(images: Mapping[str, Any], texts: Mapping[str, Any], **fields: Any) -> Candidates:
    """Features by name; `fields` as in `FeaturePairs.from_arrays` (image_of, groups, labels, splits, …)."""
    for modality, given in zip(SIDES, (images, texts), strict=True):
        if not isinstance(given, Mapping) or not given:
            raise UsageError(f"Without pairs or a store, give {modality} features as a dictionary: name → array.")
    first = next(iter(images.values())), next(iter(texts.values()))
    frame = FeaturePairs.from_arrays(*first, **dict(fields))
    for image, text in [(image, first[1]) for image in images.values()] + [(first[0], text) for text in texts.values()]:
        FeaturePairs.from_arrays(image, text, **dict(fields))  # checks shapes and values, and names the row
    listed = {
        modality: [_given(name, modality, matrix) for name, matrix in given.items()]
        for modality, given in zip(SIDES, (images, texts), strict=True)
    }
    return Candidates(_numbered(frame), listed)


def _given(name: str, modality: Modality, matrix: Any) -> Candidate:
    matrix, width = as_matrix(matrix), matrix.shape[1]
    return Candidate(name, modality, matrix, [width], {"uri": name, "width": width})


# --- a store ----------------------------------------------------------------------------------------------------


def from_store(
    source: Any,
    image: Sequence[str] = (),
    text: Sequence[str] = (),
    *,
    only: Any = None,
    costs: Mapping[str, Cost] | None = None,
    modalities: tuple[Modality, Modality] = SIDES,
) -> Candidates:
    """The named encoders of a store (URI or fingerprint; `layer=*` names every layer), or all of them.

    source: a store, or its folder. modalities: of the two sides. costs: by fingerprint, where the encoders are at hand.
    """
    store = open_source(source)
    if not isinstance(store, Store):
        raise UsageError("Arrays to select among come by name, {name: [n, width]}, for images and for texts.")
    failed: list[dict[str, str]] = []
    listed: dict[str, list[Candidate]] = {side: [] for side in SIDES}
    for side, modality, wanted in zip(SIDES, modalities, (image, text), strict=True):
        records = store.pooled(modality)
        uris = Counter(record["uri"] for record in records)
        for fingerprint in _named(wanted, records):
            try:
                features = store.features(modality, fingerprint, partial=True)
                _check_pooled(features.record.get("pool"))
                cost = (costs or {}).get(fingerprint) or Cost(licence=features.record.get("licence"))
                uri = features.record["uri"]
                name = uri if uris[uri] == 1 else features.record["fingerprint"][:12]  # the store accepts both as names
                listed[side].append(Candidate(name, side, features, features.parts, features.record, cost))
            except InputError as error:
                failed.append(_failure(fingerprint, side, error))
    check_any(listed, failed, modalities)
    first: Any = [listed[side][0].matrix for side in SIDES]
    frame = _numbered(join(store.path, store.tables(modalities), *first))
    return Candidates(frame if only is None else choose_ids(frame, only), listed, failed, store=store.path)


def _check_pooled(pool: str | None) -> None:
    """Scores compare one vector per item; tokens side by side would also take matrices of their width squared."""
    if gives_tokens(pool):
        raise InputError(f"pool={pool} gives tokens; encoders are compared by pooled features, such as cls+mean.")


def _named(wanted: Sequence[str], records: list[EncoderRecord]) -> list[str]:
    """Fingerprints of the records meant, in order; the store refuses unknown names."""
    if not wanted:
        return [record["fingerprint"] for record in records]
    return list(dict.fromkeys(found for name in wanted for found in _expanded(name, records)))


def _expanded(name: str, records: list[EncoderRecord]) -> list[str]:
    if ":" not in name or name.startswith("callable:") or not EncoderURI.parse(name).several:
        return [next((record["fingerprint"] for record in records if record["uri"] == name), name)]
    uri = EncoderURI.parse(name)
    layers = [r for r in records if r["layer"] is not None and uri.pool in (None, r["pool"])]
    layers = [r for r in layers if EncoderURI.parse(r["uri"]).backbone() == uri.backbone()]
    layers = [r for r in layers if uri.layer == "*" or r["layer"] in uri.layer]  # type: ignore[operator]
    return [record["fingerprint"] for record in sorted(layers, key=lambda r: r["layer"] or 0)] or [name]


# --- pairs ------------------------------------------------------------------------------------------------------


def from_pairs(
    pairs: Pairs | str | Path,
    image: Sequence[str | Encoder],
    text: Sequence[str | Encoder],
    *,
    store: Path,
    only: Any = None,
    limit: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
    log: Log = lambda _line: None,
    modalities: tuple[Modality, Modality] = SIDES,
    **options: Any,
) -> Candidates:
    """Embed pairs by every encoder into `store`, running each network once, and open it; test pairs are not used.

    image, text: the encoders of the two sides, of `modalities`.
    An encoder that cannot be loaded, or fails on the way, is listed in `failed`; the others go on.
    """
    pairs = open_pairs(pairs)
    pairs = pairs.subset(wanted_ids(pairs, only, limit, seed))
    failed: list[dict[str, str]] = []
    encoders = load_sides((image, text), modalities, failed, **options)
    check_any(encoders, failed, modalities)
    skipped = _embed_all(pairs, encoders, store, failed, progress, log)
    check_any(encoders, failed, modalities)
    opened = open_store(store)
    prints = [[view.fingerprint for view in encoders[side]] for side in SIDES]
    costs = _costs(pairs, encoders, opened, log)
    found = from_store(opened, *prints, only=pairs.samples, costs=costs, modalities=modalities)
    found.failed, found.skipped = failed + found.failed, skipped
    return found


def wanted_ids(pairs: Pairs, only: Any, limit: int | None, seed: int) -> list[str]:
    """Ids of all but the test pairs; at most `limit`, the first in the order of hash(seed, id)."""
    splits, ids = pairs.images["split"].to_pylist(), pairs.images["id"].to_pylist()
    chosen = None if only is None else set(read_ids(only))
    kept = [
        id
        for id, split in zip(ids, splits, strict=True)
        if (chosen is None or id in chosen) and not (split and normalise_split(split) == "test")
    ]
    if not kept:
        raise InputError(f"{pairs.path or 'The pairs'}: no pair is left to compare encoders (test pairs are not used).")
    return first_ids(kept, limit, seed)


def first_ids(ids: Sequence[str], limit: int | None, seed: int) -> list[str]:
    """The first `limit` ids in the order of hash(seed, id); all for None."""
    if limit is not None and limit < 1:
        raise UsageError(f"limit = {limit}: at least one pair.")

    def order(id: str) -> bytes:
        return hashlib.blake2b(f"{seed}:{id}".encode(), digest_size=8).digest()

    return list(ids) if limit is None else sorted(ids, key=order)[:limit]


def load_sides(
    given: Sequence[Sequence[str | Encoder]],
    modalities: tuple[Modality, Modality],
    failed: list[dict[str, str]],
    **options: Any,
) -> dict[str, list[Encoder]]:
    """The encoders of both sides; those that cannot be loaded are added to `failed`."""
    both = zip(SIDES, given, modalities, strict=True)
    return {side: loaded(listed, side, failed, modality=modality, **options) for side, listed, modality in both}


def loaded(given: Sequence[str | Encoder], side: str, failed: list[dict[str, str]], **options: Any) -> list[Encoder]:
    """Load encoders given by URI, network by network; others pass through. Those that fail are added to `failed`."""
    networks: dict[Any, list[str | Encoder]] = {}
    for one in given:
        key = id(one) if isinstance(one, Encoder) else EncoderURI.parse(one).backbone()
        networks.setdefault(key, []).append(one)
    views: dict[str, Encoder] = {}
    for listed in networks.values():
        try:
            found = load_encoders(listed, **options)
        except Exception as error:  # a model's own code may raise anything; the others continue
            failed += [_failure(str(one), side, error) for one in listed]
            continue
        for view in found:
            try:
                _check_pooled(view.pool)
                views[view.fingerprint] = view
            except InputError as error:
                failed.append(_failure(str(view.uri), side, error))
    return list(views.values())


def _embed_all(
    pairs: Pairs,
    encoders: dict[Modality, list[Encoder]],
    store: Path,
    failed: list[dict[str, str]],
    progress: bool | None,
    log: Log,
) -> list[tuple[str, str]]:
    """Embed by all encoders in one run; if that fails, network by network, without those that fail.

    Returns what `embed` skipped.
    """
    networks = {side: by_network(encoders[side]) for side in SIDES}

    def attempt(*sides: list[Encoder]) -> Exception | list[tuple[str, str]]:
        named = [view for views in sides for view in views]
        try:
            return embed(pairs, encoders=named, out=store, batch_size=BATCH, progress=progress).skipped
        except Exception as error:  # a model's own code may raise anything; the others continue
            return error

    found = attempt(*encoders.values())
    if not isinstance(found, Exception):
        return found
    log(f"embedding failed ({found}); one network at a time now")
    tried = ((pair, attempt(*pair)) for pair in product(*networks.values()))
    partner = next((pair for pair, result in tried if not isinstance(result, Exception)), None)
    if partner is None:
        raise found
    for side, other in zip(SIDES, reversed(partner), strict=True):
        for views in networks[side]:
            result = attempt(views, other)
            if isinstance(result, Exception):
                failed += [_failure(str(view.uri), side, result) for view in views]
                encoders[side] = [view for view in encoders[side] if view not in views]
            else:
                found = result
    assert not isinstance(found, Exception)
    return found


def _costs(pairs: Pairs, encoders: Mapping[Modality, Sequence[Encoder]], store: Store, log: Log) -> dict[str, Cost]:
    """The cost of every view by fingerprint; each network is run once."""
    costs: dict[str, Cost] = {}
    for side in SIDES:
        items = _some_items(pairs, encoders[side][0].modality, store)
        for views in by_network(encoders[side]):
            log(f"count operations of {views[0].uri}")
            cost = count_cost(views[0], items)
            costs |= {view.fingerprint: cost for view in views}
    return costs


def _some_items(pairs: Pairs, modality: Modality, store: Store) -> list[Any]:
    """A few items that the store holds, so that they can be read; more of texts, which are quick."""
    if spec_of(modality).decode is None:
        return pairs.captions["caption"][:COST_TEXTS].to_pylist()
    side, readable = pairs.side(modality), set(store.table(modality).column(0).to_pylist())
    rows = [row for row, id in enumerate(side.images["id"].to_pylist()) if id in readable]
    return [side.decode(row) for row in rows[:COST_FILES]]


# --- shared -----------------------------------------------------------------------------------------------------


def _numbered(pairs: FeaturePairs) -> FeaturePairs:
    """The same pairs with row numbers in place of features: [N, 1] and [M, 1]."""
    n, m = pairs.image.shape[0], pairs.text.shape[0]
    return replace(pairs, image=np.arange(n)[:, None], text=np.arange(m)[:, None], image_parts=[1], text_parts=[1])


def _failure(name: str, modality: str, error: Exception) -> dict[str, str]:
    reason = str(error) if isinstance(error, IsthmusError) else f"{type(error).__name__}: {error}"
    return {"encoder": name, "modality": modality, "reason": reason}
