"""The sigmoid loss against the dense twin, open_clip, SAIL's mean and hand-computed cases."""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F

from isthmus.errors import UsageError
from isthmus.losses import naive, sigmoid
from losses_cases import group_cases, relative_error, saturated, unit, with_gradients
from oracles import open_clip_loss

CASES = group_cases()


def batch_of(name: str, dtype=torch.float64):
    groups = CASES[name]
    return unit(23, 12, 1, dtype), unit(23 if groups is None else len(groups[1]), 12, 2, dtype), groups


@pytest.mark.parametrize("tile", [1, 5, 23, 1024])
@pytest.mark.parametrize("normalize", ["batch", "pairs"])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_dense_twin_in_fp64(name, normalize, tile):
    x, y, groups = batch_of(name)
    options = {"groups": groups, "normalize": normalize}
    got = with_gradients(functools.partial(sigmoid, **options, tile=tile), x, y, 7.0, -3.0)
    want = with_gradients(functools.partial(naive.sigmoid, **options), x, y, 7.0, -3.0)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_tiles_need_not_be_square(monkeypatch, name):
    for kind in ("TILE", "CROWDED"):
        monkeypatch.setattr(f"isthmus.losses.tiles.{kind}", (8, 5))
    test_equals_the_dense_twin_in_fp64(name, "batch", None)


@pytest.mark.parametrize("wanted", ["x", "y", "scale", "bias"])
def test_one_gradient_alone_is_what_it_is_among_the_others(wanted):
    x, y, groups = batch_of("few groups")
    names = ("x", "y", "scale", "bias")
    _, *gradients = with_gradients(functools.partial(sigmoid, groups=groups), x, y, 7.0, -3.0)
    want = dict(zip(names, gradients, strict=True))
    leaves = dict(zip(names, (x, y, torch.tensor(7.0).double(), torch.tensor(-3.0).double()), strict=True))
    leaves[wanted] = leaves[wanted].clone().requires_grad_()
    sigmoid(*leaves.values(), groups=groups, tile=8).backward()
    torch.testing.assert_close(leaves[wanted].grad, want[wanted])


@pytest.mark.parametrize(("scale", "bias"), [(0.0, 0.0), (20.0, -10.0), (100.0, 5.0)])
@pytest.mark.parametrize("name", CASES)
def test_fp32_stays_near_the_dense_twin_in_fp64(name, scale, bias):
    x, y, groups = batch_of(name, torch.float32)
    got = with_gradients(functools.partial(sigmoid, groups=groups, tile=8), x, y, scale, bias)
    want = with_gradients(functools.partial(naive.sigmoid, groups=groups), x.double(), y.double(), scale, bias)
    assert max(relative_error(a, b) for a, b in zip(got, want, strict=True)) < 2e-5


@pytest.mark.parametrize("name", ["one to one", "few groups"])
def test_gradients_are_those_of_finite_differences(name):
    x, y, groups = batch_of(name)
    leaves = x[:, :2].clone(), y[:, :2].clone(), torch.tensor(9.0).double(), torch.tensor(-2.0).double()
    torch.autograd.gradcheck(lambda *a: sigmoid(*a, groups=groups, tile=6), [t.requires_grad_() for t in leaves])


def test_two_pairs_by_hand():
    x = torch.eye(2, dtype=torch.float64)
    positive, negative = math.log(1 + math.exp(-(3 - 1))), math.log(1 + math.exp(-1))
    assert sigmoid(x, x, 3.0, -1.0).item() == pytest.approx((2 * positive + 2 * negative) / 2)


@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (100.0, -3.0)])
def test_open_clip_gives_the_same_loss_and_gradients(scale, bias):
    x, y = saturated(60, 16, 5, spread=1.0, pair=0.5)
    got = with_gradients(functools.partial(sigmoid, tile=16), x, y, scale, bias)
    want = with_gradients(open_clip_loss().SigLipLoss(), x, y, scale, bias)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_pairs_is_sails_mean_over_all_entries_also_with_an_extra_caption():
    x, raw, extra = unit(10, 6, 0), unit(10, 6, 1), unit(10, 6, 2)
    sign = 2 * torch.eye(10).repeat(1, 2) - 1
    sail = -F.logsigmoid(sign * (20 * torch.cat([x @ raw.T, x @ extra.T], 1) - 10)).mean()
    groups = torch.arange(10), torch.arange(10).repeat(2)
    ours = sigmoid(x, torch.cat([raw, extra]), 20.0, -10.0, groups=groups, normalize="pairs")
    assert ours.item() == pytest.approx(sail.item())
    by_batch = sigmoid(x, torch.cat([raw, extra]), 20.0, -10.0, groups=groups, normalize="batch")
    assert ours.item() == pytest.approx(by_batch.item() / 20)


def test_the_gradient_scales_with_what_comes_after_the_loss():
    x, y = unit(6, 4, 0), unit(6, 4, 1)
    once = with_gradients(sigmoid, x, y, 5.0, -1.0)
    thrice = with_gradients(lambda *a: 3 * sigmoid(*a), x, y, 5.0, -1.0)
    for a, b in zip(once, thrice, strict=True):
        torch.testing.assert_close(3 * a, b)


def test_fp16_gradients_of_a_mean_over_all_entries_do_not_underflow():
    x, y = unit(2048, 16, 12), unit(2048, 16, 13)
    scaled = functools.partial(lambda *a: 2.0**16 * sigmoid(*a, normalize="pairs"))  # as a gradient scaler does
    half = with_gradients(scaled, x.half(), y.half(), 5.0, -4.0)
    full = with_gradients(scaled, x.half().float(), y.half().float(), 5.0, -4.0)
    assert max(relative_error(a, b) for a, b in zip(half, full, strict=True)) < 0.01


def test_without_gradients_none_are_formed(monkeypatch):
    monkeypatch.setattr("isthmus.losses.gradients.Gradients.add", lambda *_: pytest.fail("a wasted product"))
    x = unit(5, 4, 0)
    sigmoid(x, x, 5.0, -1.0)
    with torch.no_grad():
        sigmoid(x.clone().requires_grad_(), x, 5.0, -1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_multiplies_in_half_and_sums_in_full(dtype):
    x, y = unit(300, 64, 10), unit(300, 64, 11)
    half = with_gradients(functools.partial(sigmoid, tile=128), x.to(dtype), y.to(dtype), 20.0, -5.0)
    full = with_gradients(naive.sigmoid, x.to(dtype).double(), y.to(dtype).double(), 20.0, -5.0)
    assert max(relative_error(a, b) for a, b in zip(half, full, strict=True)) < 0.03


def test_an_unknown_normalisation_is_a_usage_error():
    with pytest.raises(UsageError, match="Did you mean 'pairs'"):
        sigmoid(unit(2, 2, 0), unit(2, 2, 0), 1.0, 0.0, normalize="pair")
