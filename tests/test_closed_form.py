"""Closed forms against scikit-learn, scipy and data whose shared part is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import orthogonal_procrustes
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.errors import InputError, UsageError
from isthmus.losses import infonce
from isthmus.projectors import build_projector, closed_form
from isthmus.projectors.closed_form import KINDS, best_scale, choose, fit, init_from


def shared_latent(n, *, shared=6, seed=0, noise=0.5, image=24, text=16, **options):
    """Pairs whose two sides see the same `shared` latent directions, and a few each of their own."""
    fixed, random = np.random.default_rng(99), np.random.default_rng(seed)
    maps = [fixed.normal(size=(shared + 4, width)) for width in (image, text)]
    z = random.normal(size=(n, shared))
    sides = [np.hstack([z, random.normal(size=(n, 4))]) @ m for m in maps]
    x, y = (side + noise * random.normal(size=side.shape) for side in sides)
    return FeaturePairs.from_arrays(x.astype(np.float32), y.astype(np.float32), **options)


def embed(form, pairs):
    image, text = form.to_projectors()
    with torch.no_grad():
        return F.normalize(image(torch.from_numpy(pairs.image))), F.normalize(text(torch.from_numpy(pairs.text)))


def top1(form, pairs):
    image, text = embed(form, pairs)
    return float(((image @ text.T).argmax(1) == torch.arange(len(image))).float().mean())


def layer_normed(matrix):
    return F.layer_norm(torch.from_numpy(matrix), matrix.shape[1:]).double().numpy()


def outputs(form, pairs):
    x, y = layer_normed(pairs.image), layer_normed(pairs.text)
    return [side @ w.double().numpy() + b.double().numpy() for side, (w, b) in ((x, form.image), (y, form.text))]


def test_cca_without_ridge_has_the_correlations_of_scikit_learn():
    pairs = shared_latent(400, image=7, text=5, shared=2, noise=1.0)
    ours = outputs(fit("cca", pairs, width=3, ridge=0.0, power=0.0), pairs)
    # A layer-normalised row sums to zero: without its last entry it spans the same, and the peer is regular.
    x, y = (layer_normed(side)[:, :-1] for side in (pairs.image, pairs.text))
    peer = CCA(n_components=3, max_iter=20_000, tol=1e-10).fit_transform(x, y)
    for k in range(3):
        got = np.corrcoef(ours[0][:, k], ours[1][:, k])[0, 1]
        want = np.corrcoef(peer[0][:, k], peer[1][:, k])[0, 1]
        assert got == pytest.approx(want, abs=1e-4)


def test_cca_weights_directions_by_the_power_of_their_correlation():
    pairs = shared_latent(400)
    plain, weighted = (outputs(fit("cca", pairs, width=8, power=power), pairs)[0].std(0) for power in (0, 2))
    correlations = closed_form.Spectra.of(pairs).canonical(0.1)[2][:8].numpy()
    ratio = weighted / plain / correlations**2
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)


def test_ridge_has_the_coefficients_of_scikit_learn():
    pairs = shared_latent(300)
    x, y = layer_normed(pairs.image), layer_normed(pairs.text)
    variance = np.var(x, axis=0).mean()
    peer = Ridge(alpha=0.3 * variance * len(x)).fit(x, y)
    form = fit("ridge", pairs, ridge=0.3)
    image, text = outputs(form, pairs)
    # The text side is a rotation of the centred features, the image side the prediction in the same axes.
    predicted = peer.predict(x) - y.mean(0)
    ours, theirs = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (image, predicted))
    truth = (y - y.mean(0)) / np.linalg.norm(y - y.mean(0), axis=1, keepdims=True)
    text = text / np.linalg.norm(text, axis=1, keepdims=True)
    np.testing.assert_allclose(ours @ text.T, theirs @ truth.T, atol=2e-5)


def test_procrustes_is_scipys_rotation_between_principal_components():
    pairs = shared_latent(300)
    x, y = (PCA(5).fit_transform(layer_normed(side)) for side in (pairs.image, pairs.text))
    rotation, _ = orthogonal_procrustes(x, y)
    want = F.normalize(torch.from_numpy(x @ rotation)) @ F.normalize(torch.from_numpy(y)).T
    image, text = embed(fit("procrustes", pairs, width=5), pairs)
    torch.testing.assert_close((image @ text.T).double(), want, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_centred_and_of_mean_square_one(kind):
    pairs = shared_latent(300)
    for side in outputs(fit(kind, pairs, width=6), pairs):
        assert np.abs(side.mean(0)).max() < 1e-4
        assert (side**2).mean() == pytest.approx(1, rel=1e-4)


def test_new_pairs_are_found_the_better_the_more_is_shared():
    found = []
    for shared in (0, 2, 6):
        train, test = (shared_latent(n, seed=seed, shared=shared) for n, seed in ((2000, 1), (200, 2)))
        found.append([top1(fit(kind, train), test) for kind in ("cca", "ridge")])
    for chance, some, much in zip(*found, strict=True):
        assert chance < 0.05 and chance < some < much and much > 0.3


def test_moments_do_not_depend_on_how_many_rows_are_read_at_a_time(monkeypatch):
    pairs = shared_latent(150)
    whole = fit("cca", pairs, width=4)
    monkeypatch.setattr(closed_form, "ROWS", 7)
    for one, two in zip(embed(whole, pairs), embed(fit("cca", pairs, width=4), pairs), strict=True):
        torch.testing.assert_close(one.abs(), two.abs(), atol=1e-4, rtol=0)


def test_every_caption_counts_as_a_pair_of_its_image():
    pairs = shared_latent(100)
    image_of = np.arange(300) % 100
    captions = np.random.default_rng(3).normal(size=(300, 16)).astype(np.float32)
    several = FeaturePairs.from_arrays(pairs.image, captions, image_of)
    repeated = FeaturePairs.from_arrays(pairs.image[image_of], captions)
    torch.testing.assert_close(fit("ridge", several).image, fit("ridge", repeated).image)


def test_a_memory_mapped_matrix_and_several_parts_give_the_same(tmp_path):
    pairs = shared_latent(100, image_parts=[8, 16])
    np.save(tmp_path / "image.npy", pairs.image)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    form = fit("ridge", FeaturePairs.from_arrays(mapped, pairs.text, image_parts=[8, 16]))
    torch.testing.assert_close(form.image, fit("ridge", pairs).image)
    image, _ = form.to_projectors()
    x = torch.from_numpy(pairs.image)
    want = torch.cat([F.layer_norm(x[:, :8], [8]), F.layer_norm(x[:, 8:], [16])], 1) @ form.image[0] + form.image[1]
    torch.testing.assert_close(image(x), want, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_pairs_than_features_and_constant_features_are_no_obstacle(kind):
    image = np.random.default_rng(0).normal(size=(12, 40)).astype(np.float32)
    text = image[:, :20].copy()
    image[:, 5] = text[:, 3] = 1.0
    pairs = FeaturePairs.from_arrays(image, text)
    for ridge in (0.0, 0.1):
        form = fit(kind, pairs, ridge=ridge)
        assert all(torch.isfinite(t).all() for t in (*form.image, *form.text))
        if kind != "procrustes":
            assert top1(form, pairs) > 0.9
    flat = FeaturePairs.from_arrays(np.ones((12, 8), np.float32), text)
    assert all(torch.isfinite(t).all() for t in fit(kind, flat).image)


def test_too_few_pairs_are_refused_with_the_minimum():
    with pytest.raises(InputError, match=r"9 pairs are too few .* at least 10"):
        fit("cca", shared_latent(9))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("ccaa", {}, "Did you mean 'cca'"),
        ("cca", {"width": 17}, "1 to 16, not 17"),
        ("ridge", {"width": 0}, "1 to 16, not 0"),
        ("cca", {"ridge": -1.0}, "not negative"),
    ],
)
def test_wrong_settings_are_usage_errors(kind, options, message):
    with pytest.raises(UsageError, match=message):
        fit(kind, shared_latent(30), **options)


@pytest.mark.parametrize("kind", KINDS)
def test_choose_is_the_best_of_its_grid_on_held_out_pairs(kind):
    train, val = shared_latent(120, noise=2.0, seed=1), shared_latent(150, noise=2.0, seed=2)
    best = choose(kind, train, val)
    assert best.score == pytest.approx(reciprocal_rank(best, val), rel=1e-3)
    rivals = [fit(kind, train, ridge=ridge, power=power) for ridge in (1e-3, 0.1, 1.0) for power in (0.5, 2.0)]
    assert best.score >= max(reciprocal_rank(rival, val) for rival in rivals) - 1e-6
    assert choose(kind, train, val, width=5).width == 5


def reciprocal_rank(form, pairs):
    image, text = embed(form, pairs)
    similarity = image @ text.T
    own = similarity.diagonal()
    ranks = [(similarity > own[:, None]).sum(1) + 1, (similarity > own).sum(0) + 1]
    return float(sum((1 / rank).mean() for rank in ranks) / 2)


def test_choose_takes_equal_captions_for_partners_and_ranks_an_image_by_its_best_caption():
    train, val = shared_latent(200, noise=2.0), shared_latent(40, noise=2.0, seed=5)
    # Each caption twice, the second time on an image of its own that looks the same.
    twice = [np.repeat(side, 2, axis=0) for side in (val.image, val.text)]
    captions = [str(row // 2) for row in range(80)]
    best = choose("ridge", train, FeaturePairs.from_arrays(*twice, captions=captions))
    image, text = embed(best, val)
    similarity = image @ text.T
    above = [(similarity > similarity.diagonal().unsqueeze(dim)).sum(dim) for dim in (1, 0)]
    assert best.score == pytest.approx(float(sum((1 / (1 + 2 * n)).mean() for n in above) / 2), rel=1e-4)


@pytest.mark.parametrize("kind", ["linear", "parallel"])
def test_a_projector_started_from_cca_computes_it_and_still_learns(kind):
    pairs = shared_latent(200, image_parts=[8, 16])
    image = build_projector(kind, [8, 16], 10, dropout=0.1)
    text = build_projector(kind, [16], 10)
    form = init_from("cca", image, text, pairs)
    want = embed(form, pairs)
    x, y = torch.from_numpy(pairs.image), torch.from_numpy(pairs.text)
    for got, expected in zip((image.eval()(x), text.eval()(y)), want, strict=True):
        torch.testing.assert_close(F.normalize(got), expected, atol=1e-5, rtol=0)
    infonce(F.normalize(image(x)), F.normalize(text(y)), 10.0).backward()
    last = [p.grad for name, p in image.named_parameters() if "down" in name or "linear" in name]
    assert last and all(grad.abs().max() > 0 for grad in last)


def test_a_projector_wider_than_the_closed_form_starts_almost_at_it():
    pairs = shared_latent(200)
    image, text = build_projector("linear", [24], 64), build_projector("linear", [16], 64)
    form = init_from("cca", image, text, pairs)
    assert form.width == 16
    got = F.normalize(image(torch.from_numpy(pairs.image))) @ F.normalize(text(torch.from_numpy(pairs.text))).T
    want = embed(form, pairs)[0] @ embed(form, pairs)[1].T
    torch.testing.assert_close(got, want, atol=5e-3, rtol=0)
    assert image.blocks[0].linear.weight[16:].abs().min() > 0


@pytest.mark.parametrize(
    ("image", "text", "message"),
    [
        (("glu", 8, "layer"), ("linear", 8, "layer"), "init = 'cca' makes no sense for 'glu'"),
        (("linear", 8, "layer"), ("parallel+residual", 8, "layer"), r"no sense for 'parallel\+residual'"),
        (("linear", 8, "none"), ("linear", 8, "layer"), "needs norm"),
        (("linear", 8, "layer"), ("linear", 9, "layer"), "8 and 9"),
    ],
)
def test_a_start_that_makes_no_sense_is_refused(image, text, message):
    heads = [build_projector(k, [n], w, norm=norm) for n, (k, w, norm) in ((24, image), (16, text))]
    with pytest.raises(UsageError, match=message):
        init_from("cca", *heads, shared_latent(50))


def test_best_scale_is_the_minimum_of_infonce():
    image, text = embed(fit("cca", shared_latent(500)), shared_latent(200, seed=4))
    grid = np.geomspace(1, 100, 500)
    least = grid[np.argmin([infonce(image, text, scale).item() for scale in grid])]
    assert best_scale(image, text) == pytest.approx(least, rel=0.02)
    assert best_scale(image, image) == pytest.approx(100, rel=0.02)
    assert best_scale(image, -image) == pytest.approx(1, rel=0.02)
