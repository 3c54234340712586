"""Scores of encoder pairs against their naive twins, against closed forms, and on features of known relation."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.errors import InputError, UsageError
from isthmus.metrics.probing import knn_correct, linear_probe_correct
from isthmus.metrics.retrieval import ranks
from isthmus.selection import cka as C
from isthmus.selection.asif import asif, relative
from isthmus.selection.heldout import ClosedForms, probe
from isthmus.selection.neighbors import mutual_knn, neighbors, overlap, permuted, rice
from isthmus.selection.uncertainty import Draws, chance_recall, ci95, permutation_null


def related(n: int, noise: float = 1.0, seed: int = 0, widths: tuple[int, int] = (20, 9)) -> tuple[np.ndarray, ...]:
    """Two views of one latent vector, off centre and of unequal scales."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, 6))
    x, y = (shared @ rng.normal(size=(6, width)) + noise * rng.normal(size=(n, width)) for width in widths)
    return (x * np.linspace(0.5, 3, widths[0]) + 3).astype(np.float32), (y - 1).astype(np.float32)


def pairs(n: int, noise: float = 0.5, seed: int = 0) -> tuple[FeaturePairs, FeaturePairs]:
    x, y = related(n, noise, seed)
    both = FeaturePairs.from_arrays(x, y)
    return both.subset(np.arange(n * 3 // 4)), both.subset(np.arange(n * 3 // 4, n))


# --- CKA --------------------------------------------------------------------------------------------------------


def centred(kernel: np.ndarray, unbiased: bool) -> np.ndarray:
    """The n × n matrix of the papers: doubly centred, or U-centred with a zero diagonal."""
    n = len(kernel)
    if not unbiased:
        h = np.eye(n) - 1 / n
        return h @ kernel @ h
    kernel = kernel - np.diag(np.diag(kernel))
    r = kernel.sum(axis=1)
    out = kernel - (r[:, None] + r) / (n - 2) + r.sum() / ((n - 1) * (n - 2))
    return out - np.diag(np.diag(out))


def naive_cka(k: np.ndarray, l: np.ndarray, unbiased: bool) -> float:  # noqa: E741
    a, b = centred(k, unbiased), centred(l, unbiased)
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def gram(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) @ x.T.astype(np.float64)


def gaussian(x: np.ndarray, bandwidth: float) -> np.ndarray:
    distances = ((x[:, None].astype(np.float64) - x) ** 2).sum(axis=-1)
    return np.exp(-distances / (2 * bandwidth))


@pytest.mark.parametrize("unbiased", [False, True])
def test_streamed_linear_cka_is_that_of_the_gram_matrices(unbiased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = related(150)
    expected = naive_cka(gram(x), gram(y), unbiased)
    monkeypatch.setattr(C, "TILE_ROWS", 37)
    assert C.linear_cka(x, y, unbiased=unbiased) == pytest.approx(expected, abs=1e-10)
    assert C.cka(C.LinearKernel(x), C.LinearKernel(y), unbiased=unbiased) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("kind", ["linear", "rbf"])
def test_contributions_are_the_rows_of_the_centred_product(unbiased: bool, kind: str) -> None:
    x, y = related(80)
    a, b = (C.LinearKernel(x), C.LinearKernel(y)) if kind == "linear" else (C.RBFKernel(x, 30.0), C.RBFKernel(y, 9.0))
    k, l = (gram(x), gram(y)) if kind == "linear" else (gaussian(x, 30.0), gaussian(y, 9.0))  # noqa: E741
    expected = (centred(k, unbiased) * centred(l, unbiased)).sum(axis=1) / (len(x) - 3 * unbiased)
    np.testing.assert_allclose(
        C.contributions(a, b, unbiased=unbiased), expected, rtol=1e-5, atol=1e-7 * abs(expected).max()
    )


def test_unbiased_hsic_is_the_textbook_estimator() -> None:
    x, y = related(60)
    k, l = (kernel - np.diag(np.diag(kernel)) for kernel in (gram(x), gram(y)))  # noqa: E741
    n, one = 60, np.ones(60)
    expected = (
        np.trace(k @ l) + one @ k @ one * (one @ l @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ l @ one)
    ) / (n * (n - 3))
    assert C.contributions(C.LinearKernel(x), C.LinearKernel(y)).mean() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("unbiased", [False, True])
def test_tiled_rbf_cka_is_that_of_the_kernel_matrices(unbiased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = related(120)
    monkeypatch.setattr(C, "TILE_CELLS", 1000)
    bandwidths = []
    for side in (x, y):
        squared = ((side[:, None].astype(np.float64) - side) ** 2).sum(axis=-1)
        bandwidths.append(np.median(squared[squared > 0]))
    expected = naive_cka(gaussian(x, bandwidths[0]), gaussian(y, bandwidths[1]), unbiased)
    assert C.rbf_cka(x, y, unbiased=unbiased) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("n", "biased", "spread"), [(500, 0.64, 0.01), (5000, 0.15, 0.005)])
def test_independent_gaussians_score_what_their_widths_say(n: int, biased: float, spread: float) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((n, width), dtype=np.float32) for width in (1024, 768))
    found = C.linear_cka(x, y, unbiased=False)
    assert found == pytest.approx(biased, abs=spread)
    assert found == pytest.approx(C.gaussian_floor(n, 1024, 768), abs=2e-3)
    assert abs(C.linear_cka(x, y)) < 5 * C.null_deviation(n)


class Endless:
    """Features made when they are read: what is held in memory is what the score itself holds."""

    def __init__(self, n: int, width: int) -> None:
        self.shape = (n, width)

    def gather(self, index: np.ndarray) -> np.ndarray:
        return np.random.default_rng(int(index[0])).standard_normal((len(index), self.shape[1]), dtype=np.float32)


def test_memory_of_linear_cka_does_not_grow_with_n() -> None:
    def peak(n: int) -> int:
        tracemalloc.start()
        C.linear_cka(Endless(n, 24), Endless(n, 16))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(C.TILE_ROWS)
    assert peak(40 * C.TILE_ROWS) < 1.2 * peak(2 * C.TILE_ROWS)


def test_cka_ignores_shift_scale_and_rotation_and_finds_itself() -> None:
    x, y = related(200)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(20, 20)))[0]
    assert C.linear_cka(x, x) == pytest.approx(1)
    assert C.linear_cka(7 * x @ rotation + 5, y) == pytest.approx(C.linear_cka(x, y), abs=1e-5)


def test_permutations_give_the_null_that_the_formulas_say() -> None:
    x, y = related(60)
    a, b = C.LinearKernel(x), C.LinearKernel(y)
    null = permutation_null(lambda order: C.linear_cka(x, y[order]), 60, 2000)
    assert null["mean"] == pytest.approx(0, abs=4 * C.null_deviation(60) / 2000**0.5)
    assert null["sd"] == pytest.approx(C.null_deviation(60), rel=0.15)
    biased = permutation_null(lambda order: C.linear_cka(x, y[order], unbiased=False), 60, 500)
    assert biased["mean"] == pytest.approx(C.null_mean(a, b, unbiased=False), abs=4 * biased["sd"] / 500**0.5)


@pytest.mark.parametrize("score", [C.linear_cka, C.rbf_cka])
def test_features_that_cannot_be_compared_are_refused(score: Callable[..., float]) -> None:
    x, y = related(50)
    with pytest.raises(InputError, match="constant"):
        score(np.full_like(x, 0.1), y)
    with pytest.raises(InputError, match="constant"):
        score(x, np.zeros_like(y))
    with pytest.raises(InputError, match="50 rows and y 49"):
        score(x, y[:-1])
    with pytest.raises(InputError, match="too few"):
        score(x[:3], y[:3])


# --- neighbours -------------------------------------------------------------------------------------------------


def naive_neighbors(x: np.ndarray, k: int) -> list[set[int]]:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return [set(np.argsort(-row)[:k].tolist()) for row in cosines]


def test_mutual_knn_is_the_naive_one() -> None:
    x, y = related(90)
    both = zip(naive_neighbors(x, 7), naive_neighbors(y, 7), strict=True)
    assert mutual_knn(x, y, 7) == pytest.approx(np.mean([len(a & b) / 7 for a, b in both]))


def test_an_item_is_not_its_own_neighbour_even_among_many_copies() -> None:
    x = np.repeat(related(5)[0], 8, axis=0)
    found = neighbors(x, 3)
    assert (found != np.arange(40)[:, None]).all()
    assert (found // 8 == np.arange(40)[:, None] // 8).all()


def test_permuted_neighbours_are_those_of_the_permuted_features() -> None:
    x = related(40)[0]
    order = np.random.default_rng(3).permutation(40)
    np.testing.assert_array_equal(np.sort(permuted(neighbors(x, 5), order)), np.sort(neighbors(x[order], 5)))


def test_unrelated_features_share_neighbours_as_chance_says() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 400, 12))
    k = rice(400)
    assert k == 15
    assert mutual_knn(x, y) == pytest.approx(k / 399, abs=0.006)
    null = permutation_null(lambda order: overlap(neighbors(x, k), permuted(neighbors(x, k), order)).mean(), 400)
    assert null["mean"] == pytest.approx(k / 399, abs=4 * null["sd"] / 20**0.5)


@pytest.mark.parametrize("k", [0, 50])
def test_more_neighbours_than_items_are_refused(k: int) -> None:
    x, y = related(50)
    with pytest.raises(UsageError, match="1 to 49"):
        mutual_knn(x, y, k)


# --- held-out retrieval ----------------------------------------------------------------------------------------


def test_asif_finds_partners_by_what_they_resemble() -> None:
    train, val = pairs(400, noise=0.3)
    found = asif(train, val)
    assert np.mean([hit.mean() for hit in found.hits(10)]) > 3 * chance_recall(found, 10)


def test_relative_representations_keep_the_greatest_similarities() -> None:
    x = related(30)[0]
    found = relative(x[:4], x, keep=5, power=2)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = unit[:4] @ unit.T
    expected = np.where(cosines >= np.sort(cosines)[:, -5, None], cosines, 0) ** 2
    np.testing.assert_allclose(found / found.max(axis=1, keepdims=True), expected, atol=1e-5)


def test_closed_forms_and_probe_rank_pairs_by_how_much_they_share() -> None:
    recall = {}
    for noise in (0.3, 3.0):
        train, val = pairs(400, noise)
        found = ClosedForms().ranks(train, val, "x", "y")
        assert set(found) == {"cca", "ridge", "procrustes"}
        for name, one in {**found, "probe": probe(train, val, seeds=[0])[0]}.items():
            recall[name, noise] = np.mean([hit.mean() for hit in one.hits(10)])
    assert all(recall[name, 0.3] > recall[name, 3.0] + 0.1 for name in ("cca", "ridge", "procrustes", "probe"))


def test_remembered_spectra_change_nothing() -> None:
    train, val = pairs(200)
    forms = ClosedForms()
    first, second = forms.ranks(train, val, "x", "y"), forms.ranks(train, val, "x", "y")
    fresh = ClosedForms().ranks(train, val, "x", "y")
    for kind in first:
        np.testing.assert_array_equal(first[kind].text, fresh[kind].text)
        np.testing.assert_array_equal(second[kind].image, fresh[kind].image)


def test_probes_of_two_seeds_differ_and_of_one_seed_agree() -> None:
    train, val = pairs(300)
    a, b, again = probe(train, val, seeds=[0, 1, 0])
    assert (a.text != b.text).any() and (a.text == again.text).all()


def test_chance_recall_is_what_random_embeddings_reach() -> None:
    rng = np.random.default_rng(0)
    image_of = np.repeat(np.arange(40), 3)
    found = [ranks(rng.normal(size=(40, 8)), rng.normal(size=(120, 8)), image_of) for _ in range(60)]
    mean = np.mean([np.mean([hit.mean() for hit in one.hits(10)]) for one in found])
    assert chance_recall(found[0], 10) == pytest.approx(mean, abs=0.01)


# --- intervals --------------------------------------------------------------------------------------------------


def test_intervals_cover_the_value_that_more_data_give() -> None:
    rng = np.random.default_rng(0)
    mix_x, mix_y = rng.normal(size=(6, 12)), rng.normal(size=(6, 10))

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        shared = rng.normal(size=(n, 6))
        return shared @ mix_x + 2 * rng.normal(size=(n, 12)), shared @ mix_y + 2 * rng.normal(size=(n, 10))

    truth = C.linear_cka(*draw(200_000))
    inside = 0
    for trial in range(100):
        a, b = (C.LinearKernel(side) for side in draw(250))
        value, influence = C.cka_influence(a, b)
        low, high = ci95(value + Draws(np.arange(250), 200, trial).means(influence)) or (0, 0)
        inside += low <= truth <= high
    assert 86 <= inside <= 100  # of 95 expected


def test_groups_of_copies_widen_the_interval() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=40), 10)
    spread = [np.ptp(ci95(Draws(groups, 400).means(values))) for groups in (np.arange(400), np.arange(400) // 10)]
    assert spread[1] > 2.5 * spread[0]


def test_draws_are_weighted_means() -> None:
    groups = np.array(["a", "b", "b", "c"])
    draws, values = Draws(groups, 50, 1), np.array([1.0, 2.0, 4.0, 8.0])
    unit = np.array([0, 1, 1, 2])
    expected = [np.average(values, weights=weights[unit]) for weights in draws.weights]
    np.testing.assert_allclose(draws.means(values), expected, rtol=1e-6)


def test_recall_of_several_seeds_is_their_mean_and_its_interval_is_wider_than_one_seeds() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(200, 4))
    noisy = [shared + scale * rng.normal(size=(200, 4)) for scale in (0.5, 3.0)]
    found = [ranks(one, shared, np.arange(200)) for one in noisy]
    draws = Draws(np.arange(200), 300)
    single = [draws.recall([one], 10) for one in found]
    value, replicates = draws.recall(found, 10)
    assert value == pytest.approx(np.mean([one for one, _ in single]))
    assert replicates.std() > 2 * max(one.std() for _, one in single)


def test_one_group_has_no_interval() -> None:
    assert ci95(Draws(np.zeros(5), 100).means(np.arange(5.0))) is None


# --- one encoder ------------------------------------------------------------------------------------------------


def test_knn_votes_with_the_published_weights() -> None:
    train = np.array([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6], [0.0, 1.0]])
    labels = np.array(["a", "b", "b", "b"])
    near_a = np.array([[1.0, 0.0]])  # cosines 1, .8, .8, 0: e^(1/.07) against 2 e^(.8/.07), as 17.4 to 2
    for temperature, expected in ((0.07, "a"), (1.0, "b")):
        found = knn_correct(train, labels, near_a, np.array([expected]), ks=[3], temperature=temperature)
        assert found[3].tolist() == [True]


def test_knn_with_flat_weights_is_scikit_learns() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(120, 6)), rng.normal(size=(40, 6))
    labels, truth = rng.integers(0, 3, 120), rng.integers(0, 3, 40)

    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / 0.07)

    model = KNeighborsClassifier(10, weights=weights, metric="cosine", algorithm="brute").fit(x, labels)
    np.testing.assert_array_equal(knn_correct(x, labels, y, truth, ks=[10])[10], model.predict(y) == truth)


def test_knn_refuses_more_neighbours_than_items() -> None:
    x = np.eye(4)
    with pytest.raises(UsageError, match="4 labelled"):
        knn_correct(x, np.arange(4), x, np.arange(4))


def test_linear_probe_learns_what_is_linear_and_nothing_from_noise() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 8)), rng.normal(size=(200, 8))
    labels, truth = (np.where(side[:, 0] + side[:, 1] > 0, "p", "q") for side in (x, y))
    assert linear_probe_correct(x, labels, y, truth).mean() > 0.9
    assert abs(linear_probe_correct(x, rng.permutation(labels), y, truth).mean() - 0.5) < 0.15


def test_an_outlier_widens_the_interval_of_cka_and_does_not_break_it() -> None:
    x, y = related(200)
    x[7] *= 40
    value, influence = C.cka_influence(C.LinearKernel(x), C.LinearKernel(y))
    assert influence.mean() == pytest.approx(0, abs=1e-9)
    low, high = ci95(value + Draws(np.arange(200), 500).means(influence)) or (0, 0)
    assert -1 < low < value < high < 2
