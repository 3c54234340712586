"""Evaluation data from either route, images through the model or a store's cached features, in one form."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.feature_pairs import SIDES, FeaturePairs
from isthmus.data.folders import readable
from isthmus.data.groups import by_appearance, whole_groups
from isthmus.data.labels import check_classes, class_names
from isthmus.data.pairs import Pairs
from isthmus.data.tables import Frame
from isthmus.encoders.pictures import encode_each, reason
from isthmus.errors import InputError, did_you_mean
from isthmus.evaluation.exposure import Exposure
from isthmus.evaluation.labelled import stored_pairs
from isthmus.metrics.zeroshot import Templates, class_embeddings, load_templates, zeroshot
from isthmus.modality import spec_of, table_of
from isthmus.models.dual_encoder import DualEncoder
from isthmus.progress import progress_bar, watched
from isthmus.store import Store
from isthmus.store.joining import choose_ids, read_ids
from isthmus.store.opening import open_source

Data = FeaturePairs | Pairs | Frame | str | Path  # what most tasks take; a store by its folder


@dataclass(frozen=True)
class Saved:
    """A model's folder or URI, and how to load it when a task knows whether it needs the encoders."""

    path: str | Path
    device: str | None = None
    trust_remote_code: bool = False


Given = DualEncoder | Saved | str | Path  # a task's model: loaded, or only named


def opened(model: Given, *, encoders: bool = True) -> tuple[DualEncoder, str]:
    """The model, which is loaded if it is only named (`encoders`: with its encoders), and its name in results."""
    saved = Saved(model) if isinstance(model, str | Path) else model
    if not isinstance(saved, Saved):
        return saved, "isthmus"
    device, trust = saved.device, saved.trust_remote_code
    loaded = DualEncoder.from_pretrained(saved.path, load=encoders, device=device, trust_remote_code=trust)
    return loaded, str(saved.path)


def named(data: object) -> str:
    """The name of data in results."""
    if isinstance(data, Pairs) and data.path is not None:
        return str(data.path)
    return str(data) if isinstance(data, str | Path) else "arrays"


@dataclass
class Embedded:
    """Pairs in the joint space.

    image: [n, d] and text: [m, d] float32, L2-normalised. image_of: [m] row of each caption's image.
    groups: [n] near-duplicates (`whole_groups`), the unit of every bootstrap, numbered by first appearance.
    labels: class names by image, or None. class_folders: where labels are those of folders, these, sorted.
    seen: what a result says of the items that the model has seen (`Exposure.report`).
    """

    image: np.ndarray
    text: np.ndarray
    image_of: np.ndarray
    groups: np.ndarray
    image_ids: list[str]
    captions: list[str] | None = None
    labels: list[str | None] | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    class_folders: list[str] = field(default_factory=list)
    seen: dict[str, Any] = field(default_factory=dict)


def embed_for_evaluation(
    model: DualEncoder,
    data: Data | Store,
    *,
    split: str | None = None,
    only: str | Path | Sequence[str] | None = None,
    seed: int = 0,
    unseen: bool = False,
) -> Embedded:
    """`data` as embeddings of `model`.

    Args:
        data: a store (cached features; its encoders must be the model's), pairs or what `read_pairs` reads, or arrays
            as `FeaturePairs`.
        split: only these pairs ("train", "val" or "test"); None means all.
        only: only these ids, or those in the `id` column of a Parquet file.
        seed: of the validation split, where the data names none.
        unseen: only what neither trained nor validated the model.

    Raises:
        InputError: no pairs left, or a store without the model's encoders.
    """
    exposure = Exposure(model, named(data), unseen)
    return embed_chosen(model, chosen_data(model, data, split=split, only=only, seed=seed), exposure)


def chosen_data(
    model: DualEncoder, data: Data | Store, *, split: str | None = None, only: Any = None, seed: int = 0
) -> FeaturePairs | Pairs:
    """`data`, read and reduced to the chosen pairs before anything is encoded; see `embed_for_evaluation`."""
    opened = open_source(data)
    if isinstance(opened, Store):
        return stored_pairs(model, opened, split=split, only=only, seed=seed)
    if isinstance(opened, FeaturePairs):
        return opened if only is None else choose_ids(opened, only)
    opened = opened if split is None else opened.filter(split=split)
    return opened if only is None else _chosen(opened, only)


def embed_chosen(model: DualEncoder, data: FeaturePairs | Pairs, exposure: Exposure) -> Embedded:
    """The result of `chosen_data`, embedded, without what `exposure` leaves out."""
    if isinstance(data, FeaturePairs):
        found = _from_features(model, exposure.rest(data))
    else:
        found = _from_pairs(model, data, exposure)
    found.seen = exposure.report()
    return found


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
    names, number = match_labels(embedded.labels or [], class_names(classes), embedded.class_folders)
    named = [(row, label) for row, label in enumerate(embedded.labels or []) if label]
    check_classes(names, "the labels" if classes is None else "the class names", given=classes is not None)
    labelled = np.array([row for row, _ in named], np.int64)
    truth = np.array([number[label] for _, label in named])
    prompts = load_templates(templates) if isinstance(templates, str | Path) else templates
    return labelled, truth, names, class_embeddings(encode_text, names, prompts), prompts


def match_labels(
    labels: Sequence[str | None], names: Sequence[str], folders: Sequence[str] = ()
) -> tuple[list[str], dict[str, int]]:
    """The class names (default: the labels that occur, sorted), and which of them each label is.

    A label is a name. Otherwise all labels are whole numbers of names, from 0; or names that differ in case, spaces and
    punctuation; or sorted class folders, which stand for the names in their order. Raises `InputError`.
    """
    there = sorted({label for label in labels if label})
    if not there:
        raise InputError("Zero-shot classification needs labels: no image of the data has one (column `label`).")
    if not names:
        return there, {label: row for row, label in enumerate(there)}
    by_name = {name: row for row, name in reversed(list(enumerate(names)))}
    if by_name.keys() >= {*there}:
        return list(names), by_name  # a name that is there twice means its first place, as for ties
    if all(re.fullmatch(r"\d+(\.0)?", label) for label in there):  # pandas writes 1.0 where a label is missing
        numbers = {label: int(float(label)) for label in there}
        if max(numbers.values()) < len(names):
            return list(names), numbers
        raise InputError(f"Label {max(numbers.values())} is no line of the {len(names)} class names, numbered from 0.")
    by_letters = {_letters(name): row for name, row in by_name.items()}
    if len(by_letters) == len(by_name) and all(_letters(label) in by_letters for label in there):
        return list(names), {label: by_letters[_letters(label)] for label in there}
    if folders and len(folders) == len(names):
        return list(names), {label: row for row, one in enumerate(folders) for label in (one, readable(one))}
    unknown = next(label for label in there if label not in by_name)
    raise InputError(f"Label {unknown!r} is not among the {len(names)} class names.{did_you_mean(unknown, by_name)}")


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


def _chosen(pairs: Pairs, only: str | Path | Sequence[str]) -> Pairs:
    """The pairs with these ids; ids that are not in the data are ignored."""
    wanted = set(read_ids(only))
    found = [one for one in pairs.images["id"].to_pylist() if one in wanted]
    if not found:
        raise InputError(f"None of the {len(wanted):,} chosen ids is among these {len(pairs):,} images.")
    return pairs.subset(found)


def _from_features(model: DualEncoder, data: FeaturePairs) -> Embedded:
    image, text = (model.project(side, getattr(data, side)) for side in SIDES)
    groups, ids = by_appearance(data.bootstrap_group), list(data.image_ids)
    return Embedded(image, text, data.image_of, groups, ids, data.captions, data.labels)


@dataclass
class EmbeddedItems:
    """Items of one modality in the joint space: [n, d] of the rows `kept` (of `n`) that could be read."""

    emb: np.ndarray
    kept: list[int]
    hashes: list[str]
    skipped: list[tuple[str, str]]


def embed_items(
    model: DualEncoder,
    pairs: Pairs,
    exposure: Exposure | None = None,
    counterparts: Container[str] = (),
    batch_size: int = 32,
) -> EmbeddedItems:
    """The images of pairs, or what stands in their place, go through the model in batches.

    An unreadable one is listed. exposure, counterparts: what is left out (`Exposure.picture`). Raises `InputError`
    where none can be read, `UsageError` for a modality that the model does not take.
    """
    ids, samples = pairs.images["id"].to_pylist(), pairs.samples
    exposure = exposure or Exposure(None, "")
    found = EmbeddedItems(np.zeros((0, model.width), np.float32), [], [], [])
    hashes: dict[int, str] = {}

    def read(row: int) -> Any:
        hashes[row], picture = exposure.picture(pairs, row, samples[row] in counterparts)
        return picture

    some = encode_each(
        len(ids),
        read,
        lambda items: model.encode(pairs.modality, items, batch_size=batch_size),
        lambda row, error: found.skipped.append((ids[row], reason(error))),
        batch_size,
    )
    embeddings = []
    with progress_bar(watched(), total=len(ids), desc="items", unit="item", leave=False) as bar:
        for rows, embedded in some:
            found.kept += rows
            embeddings.append(embedded)
            bar.update(len(rows))
    exposure.check(len(embeddings))
    if not embeddings:
        kind = table_of(pairs.modality)
        raise InputError(f"None of the {len(ids):,} {kind} could be read; the first: {found.skipped[:1]}.")
    found.emb, found.hashes = np.concatenate(embeddings), [hashes[row] for row in found.kept]
    return found


def _from_pairs(model: DualEncoder, pairs: Pairs, exposure: Exposure) -> Embedded:
    """Both sides of pairs; of an item that cannot be read its counterparts are left out too."""
    first, second = model.modalities
    side = pairs.side(first)
    found = embed_items(model, side, exposure, exposure.counterparts(pairs, second))
    samples = [side.samples[index] for index in found.kept]
    row_of = {sample: row for row, sample in enumerate(samples)}
    if len(row_of) < len(samples):
        raise InputError(f"{pairs.path}: several items of {first!r} share an id: pairs are one of {first} with others.")
    images = side.images.take(found.kept)
    image_of, others, captions, skipped = _counterparts(model, pairs, second, row_of)
    return Embedded(
        found.emb,
        others,
        image_of,
        whole_groups(images["group"].to_pylist(), np.array(found.hashes)),
        images["id"].to_pylist(),
        captions,
        images["label"].to_pylist(),
        [*pairs.skipped, *found.skipped, *skipped],
        pairs.notes if side is pairs else [*pairs.notes, *side.notes],
        pairs.class_folders,
    )


def _counterparts(
    model: DualEncoder, pairs: Pairs, modality: str, row_of: dict[str, int]
) -> tuple[np.ndarray, np.ndarray, list[str] | None, list[tuple[str, str]]]:
    """The second side of pairs: the row int64 [m] that each belongs to, its embeddings, texts, and what was skipped."""
    if spec_of(modality).decode is None:
        captions = [(c["id"], c["caption"]) for c in pairs.captions.to_pylist() if c["id"] in row_of]
        texts = [text for _, text in captions]
        emb = model.encode(modality, texts) if texts else np.zeros((0, model.width), np.float32)
        return np.array([row_of[id] for id, _ in captions], np.int64), emb, texts, []
    side = pairs.side(modality)
    found = embed_items(model, side)
    owners = [row_of.get(side.samples[index], -1) for index in found.kept]
    there = np.flatnonzero(np.array(owners) >= 0)
    return np.array(owners, np.int64)[there], found.emb[there], None, found.skipped
