"""Zero-shot classification: a class is the mean of its prompts' embeddings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isthmus.data.text import read_text, split_lines
from isthmus.errors import InputError, UsageError, did_you_mean
from isthmus.files import read_json
from isthmus.metrics.bootstrap import estimate
from isthmus.metrics.nearest import top_k
from isthmus.metrics.scores import group_vector, index_vector, unit_rows

SLOTS = ("{}", "{c}")  # ours, and the one of CLIP_benchmark's template files
PROMPTS_AT_ONCE = 1024  # bounds the memory of many classes × many templates

DEFINITION = (
    "An image's class is the one whose embedding (mean of its normalised prompt embeddings, normalised) has "
    "the greatest cosine; of equal ones the first. acc1, acc5 = share of images whose class is the first, "
    "among the first five. mean_per_class_recall = mean over the classes that occur of the share found. "
    "confusion[true][predicted] counts images. ci95 = 95 % intervals over groups of images (docs/intervals.md)."
)


Templates = Sequence[str] | Mapping[str, Sequence[str]]  # prompts with a slot, or the sentences of each class


def load_templates(name: str | os.PathLike[str]) -> Templates:
    """Templates by the name of a bundled list (`default`, `clipart`, `simple`, `imagenet`) or from a file.

    A text file has one template a line (blank lines and lines that begin with `#` are skipped); a `.json`
    file is a list of strings. `{}`, or `{c}` as in CLIP_benchmark's files, stands for the class name. A `.json` file
    may also be an object {class: [sentences]}, descriptions in place of templates (freeze-align's VDT, CuPL).
    Raises UsageError for an unknown name, InputError naming file and line for a template without a slot.
    """
    bundled = resources.files("isthmus.metrics").joinpath("prompts")
    known = {Path(entry.name).stem: entry for entry in bundled.iterdir() if entry.name.endswith(".txt")}
    if str(name) in known:
        return _checked(_lines(known[str(name)].read_text(encoding="utf-8")), str(name))
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"{name}: neither a file nor a list of templates.{did_you_mean(str(name), known)}")
    if path.suffix == ".json":
        entries = read_json(path)
        if isinstance(entries, dict):
            return _descriptions(entries, path)
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise InputError(f'{path}: expected a JSON list of strings, like ["a photo of a {{}}."].')
        return _checked([(f"entry {i}", entry) for i, entry in enumerate(entries)], str(path))
    return _checked(_lines(read_text(path)), str(path))


def class_embeddings(
    encode_text: Callable[[list[str]], np.ndarray],
    classnames: Sequence[str],
    templates: Templates,
    *,
    padded: int | None = None,
    renormalise: bool = True,
) -> np.ndarray:
    """Class vectors float32 [C, d]: per class the mean of its normalised prompts, renormalised (Radford et al. 2021,
    section 3.1.4).

    encode_text: list of N prompts -> [N, d]. templates: each with a slot `{}` for the class name; or, for every
    class, its own sentences. padded: repeat the first sentence of a class up to so many. renormalise: False keeps the
    length of the mean, which favours classes whose prompts agree (compare it by `as_dot_products`). Both as
    freeze-align has them; CLIP_benchmark normalises, which is the default here. Two classes of one name, as ImageNet
    has them ("missile", "sunglasses"), share a vector.
    Raises InputError for no class, an empty class name, a template without a slot, or a class without
    sentences.
    """
    given = [str(name).strip() for name in classnames]
    if not given:
        raise InputError("There are no class names.")
    if "" in given:
        raise InputError(f"class {given.index('')}: its name is empty.")
    names = list(dict.fromkeys(given))
    number = {name: row for row, name in enumerate(names)}
    chunks = []
    prompts_of = [own + own[:1] * ((padded or 0) - len(own)) for own in _prompts(names, templates)]
    for start, prompts in _chunks(prompts_of):
        flat = unit_rows(encode_text([prompt for one in prompts for prompt in one]), "prompt embeddings")
        means = torch.stack([each.mean(dim=0) for each in flat.split([len(one) for one in prompts])])
        chunks.append(unit_rows(means, "class embeddings", first_row=start) if renormalise else means)
    return torch.cat(chunks).float().numpy()[[number[name] for name in given]]


def as_dot_products(image_emb: np.ndarray, class_emb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit images [n, d] and class vectors [C, d] of length 1 at most, in one more dimension, float32, where all have
    length 1 and cosines equal the former dot products.
    """
    rest = np.sqrt(np.maximum(0, 1 - np.square(class_emb, dtype=np.float64).sum(axis=1, keepdims=True)))
    return np.pad(image_emb, ((0, 0), (0, 1))), np.hstack([class_emb, rest]).astype(np.float32)


def zeroshot(
    image_emb: np.ndarray | torch.Tensor,
    class_emb: np.ndarray | torch.Tensor,
    labels: np.ndarray,
    *,
    classnames: Sequence[str] | None = None,
    groups: np.ndarray | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    tile: int | None = None,
) -> dict[str, Any]:
    """Top-1, top-5 and mean per-class accuracy, confusion matrix and a line per class.

    image_emb: [n, d], class_emb: [C, d]; any float dtype, compared by cosine, normalised or not.
    labels: int [n], the class of each image. classnames: [C], for the table. groups: ids [n] of
    near-duplicates, the unit of the bootstrap; default: every image its own. tile: images scored at a time.

    Returns {"metrics": {"acc1", "acc5" (from 5 classes on), "mean_per_class_recall"}, "ci95" and "chance" (of a
    class drawn at random): same keys, "n": {"images", "classes", "groups"}, "confusion": int64 [C, C] (true,
    predicted), "per_class": [{"class", "n", "recall", "precision"}] (None where the denominator is 0), "definition",
    "bootstrap", "seed"}. Raises InputError, naming the row, for embeddings, labels or ids that do not fit.
    """
    classes = len(class_emb)
    labels = index_vector(labels, len(image_emb), classes, "labels")
    if classnames is not None and len(classnames) != classes:
        raise InputError(f"classnames: {len(classnames)} names for {classes} class embeddings.")
    unit = group_vector(groups, len(image_emb), "groups")
    nearest = top_k(image_emb, class_emb, k=min(5, classes), tile=tile)[1]
    found = nearest == labels[:, None]
    cuts = (1, 5) if classes >= 5 else (1,)

    def statistic(weights: np.ndarray) -> np.ndarray:
        weight = weights[unit]
        size = np.bincount(labels, weights=weight, minlength=classes)
        right = np.bincount(labels, weights=weight * found[:, 0], minlength=classes)
        per_class = (right[size > 0] / size[size > 0]).mean()
        return np.array([*(np.average(found[:, :k].any(axis=1), weights=weight) for k in cuts), per_class])

    count = int(unit.max()) + 1
    names = [*(f"acc{k}" for k in cuts), "mean_per_class_recall"]
    metrics, ci95 = estimate(statistic, names, count, bootstrap, seed, shares=names)
    pairs = np.bincount(labels * classes + nearest[:, 0], minlength=classes**2)
    confusion = pairs.reshape(classes, classes)
    return {
        "metrics": metrics,
        "ci95": ci95,
        "chance": {name: (int(name[3:]) if name in ("acc1", "acc5") else 1) / classes for name in names},
        "n": {"images": len(labels), "classes": classes, "groups": count},
        "confusion": confusion,
        "per_class": _per_class(confusion, classnames or [str(i) for i in range(classes)]),
        "definition": DEFINITION,
        "bootstrap": bootstrap,
        "seed": seed,
    }


def _per_class(confusion: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    right, true, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return [
        {
            "class": name,
            "n": int(true[i]),
            "recall": float(right[i] / true[i]) if true[i] else None,
            "precision": float(right[i] / predicted[i]) if predicted[i] else None,
        }
        for i, name in enumerate(names)
    ]


def _prompts(names: Sequence[str], templates: Templates) -> list[list[str]]:
    """The prompts of every class."""
    if not isinstance(templates, Mapping):
        templates = _checked([(f"entry {i}", template) for i, template in enumerate(templates)], "templates")
        return [[template.replace("{}", name) for template in templates] for name in names]
    missing = [name for name in names if not templates.get(name)]
    if missing:
        raise InputError(
            f"descriptions: {len(missing)} of {len(names)} classes have none, the first is {missing[0]!r}."
            + did_you_mean(missing[0], list(templates)[:1000])
        )
    return [list(templates[name]) for name in names]


def _chunks(prompts: Sequence[list[str]]) -> Iterator[tuple[int, list[list[str]]]]:
    """Chunks of classes within PROMPTS_AT_ONCE prompts, at least one class each: the first class, and the prompts."""
    start, held = 0, 0
    for end, own in enumerate(prompts):
        if end > start and held + len(own) > PROMPTS_AT_ONCE:
            yield start, list(prompts[start:end])
            start, held = end, 0
        held += len(own)
    yield start, list(prompts[start:])


def _descriptions(entries: dict[str, Any], path: Path) -> dict[str, list[str]]:
    """{class: [sentences]}, checked; unchanged if classes are below data sets."""
    for name, value in entries.items():
        for sentences in value.values() if isinstance(value, dict) else [value]:
            if not (isinstance(sentences, list) and sentences and all(isinstance(one, str) for one in sentences)):
                raise InputError(
                    f'{path}, {name!r}: expected a JSON list of sentences, {{"cat": ["a cat has whiskers."]}}.'
                )
    return entries


def _lines(text: str) -> list[tuple[str, str]]:
    """(place, template) of every line with a template."""
    lines = ((f"line {number}", line.strip()) for number, line in enumerate(split_lines(text), start=1))
    return [(where, line) for where, line in lines if line and not line.startswith("#")]


def _checked(entries: list[tuple[str, str]], source: str) -> list[str]:
    """The templates with `{}` for their slot; replaced as text, not by `format`: templates may come from anyone."""
    if not entries:
        raise InputError(f"{source}: holds no template; write one a line, like 'a photo of a {{}}.'.")
    for where, template in entries:
        if not any(slot in template for slot in SLOTS):
            raise InputError(f"{source}, {where}: {template!r} has no {{}} for the class name.")
    return [template.replace("{c}", "{}") for _, template in entries]
