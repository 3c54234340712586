"""Testing the demo's models: retrieval, zero-shot classification, free-text search, mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.encoders import Encoder
from isthmus.metrics.bootstrap import paired_bootstrap
from isthmus.metrics.retrieval import Ranks, ranks, retrieval
from isthmus.metrics.scores import group_vector
from isthmus.metrics.zeroshot import class_embeddings, load_templates, zeroshot
from isthmus.models.dual_encoder import DualEncoder

TEMPLATES = "clipart"


class TextFeatures:
    """Features of texts by a frozen encoder, each text encoded once for all models."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.known: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [N, D]."""
        fresh = [text for text in dict.fromkeys(texts) if text not in self.known]
        if fresh:
            self.known |= dict(zip(fresh, self.encoder.encode(fresh), strict=True))
        return np.stack([self.known[text] for text in texts])


@dataclass(frozen=True)
class Measured:
    """A model on the test split. image: [n, d]; classes: [C, d]; retrieval, zeroshot: evaluation's."""

    image: np.ndarray
    classes: np.ndarray
    retrieval: dict[str, Any]
    zeroshot: dict[str, Any]
    ranks: Ranks


def measure(
    model: DualEncoder,
    test: FeaturePairs,
    classes: Sequence[str],
    text_features: Callable[[Sequence[str]], np.ndarray],
    seed: int,
) -> Measured:
    """Retrieval over all test pairs; zero-shot classification of the labelled images among `classes`."""
    image, text = model.project("image", test.image), model.project("text", test.text)
    prompts = class_embeddings(
        lambda texts: model.project("text", text_features(texts)), classes, load_templates(TEMPLATES)
    )
    rows, labels = labelled(test, classes)
    groups = test.bootstrap_group
    return Measured(
        image,
        prompts,
        retrieval(image, text, test.image_of, groups=groups, seed=seed),
        zeroshot(image[rows], prompts, labels, classnames=classes, groups=groups[rows], seed=seed),
        ranks(image, text, test.image_of),
    )


def labelled(pairs: FeaturePairs, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the images whose label is among the classes, and the number of that class: int64 [n], int64 [n]."""
    number = {name: i for i, name in enumerate(classes)}
    found = [(row, number[label]) for row, label in enumerate(pairs.labels or ()) if label in number]
    rows, labels = np.array(found, np.int64).reshape(-1, 2).T
    return rows, labels


def chance(test: FeaturePairs, classes: int, k: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Chance by metric, for one caption per image."""
    expected = {f"acc{j}": min(1.0, j / classes) for j in (1, 5)} | {"mean_per_class_recall": 1 / classes}
    for j in k:
        expected[f"image_retrieval_recall@{j}"] = min(1.0, j / len(test.image))
        expected[f"text_retrieval_recall@{j}"] = min(1.0, j / len(test.text))
    return expected


def difference(a: Ranks, b: Ranks, test: FeaturePairs, seed: int) -> tuple[float, float, float]:
    """Mean R@1 of both directions, `a` minus `b` on the same queries: (value, low, high)."""
    groups = group_vector(test.bootstrap_group, len(test.image), "groups")
    compared = paired_bootstrap(a.hits(1), b.hits(1), a.units(groups), seed=seed)
    return compared["difference"], *compared["ci95"]


def best_images(query: np.ndarray, image: np.ndarray, k: int) -> list[list[tuple[int, float]]]:
    """For each query [q, d] its `k` best rows of `image` [n, d] and their cosine; both L2-normalised."""
    scores = query @ image.T
    index = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [[(int(i), float(row[i])) for i in best] for row, best in zip(scores, index, strict=True)]


def confident_mistakes(
    model: DualEncoder, image: np.ndarray, prompts: np.ndarray, labels: np.ndarray, k: int
) -> list[tuple[int, int, float]]:
    """The `k` wrong answers with the highest probability: (row of `image`, class given, its probability).

    The probability is the softmax, over classes, of the model's scaled cosines.
    """
    logits = model.logits(image, prompts)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    given = odds.argmax(axis=1)
    probability = odds.max(axis=1) / odds.sum(axis=1)
    wrong = np.flatnonzero(given != labels)
    worst = wrong[np.argsort(-probability[wrong], kind="stable")[:k]]
    return [(int(row), int(given[row]), float(probability[row])) for row in worst]
