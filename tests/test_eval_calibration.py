"""Calibration: by hand, and against naive twins."""

import numpy as np
import pytest

from isthmus.errors import InputError, UsageError
from isthmus.metrics import calibration
from isthmus.metrics.calibration import abstain_threshold, precision_curve, reliability, softmax_confidence


def test_the_confidence_is_the_softmax_of_all_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "TILE", 5)
    rng = np.random.default_rng(0)
    queries, items = rng.normal(size=(13, 4)), rng.normal(size=(17, 4))
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, items))
    logits = 20 * x @ y.T
    naive = np.exp(logits - logits.max(1, keepdims=True))
    naive = (naive / naive.sum(1, keepdims=True)).max(1)
    assert softmax_confidence(queries, items, (x @ y.T).max(1), 20.0) == pytest.approx(naive, rel=1e-4)


def test_the_calibration_error_of_hand_made_answers() -> None:
    """Two bins: 0.2 twice, half of them right; 0.9 twice, both right: (2·0.3 + 2·0.1) / 4."""
    found = reliability(np.array([0.2, 0.2, 0.9, 0.9]), np.array([1, 0, 1, 1], bool), bins=10, bootstrap=50)
    assert found["metrics"]["ece"] == pytest.approx(0.2)
    assert found["metrics"]["accuracy"] == 0.75
    assert found["metrics"]["overconfidence"] == pytest.approx(0.55 - 0.75)
    assert [(one["n"], one["accuracy"]) for one in found["bins"]] == [(2, 0.5), (2, 1.0)]
    low, high = found["ci95"]["accuracy"]
    assert low <= 0.75 <= high


def test_calibrated_answers_have_almost_no_error_and_boastful_ones_have() -> None:
    rng = np.random.default_rng(1)
    sure = rng.random(20_000)
    right = rng.random(20_000) < sure
    assert reliability(sure, right, bootstrap=0)["metrics"]["ece"] < 0.02
    assert reliability(sure**0.2, right, bootstrap=0)["metrics"]["ece"] > 0.2
    assert reliability(np.ones(3), np.ones(3, bool), bootstrap=0)["metrics"]["ece"] == 0


def test_what_is_no_confidence_is_told() -> None:
    with pytest.raises(InputError, match="outside"):
        reliability(np.array([1.2]), np.array([True]))
    with pytest.raises(InputError, match="2 confidences, 1 answers"):
        reliability(np.array([0.1, 0.2]), np.array([True]))


def test_equal_scores_stand_or_fall_together() -> None:
    score, right = np.array([0.5, 0.9, 0.5, 0.1]), np.array([True, True, False, False])
    at, precision, coverage = precision_curve(score, right)
    assert at.tolist() == [0.9, 0.5, 0.1]
    assert precision == pytest.approx([1, 2 / 3, 1 / 2])
    assert coverage == pytest.approx([1 / 4, 3 / 4, 1])


def test_the_threshold_keeps_its_precision_on_the_other_half() -> None:
    rng = np.random.default_rng(2)
    score = rng.random(60_000)
    right = rng.random(60_000) < score
    found = abstain_threshold(score, right, 0.9)
    assert found["threshold"] == pytest.approx(0.8, abs=0.04)  # the mean above t is (1 + t) / 2
    assert found["precision"] == pytest.approx(0.9, abs=0.02)
    assert found["coverage"] == pytest.approx(0.2, abs=0.04)


def test_a_lucky_handful_sets_no_threshold() -> None:
    right = np.zeros(400, bool)
    right[:8] = True
    score = np.linspace(1, 0, 400)
    assert abstain_threshold(score, right, 0.9)["threshold"] is None
    with pytest.raises(UsageError, match="precision=2"):
        abstain_threshold(score, right, 2)
