"""The bootstrap: against the textbook's standard error, against copying the data, and paired."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from isthmus.errors import InputError
from isthmus.metrics.bootstrap import estimate, interval, paired_bootstrap, replicates, weighted_median
from isthmus.metrics.retrieval import ranks


def test_weights_are_draws_with_replacement():
    weights = replicates(lambda w: w, groups=7, resamples=400, seed=0)
    assert (weights.sum(axis=1) == 7).all()
    assert weights.min() == 0
    assert weights.max() > 1
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.2)
    assert len(np.unique(weights, axis=0)) > 300


def test_the_interval_of_a_share_is_that_of_the_binomial():
    hits = np.arange(1000) < 300
    values, ci95 = estimate(lambda w: np.array([np.average(hits, weights=w)]), ["share"], 1000, 2000, 0)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert values == {"share": pytest.approx(0.3)}
    assert ci95["share"] == pytest.approx([0.3 - half, 0.3 + half], abs=0.003)


@pytest.mark.parametrize("right", [0, 20])
def test_a_share_at_an_end_has_the_exact_interval(right):
    hits = np.arange(20) < right
    bounds = estimate(lambda w: np.array([np.average(hits, weights=w)]), ["m"], 20, 300, 0, shares=["m"])[1]["m"]
    exact = 1 - 0.025 ** (1 / 20)
    assert bounds == pytest.approx([0, exact] if right == 0 else [1 - exact, 1])


def test_the_interval_of_single_answers_is_wilson_s_with_student_s_quantile():
    """Against the formula on the counts, which the bootstrap's variance only estimates."""
    n, right = 200, 12
    hits = np.arange(n) < right
    low, high = estimate(lambda w: np.array([np.average(hits, weights=w)]), ["m"], n, 4000, 0, shares=["m"])[1]["m"]
    wilson = binomtest(right, n).proportion_ci(method="wilson")
    assert [low, high] == pytest.approx([wilson.low, wilson.high], abs=0.003)


def test_other_statistics_are_wider_for_few_groups():
    values = np.array([1.0, 2.0, 4.0, 5.0, 9.0])
    statistic = lambda w: np.array([np.average(values, weights=w)])  # noqa: E731
    low, high = estimate(statistic, ["m"], 5, 4000, 0)[1]["m"]
    plain = np.ravel(interval(replicates(statistic, 5, 4000, 0)))
    assert low < plain[0] and high > plain[1]


def test_a_difference_has_student_s_interval():
    gain = np.array([0.0, 0.5, 0.2, 0.9, 0.4, 0.1])
    low, high = paired_bootstrap(gain, np.zeros(6), resamples=8000)["ci95"]
    theirs = ttest_1samp(gain, 0).confidence_interval()
    assert [low, high] == pytest.approx([theirs.low, theirs.high], abs=0.02)


@pytest.mark.parametrize("seed", range(20))
def test_weighted_median_is_the_median_of_the_copies(seed):
    rng = np.random.default_rng(seed)
    values = np.sort(rng.integers(1, 8, size=rng.integers(2, 12))) / 2
    weights = rng.integers(0, 4, size=len(values))
    weights[rng.integers(len(values))] += 1
    assert weighted_median(values, weights) == np.median(np.repeat(values, weights))


def test_one_group_shows_no_spread_and_gets_no_interval():
    assert estimate(lambda w: w * 1.0, ["a"], groups=1, resamples=100, seed=0) == ({"a": 1.0}, {})
    assert estimate(lambda w: w[:1] * 1.0, ["a"], groups=9, resamples=0, seed=0) == ({"a": 1.0}, {})
    assert paired_bootstrap(np.ones(4), np.zeros(4), np.zeros(4))["ci95"] is None


def test_pairing_sees_a_small_difference_that_the_single_intervals_hide():
    rng = np.random.default_rng(0)
    b = rng.random(500) < 0.4
    a = b.copy()
    a[np.flatnonzero(~b)[:15]] = True  # 3 points better, never worse
    result = paired_bootstrap(a, b)
    assert result["difference"] == pytest.approx(0.03)
    assert 0.012 < result["ci95"][0] < 0.02
    assert 0.04 < result["ci95"][1] < 0.05
    assert result["n"] == {"queries": 500, "groups": 500}


def test_groups_widen_the_interval_of_a_difference():
    a, b = np.repeat(np.arange(100) < 60, 9), np.repeat(np.arange(100) >= 50, 9)
    alone = paired_bootstrap(a, b)["ci95"]
    grouped = paired_bootstrap(a, b, np.repeat(np.arange(100), 9))["ci95"]
    assert np.ptp(grouped) == pytest.approx(3 * np.ptp(alone), rel=0.15)


def test_both_directions_of_two_retrieval_systems_are_compared_at_once():
    rng = np.random.default_rng(1)
    image = rng.standard_normal((80, 12))
    image_of = np.concatenate([np.arange(80), np.arange(40)])
    noise = rng.standard_normal((120, 12))
    good, bad = (ranks(image, image[image_of] + level * noise, image_of) for level in (0.8, 1.5))
    groups = np.arange(80) // 2
    result = paired_bootstrap(good.hits(1), bad.hits(1), good.units(groups))
    means = [np.mean([part.mean() for part in system.hits(1)]) for system in (good, bad)]
    assert result["difference"] == pytest.approx(means[0] - means[1])
    assert result["ci95"][0] > 0
    assert result["n"] == {"queries": 200, "groups": 40}
    swapped = paired_bootstrap(bad.hits(1), good.hits(1), good.units(groups))
    assert swapped["ci95"] == pytest.approx([-x for x in result["ci95"][::-1]])


@pytest.mark.parametrize(
    ("a", "b", "groups", "message"),
    [
        (np.ones(3), np.ones(4), None, "different queries: 3 and 4"),
        (np.ones(3), np.ones(3), np.ones(2), "expected 3 ids"),
        ([np.ones(3), np.ones(2)], [np.ones(3), np.ones(2)], None, "give `groups`"),
        (np.ones((2, 2)), np.ones((2, 2)), None, "has one value"),
        (np.ones(0), np.ones(0), None, "has one value"),
    ],
)
def test_arrays_that_do_not_match_are_refused(a, b, groups, message):
    with pytest.raises(InputError, match=message):
        paired_bootstrap(a, b, groups)
