"""Gap, alignment, uniformity and hubs: by hand, and against naive twins."""

import numpy as np
import pytest

from isthmus.errors import InputError
from isthmus.metrics import geometry
from isthmus.metrics.geometry import hubness, modality_gap, occurrences, pair_distances, uniformity
from isthmus.metrics.nearest import top_k


def unit(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    rows = rng.normal(size=(n, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_gap_of_hand_made_points() -> None:
    """Two images at 0° and 90°, their captions at 180° and 270°: centres at (½, ½) and (−½, −½)."""
    image, text = np.eye(2), -np.eye(2)
    found = modality_gap(image, text, np.arange(2))
    assert found["gap"] == pytest.approx(2**0.5)
    assert found["centroid_distance"] == pytest.approx(2**0.5)
    assert found["image_cone"] == pytest.approx(0.0)
    # three captions, two of them of the first image: that one counts twice in Liang's gap, once among the images
    found = modality_gap(image, np.array([[1.0, 0], [1, 0], [0, 1]]), np.array([0, 0, 1]))
    assert found["gap"] == pytest.approx(0.0)
    assert found["centroid_distance"] == pytest.approx(np.linalg.norm([1 / 2 - 2 / 3, 1 / 2 - 1 / 3]))
    assert found["text_cone"] == pytest.approx(1 / 3)


def test_the_gap_equals_its_naive_twin_and_forgets_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "TILE", 7)
    rng = np.random.default_rng(0)
    image, text, owner = unit(rng, 30, 5) + 0.4, unit(rng, 50, 5), rng.integers(30, size=50)
    found = modality_gap(3 * image, text, owner)
    x = image / np.linalg.norm(image, axis=1, keepdims=True)
    assert found["gap"] == pytest.approx(np.linalg.norm(x[owner].mean(0) - text.mean(0)))
    cosines = x @ x.T
    assert found["image_cone"] == pytest.approx((cosines.sum() - np.trace(cosines)) / (30 * 29))


def test_alignment_is_the_squared_distance_of_pairs() -> None:
    image, text = np.eye(2), np.array([[1.0, 0], [1, 0], [0, -1]])
    assert pair_distances(image, text, np.array([0, 1, 1])) == pytest.approx([0, 2, 4])


def test_uniformity_equals_its_naive_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "TILE", 8)
    x = unit(np.random.default_rng(1), 35, 6)
    each = [np.exp(-2 * ((a - b) ** 2).sum()) for i, a in enumerate(x) for b in x[i + 1 :]]
    assert uniformity(x) == pytest.approx(np.log(np.mean(each)), abs=1e-5)
    assert uniformity(np.ones((4, 3))) == pytest.approx(0, abs=1e-5)
    assert uniformity(np.array([[1.0, 0], [-1, 0]])) == pytest.approx(-8, abs=1e-5)
    with pytest.raises(InputError, match="at least two items"):
        uniformity(np.ones((1, 3)))


def test_hubs_of_a_hand_made_space() -> None:
    """Four queries: all find item 0, and each one other of items 1 and 2; item 3 is never found."""
    counts = occurrences(np.array([[0, 1], [0, 1], [0, 2], [0, 2]]), 4)
    assert counts.tolist() == [4, 2, 2, 0]
    found = hubness(counts, queries=4, k=2)
    assert found["skewness"] == pytest.approx(0)  # deviations 2, 0, 0, −2
    assert found["antihubs"] == 0.25
    assert found["top_share"] == 0.5
    assert found["chance_antihubs"] == pytest.approx(0.5**4)
    assert found["chance_skewness"] == pytest.approx(0)  # Binomial(4, ½)
    assert hubness(np.array([9, 1, 1, 1]), queries=6, k=2)["skewness"] == pytest.approx((6**3 - 3 * 8) / 4 / 12**1.5)


def test_random_directions_have_the_hubs_of_chance_and_a_cone_has_more() -> None:
    rng = np.random.default_rng(2)
    found = []
    for cone in (0.0, 3.0):  # in a narrow cone, what lies near its axis is near to everything
        x, y = (unit(rng, 800, 32) + cone * np.eye(32)[0] * rng.uniform(0.5, 1.5, (800, 1)) for _ in range(2))
        found.append(hubness(occurrences(top_k(y, x, 10)[1], 800), 800, 10))
    even, narrow = found
    assert even["skewness"] < 1 < narrow["skewness"]
    assert even["antihubs"] < 0.02 < 0.2 < narrow["antihubs"]
