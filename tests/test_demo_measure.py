"""How the demo tests a model, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.metrics.retrieval import ranks
from isthmus.metrics.zeroshot import load_templates
from isthmus_demo import measure


class Words:
    """A text encoder that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: list[str]) -> np.ndarray:
        self.asked += texts
        return np.array([[len(text), 1.0] for text in texts], np.float32)


class Scaled:
    """What `confident_mistakes` needs of a model: logits = scale · cosine."""

    def logits(self, image: np.ndarray, text: np.ndarray) -> np.ndarray:
        return 10 * image @ text.T


def make_pairs(n: int, labels: list[str | None] | None = None) -> FeaturePairs:
    return FeaturePairs.from_arrays(np.eye(n, dtype=np.float32), np.eye(n, dtype=np.float32), labels=labels)


def test_text_features_encode_each_text_once() -> None:
    words = Words()
    features = measure.TextFeatures(words)
    first, again = features(["a", "bb", "a"]), features(["bb", "ccc"])
    assert words.asked == ["a", "bb", "ccc"]
    np.testing.assert_array_equal(first[:, 0], [1, 2, 1])
    np.testing.assert_array_equal(again[:, 0], [2, 3])


def test_chance_is_k_out_of_the_candidates() -> None:
    expected = measure.chance(make_pairs(8), classes=4)
    assert expected["image_retrieval_recall@5"] == expected["text_retrieval_recall@5"] == 5 / 8
    assert expected["text_retrieval_recall@10"] == 1.0
    assert (expected["acc1"], expected["acc5"]) == (1 / 4, 1.0)
    assert expected["mean_per_class_recall"] == 1 / 4


def test_only_labelled_images_are_classified() -> None:
    rows, labels = measure.labelled(make_pairs(4, ["fish", None, "bird", "fish"]), ["bird", "fish"])
    np.testing.assert_array_equal(rows, [0, 2, 3])
    np.testing.assert_array_equal(labels, [1, 0, 1])


def test_best_images_come_best_first_with_their_cosine() -> None:
    image = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    (found,) = measure.best_images(np.array([[0, 1]], np.float32), image, k=2)
    assert [row for row, _ in found] == [1, 2]
    assert [score for _, score in found] == pytest.approx([1.0, 0.8])


def test_the_most_confident_wrong_answers_come_first() -> None:
    classes = np.eye(2, dtype=np.float32)
    image = np.array([[1, 0], [0.6, 0.8], [0, 1], [0, 1]], np.float32)
    found = measure.confident_mistakes(Scaled(), image, classes, labels=np.array([0, 0, 0, 1]), k=5)
    assert [(row, given) for row, given, _ in found] == [(2, 1), (1, 1)]
    assert found[0][2] == pytest.approx(1 / (1 + np.exp(-10)))
    assert found[1][2] == pytest.approx(1 / (1 + np.exp(-2)))


def test_the_difference_counts_both_directions_on_the_same_queries() -> None:
    pairs = make_pairs(40)
    perfect = np.eye(40, dtype=np.float32)
    halved = perfect.copy()
    halved[:20] = np.roll(perfect[:20], 1, axis=0)  # the first 20 images find a neighbour instead
    a, b = (ranks(image, perfect, pairs.image_of) for image in (halved, perfect))
    value, low, high = measure.difference(a, b, pairs, seed=0)
    assert value == pytest.approx(-0.5)
    assert low < -0.5 < high < 0
    assert measure.difference(b, b, pairs, seed=0) == (0.0, 0.0, 0.0)


def test_the_templates_of_the_demo_exist() -> None:
    assert len(load_templates(measure.TEMPLATES)) > 1
