"""Concepts as vectors: from names, from labelled images, from clusters, from frequent phrases of the captions."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from isthmus.curation.encoding import Encode, Encoding
from isthmus.curation.phrases import frequent_phrases, words_of
from isthmus.curation.pools import Pool, PoolSide, encoded, reading_notes
from isthmus.curation.scan import ConceptScorer, normalised, scan, spread
from isthmus.data.matrix import Matrix, rows
from isthmus.data.pairs import read_pairs
from isthmus.data.text import read_entries
from isthmus.errors import InputError, UsageError
from isthmus.metrics.zeroshot import class_embeddings, load_templates
from isthmus.store.opening import holds_features
from isthmus.store.reader import open_store

SHOTS = 128  # freeze-align's
SAMPLE = 100_000  # rows of a pool on which clusters and phrases are found
KINDS = ("auto", "captions")


@dataclass
class Prototypes:
    """Concepts and the vectors that represent them.

    names [C]. sides: by side, [C, width], rows of length 1. source: how they were made, for the manifest.
    notes: remarks for the user, such as classes with fewer images than `shots`. named: the sides that are made from the
    names. from_pool: whether the image side is made from the pool's own images (`image_side`).
    """

    names: list[str]
    sides: dict[PoolSide, np.ndarray]
    source: str
    notes: list[str] = field(default_factory=list)
    named: tuple[PoolSide, ...] = ()
    from_pool: bool = False

    def __len__(self) -> int:
        return len(self.names)


def make_prototypes(
    concepts: str | Path | Sequence[str] | Prototypes,
    pool: Pool,
    encoding: Encoding,
    *,
    templates: str | Path | Sequence[str] = "default",
    shots: int = SHOTS,
    seed: int = 0,
) -> Prototypes:
    """Prototypes in the space of the pool's features.

    Args:
        concepts: a text file with a name a line, or a list of names; labelled images (a table with a `label`
            column, a folder of class folders, a store with labels); `"auto:N"`, N clusters of the pool;
            `"captions:N"`, the N most frequent phrases of its captions; or `Prototypes`.
        templates: prompts for names, as for zero-shot classification.
        shots: images per class at most.
        seed: of the clustering and of the choice of images.

    Raises:
        InputError: no concepts, an empty name, names without a text encoder, zero labels.
    """
    if isinstance(concepts, Prototypes):
        return concepts
    kind, colon, number = str(concepts).partition(":") if isinstance(concepts, str) else ("", "", "")
    if colon and kind in KINDS and not Path(str(concepts)).exists():
        if not number.isdigit() or int(number) < 1:
            raise UsageError(f"{concepts}: write a number of concepts, as in {kind}:200.")
        if kind == "auto":
            return from_clusters(pool, int(number), seed=seed)
        names = frequent_phrases(sampled_captions(pool), int(number)) if encoding.of_texts else []
        return from_names(names, encoding, templates, source=str(concepts))
    if not isinstance(concepts, str | Path):
        return from_names(list(concepts), encoding, templates, source="names")
    path = Path(concepts)
    if path.suffix == ".txt":
        return from_names(read_entries(path), encoding, templates, source=str(path))
    return from_labelled(path, encoding, templates, shots=shots, seed=seed)


def from_names(
    names: Sequence[str], encoding: Encoding, templates: str | Path | Sequence[str] = "default", *, source: str
) -> Prototypes:
    """A text encoder's vectors of `names` through `templates`: for both sides in a joint space, otherwise for the
    caption side. A repeated name, as in ImageNet's list, is one concept.
    """
    names = list(dict.fromkeys(str(name).strip() for name in names))
    if not encoding.of_texts:
        raise InputError(
            f"Concepts given as names need texts: these are pairs of {' and '.join(encoding.modalities)}. Give "
            "labelled items, or auto:N for clusters of the pool."
        )
    if encoding.text is None:
        raise InputError("Concepts given as names need the text encoder of the pool's features (--encoder URI).")
    matrix = _text_prototypes(names, encoding.text, templates)
    sides: dict[PoolSide, np.ndarray] = {"caption": matrix}
    if encoding.joint:
        sides["image"] = matrix
    return Prototypes(names, sides, source, named=tuple(sides))


def from_labelled(
    path: Path,
    encoding: Encoding,
    templates: str | Path | Sequence[str] = "default",
    *,
    shots: int = SHOTS,
    seed: int = 0,
) -> Prototypes:
    """The mean of up to `shots` L2-normalised image features per class, as freeze-align makes them.

    If a class has more, a hash of (seed, id) chooses the images. In a joint space the means represent captions too;
    otherwise the class names do, if there is a text encoder.
    """
    labels, ids, features, notes = _labelled(path, encoding)
    classes = sorted({label for label in labels if label})
    if not classes:
        raise InputError(f"{path}: no image has a label (column `label`, or one folder per class).")
    order = sorted(range(len(ids)), key=lambda row: hashlib.blake2b(f"{seed}\n{ids[row]}".encode()).digest())
    members: dict[str, list[int]] = {name: [] for name in classes}
    for row in order:
        label = labels[row]
        if label and len(members[label]) < shots:
            members[label].append(row)
    means = [_mean_direction(rows(features, np.array(members[name]))) for name in classes]
    kept = {name: mean for name, mean in zip(classes, means, strict=True) if mean is not None}
    notes += [f"{name}: none of its images can be used." for name in classes if name not in kept]
    few = [name for name in classes if len(members[name]) < shots]
    if few:
        notes.append(f"{len(few)} of {len(classes)} classes have fewer than {shots} images.")
    if not kept:
        raise InputError(f"{path}: none of its labelled images can be used.")
    names, image = list(kept), np.stack(list(kept.values()))
    sides: dict[PoolSide, np.ndarray] = {"image": image}
    if encoding.joint:
        sides["caption"] = image
    elif encoding.text is not None and encoding.of_texts:
        sides["caption"] = _text_prototypes(names, encoding.text, templates)
    named: tuple[PoolSide, ...] = ("caption",) if "caption" in sides and not encoding.joint else ()
    return Prototypes(names, sides, f"{path}, up to {shots} images a class", notes, named)


def from_clusters(pool: Pool, count: int, *, seed: int = 0, sample: int = SAMPLE) -> Prototypes:
    """Centres of `count` spherical k-means clusters of the captions' features (the images', without captions).

    They are found on up to `sample` rows. The other side's prototypes are the means of the members' features. A cluster
    is named after the words most typical of its captions.
    """
    side: PoolSide = "caption" if "caption" in pool.widths else "image"
    index, unit = _sampled_rows(pool, side, sample)
    if len(index) < count:
        raise InputError(f"auto:{count}: the pool has only {len(index):,} rows with {side} features.")
    member = _spherical_kmeans(unit, count, seed)
    found = np.unique(member)
    sides: dict[PoolSide, np.ndarray] = {side: _group_means(unit, member, found)}
    for other in pool.widths:
        if other != side:
            features = np.concatenate([pool.features(other, row, row + 1) for row in index.tolist()])
            sides[other] = _group_means(normalised(features).numpy(), member, found)
    notes = [f"{count - len(found)} of {count} clusters are empty."] if len(found) < count else []
    return Prototypes(_cluster_names(pool.captions(index), member, found), sides, f"auto:{count}", notes)


def image_side(
    pool: Pool,
    prototypes: Prototypes,
    *,
    shots: int = 32,
    excluded: np.ndarray | None = None,
    rows: int | None = None,
) -> Prototypes:
    """`prototypes` with an image side from the pool itself: per concept the mean of the images whose captions
    match it best, of the first `rows`. With it, two encoders of different spaces can judge a pair from both sides.
    """
    top = scan(pool, ConceptScorer({"caption": prototypes.sides["caption"]}), shots, excluded=excluded, stop=rows)
    means = []
    for concept, name in enumerate(prototypes.names):
        index = top.best(concept)[1]
        found = [pool.features("image", row, row + 1) for row in index.tolist()]
        mean = _mean_direction(np.concatenate(found)) if found else None
        if mean is None:
            raise InputError(f"concept {name!r}: none of the pairs that match it best has an image feature.")
        means.append(mean)
    note = f"image side: means of the {shots} images of this pool whose captions match best"
    sides: dict[PoolSide, np.ndarray] = prototypes.sides | {"image": np.stack(means)}
    return replace(prototypes, sides=sides, notes=[*prototypes.notes, note], named=("caption",), from_pool=True)


def _text_prototypes(names: Sequence[str], encode: Encode, templates: Any) -> np.ndarray:
    prompts = load_templates(templates) if isinstance(templates, str | Path) else list(templates)
    return class_embeddings(encode, names, prompts)


def _labelled(path: Path, encoding: Encoding) -> tuple[list[str | None], list[str], Matrix, list[str]]:
    """Labels, ids and image features of labelled images, and remarks on them.

    Images of a test split lose their label: they are for measuring.
    """
    if holds_features(path):
        store, modality = open_store(path), encoding.modalities[0]
        features = encoding.projected("image", store.features(modality, encoding.named().get("image")))
        items = store.table(modality)
        return _training_labels(items), items["id"].to_pylist(), features, []
    if encoding.image is None:
        raise InputError(f"{path}: labelled images need the image encoder of the pool's features (--encoder URI).")
    pairs = read_pairs(path, captions="optional").side(encoding.modalities[0])
    ids, labels = pairs.images["id"].to_pylist(), _training_labels(pairs.images)
    return labels, ids, encoded(pairs, encoding.image), reading_notes(pairs)


def _training_labels(images: pa.Table) -> list[str | None]:
    both = zip(images["label"].to_pylist(), images["split"].to_pylist(), strict=True)
    return [None if split == "test" else label for label, split in both]


def _mean_direction(features: np.ndarray) -> np.ndarray | None:
    """The mean of the normalised rows, normalised; None where no row has a direction."""
    unit = normalised(features)
    unit = unit[~unit.isnan().any(dim=1)]
    mean = normalised(unit.mean(dim=0, keepdim=True).numpy()) if len(unit) else None
    return None if mean is None or bool(mean.isnan().any()) else mean[0].numpy()


def _group_means(unit: np.ndarray, member: np.ndarray, found: np.ndarray) -> np.ndarray:
    means = [_mean_direction(unit[member == group]) for group in found.tolist()]
    for group, mean in enumerate(means):
        if mean is None:
            raise InputError(f"cluster {group}: its features cancel out or are missing; choose another number.")
    return np.stack(means)  # type: ignore[arg-type]


def _spherical_kmeans(unit: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Cluster numbers int64 [n]: k-means on unit vectors, where the nearest centre is that of greatest cosine."""
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(count, random_state=seed, n_init=3, batch_size=4096).fit(unit)
    centres = means.cluster_centers_ / np.maximum(np.linalg.norm(means.cluster_centers_, axis=1, keepdims=True), 1e-12)
    return (unit @ centres.T.astype(np.float32)).argmax(axis=1)


def _sampled_rows(pool: Pool, side: PoolSide, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers and unit features of up to `wanted` evenly spaced rows that have any."""
    index, parts = [], []
    for start, stop in spread(len(pool), 4096, wanted):
        unit = normalised(pool.features(side, start, stop)).numpy()
        usable = ~np.isnan(unit[:, 0])
        index.append(np.arange(start, stop)[usable])
        parts.append(unit[usable])
    return np.concatenate(index), np.concatenate(parts)


def sampled_captions(pool: Pool) -> list[str]:
    index = np.concatenate([np.arange(start, stop) for start, stop in spread(len(pool), 4096, 2 * SAMPLE)])
    return [caption for caption in pool.captions(index) if caption]


def _cluster_names(captions: Sequence[str | None], member: np.ndarray, found: np.ndarray) -> list[str]:
    """A number and two words for each cluster: those whose share in it exceeds their share in all the most."""
    words = [set(words_of(caption or "")) for caption in captions]
    overall = Counter(word for one in words for word in one)
    names = []
    for group in found.tolist():
        rows_here = np.flatnonzero(member == group).tolist()
        inside = Counter(word for row in rows_here for word in words[row])
        lift = {word: n / len(rows_here) - overall[word] / len(words) for word, n in inside.items()}
        best = sorted(lift, key=lambda word: (-lift[word], word))[:2]
        names.append(f"{group}: {' '.join(best)}" if best else str(group))
    return names
