"""Evaluation data from either route, images through the model or a store's cached features, in one form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.groups import group_numbers
from isthmus.data.images import BadImage, decode
from isthmus.data.labels import check_classes, class_names
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.errors import InputError
from isthmus.metrics.zeroshot import Templates, class_embeddings, load_templates, zeroshot
from isthmus.models.dual_encoder import DualEncoder
from isthmus.store import open_store
from isthmus.store.joining import choose_ids, read_ids


@dataclass
class Embedded:
    """Pairs in the joint space.

    image: [n, d] and text: [m, d] float32, L2-normalised. image_of: [m] row of each caption's image.
    groups: [n] near-duplicate groups, the unit of every bootstrap. labels: class names by image, or None.
    """

    image: np.ndarray
    text: np.ndarray
    image_of: np.ndarray
    groups: np.ndarray
    image_ids: list[str]
    captions: list[str] | None = None
    labels: list[str | None] | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)


def embed_for_evaluation(
    model: DualEncoder,
    data: FeaturePairs | Pairs | str | Path,
    *,
    split: str | None = None,
    only: str | Path | Sequence[str] | None = None,
    seed: int = 0,
) -> Embedded:
    """`data` as embeddings of `model`.

    Args:
        data: a store (cached features; its encoders must be the model's), pairs, or arrays as `FeaturePairs`.
        split: only these pairs ("train", "val" or "test"); None takes all.
        only: only these ids, or those in the `id` column of a Parquet file.
        seed: of the validation split, where the data names none.

    Raises:
        InputError: no pairs left, or a store without the model's encoders.
    """
    if isinstance(data, str | Path):
        data = (
            _stored(model, Path(data), split, seed) if holds_features(data) else read_pairs(data, captions="optional")
        )
    if isinstance(data, FeaturePairs):
        return _from_features(model, data if only is None else choose_ids(data, only))
    data = data if split is None else data.filter(split=split)
    return _from_images(model, data if only is None else _chosen(data, only))


def holds_features(data: Any) -> bool:
    """Whether `data` is a store or arrays: features that need no encoder."""
    return isinstance(data, FeaturePairs) or (isinstance(data, str | Path) and (Path(data) / "store.json").is_file())


def zeroshot_labels(
    encode_text: Callable[[list[str]], np.ndarray],
    embedded: Embedded,
    classes: str | Path | Sequence[str] | None,
    templates: str | Path | Templates,
    **options: Any,
) -> dict[str, Any]:
    """`zeroshot` on the labels of `embedded`; images without a label are left out. Raises as `label_classes`."""
    labelled, truth, names, class_emb, prompts = label_classes(encode_text, embedded, classes, templates)
    options["groups"] = embedded.groups[labelled]
    found = zeroshot(embedded.image[labelled], class_emb, truth, classnames=names, **options)
    return found | {"classes": names, "templates": prompts}


def label_classes(
    encode_text: Callable[[list[str]], np.ndarray],
    embedded: Embedded,
    classes: str | Path | Sequence[str] | None,
    templates: str | Path | Templates,
) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray, Templates]:
    """Rows int64 [q] of the images with a label, their classes int64 [q]; the classes' names [C] and embeddings
    float32 [C, d]; the prompts behind these.

    Raises `InputError` where no image has a label, a label is not among `classes`, or these are no names.
    """
    named = [(row, label) for row, label in enumerate(embedded.labels or []) if label]
    if not named:
        raise InputError("Zero-shot classification needs labels: no image of the data has one (column `label`).")
    labelled, labels = np.array([row for row, _ in named], np.int64), [label for _, label in named]
    names = class_names(classes) or sorted(set(labels))
    unknown = sorted(set(labels) - set(names))
    if unknown:
        raise InputError(f"Label {unknown[0]!r} is not among the {len(names)} class names.")
    check_classes(names, "the labels" if classes is None else "the class names", given=classes is not None)
    prompts = load_templates(templates) if isinstance(templates, str | Path) else templates
    number = {name: row for row, name in reversed(list(enumerate(names)))}  # of one name the first, as ties go
    truth = np.array([number[label] for label in labels])
    return labelled, truth, names, class_embeddings(encode_text, names, prompts), prompts


def _stored(model: DualEncoder, path: Path, split: str | None, seed: int) -> FeaturePairs:
    named = {m: [record["fingerprint"] for record in model.records[m]] for m in ("image", "text")}
    return open_store(path).pairs(split=split, image=named["image"], text=named["text"], seed=seed)


def _chosen(pairs: Pairs, only: str | Path | Sequence[str]) -> Pairs:
    """The pairs with these ids, which may name others too."""
    wanted = set(read_ids(only))
    found = [one for one in pairs.images["id"].to_pylist() if one in wanted]
    if not found:
        raise InputError(f"None of the {len(wanted):,} ids chosen is among these {len(pairs):,} images.")
    return pairs.subset(found)


def _from_features(model: DualEncoder, data: FeaturePairs) -> Embedded:
    return Embedded(
        model.project("image", data.image),
        model.project("text", data.text),
        data.image_of,
        data.bootstrap_group,
        list(data.image_ids),
        data.captions,
        data.labels,
    )


def _from_images(model: DualEncoder, pairs: Pairs, batch_size: int = 32) -> Embedded:
    """Images go through the model a batch at a time; an unreadable one is listed, its captions left out."""
    ids = pairs.images["id"].to_pylist()
    kept: list[int] = []
    skipped = list(pairs.skipped)
    embeddings = []
    for start in range(0, len(ids), batch_size):
        images = []
        for index in range(start, min(start + batch_size, len(ids))):
            try:
                images.append(decode(pairs.read_bytes(index)))
                kept.append(index)
            except BadImage as error:
                skipped.append((ids[index], error.reason))
        if images:
            embeddings.append(model.encode_image(images, batch_size=batch_size))
    if not kept:
        raise InputError(f"None of the {len(ids):,} images could be read; the first: {skipped[:1]}.")
    row_of = {ids[index]: row for row, index in enumerate(kept)}
    captions = [(c["id"], c["caption"]) for c in pairs.captions.to_pylist() if c["id"] in row_of]
    return Embedded(
        np.concatenate(embeddings),
        model.encode_text([text for _, text in captions]) if captions else np.zeros((0, model.width), np.float32),
        np.array([row_of[i] for i, _ in captions], np.int64),
        group_numbers(pairs.images["group"].to_pylist(), kept),
        [ids[index] for index in kept],
        [text for _, text in captions],
        [pairs.images["label"][index].as_py() for index in kept],
        skipped,
    )
