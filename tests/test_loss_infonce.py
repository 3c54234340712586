"""InfoNCE: its values and gradients against the dense twin, open_clip and hand-computed cases."""

from __future__ import annotations

import functools
import math
from importlib import import_module

import pytest
import torch

from isthmus.errors import InputError, UsageError
from isthmus.losses import infonce, naive, sigmoid
from losses_cases import group_cases, on_grid, relative_error, saturated, unit, with_gradients
from oracles import open_clip_loss

CASES = group_cases()


def batch_of(name: str, dtype=torch.float64):
    groups = CASES[name]
    return unit(23, 12, 1, dtype), unit(23 if groups is None else len(groups[1]), 12, 2, dtype), groups


@pytest.mark.parametrize("tile", [1, 5, 8, 23, 1024])
@pytest.mark.parametrize("name", CASES)
def test_equals_the_dense_twin_in_fp64(name, tile):
    x, y, groups = batch_of(name)
    got = with_gradients(functools.partial(infonce, groups=groups, tile=tile), x, y, 7.0)
    want = with_gradients(functools.partial(naive.infonce, groups=groups), x, y, 7.0)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1.0, 14.0, 100.0])
@pytest.mark.parametrize("name", CASES)
def test_fp32_stays_near_the_dense_twin_in_fp64(name, scale):
    x, y, groups = batch_of(name, torch.float32)
    got = with_gradients(functools.partial(infonce, groups=groups, tile=8), x, y, scale)
    want = with_gradients(functools.partial(naive.infonce, groups=groups), x.double(), y.double(), scale)
    assert max(relative_error(a, b) for a, b in zip(got, want, strict=True)) < 2e-5


@pytest.mark.parametrize("scale", [5.0, 1000.0])  # exp(1000) is beyond fp64
@pytest.mark.parametrize("name", ["one to one", "few groups", "partly without partner"])
def test_gradients_are_those_of_finite_differences(name, scale):
    x, y, groups = batch_of(name)
    leaves = x[:, :2].clone(), y[:, :2].clone(), torch.tensor(scale, dtype=torch.float64)
    torch.autograd.gradcheck(
        lambda *a: infonce(*a, groups=groups, tile=6),
        [t.requires_grad_() for t in leaves],
        eps=1e-7,
        atol=1e-4,
    )


@pytest.mark.parametrize("name", CASES)
def test_positives_that_are_too_many_to_keep_are_computed_again(monkeypatch, name):
    monkeypatch.setattr(import_module("isthmus.losses.infonce"), "KEPT", 3)  # the name is the function's, too
    test_equals_the_dense_twin_in_fp64(name, 5)


@pytest.mark.parametrize("name", CASES)
def test_tiles_need_not_be_square(monkeypatch, name):
    for kind in ("TILE", "CROWDED"):
        monkeypatch.setattr(f"isthmus.losses.tiles.{kind}", (8, 5))
    test_equals_the_dense_twin_in_fp64(name, None)


@pytest.mark.parametrize("wanted", ["x", "y", "scale"])
def test_one_gradient_alone_is_what_it_is_among_the_others(wanted):
    x, y, groups = batch_of("few groups")
    _, *gradients = with_gradients(functools.partial(infonce, groups=groups), x, y, 7.0)
    want = dict(zip(("x", "y", "scale"), gradients, strict=True))
    leaves = {"x": x, "y": y, "scale": torch.tensor(7.0, dtype=torch.float64)}
    leaves[wanted] = leaves[wanted].clone().requires_grad_()
    infonce(*leaves.values(), groups=groups, tile=8).backward()
    torch.testing.assert_close(leaves[wanted].grad, want[wanted])


def test_two_pairs_by_hand():
    x = y = torch.eye(2, dtype=torch.float64)
    assert infonce(x, y, 3.0).item() == pytest.approx(math.log(1 + math.exp(-3)))


def test_two_captions_by_hand():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    y = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    groups = torch.tensor([0, 1]), torch.tensor([0, 0, 1])  # the second caption of image 0 looks like image 1
    e = math.e
    first = (math.log((e + 1) / e) + math.log((1 + 1) / 1)) / 2
    second = math.log((e + 1 + e) / e)
    columns = (math.log((e + 1) / e) + math.log((1 + e) / 1) + math.log((e + 1) / e)) / 3
    assert infonce(x, y, 1.0, groups=groups).item() == pytest.approx(((first + second) / 2 + columns) / 2)


def test_a_row_without_partner_is_only_a_negative():
    x, y = unit(4, 6, 3), unit(3, 6, 4)
    groups = torch.tensor([0, 1, 2, 9]), torch.arange(3)
    rows = naive.direction(5 * x[:3] @ y.T, torch.eye(3) > 0)
    columns = naive.direction(5 * y @ x.T, torch.eye(4)[:3] > 0)
    assert infonce(x, y, 5.0, groups=groups).item() == pytest.approx(float(rows + columns) / 2)


@pytest.mark.parametrize("n", [1, 3])
def test_without_negatives_loss_and_gradients_are_zero(n):
    groups = torch.zeros(n), torch.zeros(n)
    for value in with_gradients(functools.partial(infonce, groups=groups), unit(n, 4, 0), unit(n, 4, 1), 100.0):
        assert torch.equal(value, torch.zeros_like(value))


def test_a_joint_permutation_changes_nothing():
    x, y, groups = batch_of("few groups")
    p, q = torch.randperm(len(x)), torch.randperm(len(y))
    one = with_gradients(functools.partial(infonce, groups=groups, tile=4), x, y, 9.0)
    two = with_gradients(functools.partial(infonce, groups=(groups[0][p], groups[1][q]), tile=4), x[p], y[q], 9.0)
    one[1], one[2] = one[1][p], one[2][q]
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("scale", [10.0, 100.0])
def test_open_clip_gives_the_same_loss_and_gradients(scale):
    x, y = saturated(60, 16, 5, spread=1.0, pair=0.5)
    got = with_gradients(functools.partial(infonce, tile=16), x, y, scale)
    want = with_gradients(open_clip_loss().ClipLoss(), x, y, scale)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("distinct", [256, 128], ids=["one to one", "duplicates"])
@pytest.mark.parametrize(
    ("clusters", "pair", "scale", "bound"),
    [(256, 0.001, 64.0, 1e-5), (8, 0.002, 128.0, 1e-4)],
    ids=["saturated", "clustered"],
)
def test_gradients_keep_their_digits_on_late_batches(clusters, pair, scale, bound, distinct):
    # The logits are exact, so that only the losses' own sums round, in units of u = 6e-8.
    # Saturated: fp32 cannot tell p from 1, and p − 1 has no digit left (relative error 1.5 in open_clip). Formed from
    # the negatives, it has those of about 100 roundings of either sign.
    # Clustered: push and pull of 1 each leave 1/2,700 for the scale. Errors of u a row, in 256 rows, are u/16 of their
    # mean: 1e-5 of what is left. Log-sum-exps near 128 that were rounded to fp32 would show (1e-3).
    ids = torch.arange(256) % distinct
    x, y = (on_grid(t[ids]) for t in saturated(256, 16, 7, clusters=clusters, pair=pair))
    got = with_gradients(functools.partial(infonce, groups=(ids, ids), tile=64), x.float(), y.float(), scale)
    want = with_gradients(functools.partial(naive.infonce, groups=(ids, ids)), x, y, scale)
    assert max(relative_error(a, b) for a, b in zip(got, want, strict=True)) < bound


def test_rows_far_below_the_greatest_logit_do_not_underflow():
    # One fixed shift of 100 would give exp(−200) = 0 in fp32: rows without a sum, a loss of −infinity.
    x, y = unit(40, 8, 8, torch.float32), unit(40, 8, 9, torch.float32)
    y[1:] = -x[:1]
    got = with_gradients(functools.partial(infonce, tile=16), x, y, 100.0)
    want = with_gradients(naive.infonce, x.double(), y.double(), 100.0)
    assert max(relative_error(a, b) for a, b in zip(got, want, strict=True)) < 2e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_multiplies_in_half_and_sums_in_full(dtype):
    x, y = unit(300, 64, 10), unit(300, 64, 11)
    half = with_gradients(functools.partial(infonce, tile=128), x.to(dtype), y.to(dtype), 20.0)
    full = with_gradients(naive.infonce, x.to(dtype).double(), y.to(dtype).double(), 20.0)
    assert infonce(x.to(dtype), y.to(dtype), 20.0).dtype == torch.float32
    assert max(relative_error(a, b) for a, b in zip(half, full, strict=True)) < 0.03


@pytest.mark.parametrize(("loss", "scalars"), [(infonce, (20.0,)), (infonce, (100.0,)), (sigmoid, (20.0, -5.0))])
def test_under_autocast_fp32_multiplies_in_bf16_and_gradients_stay_fp32(loss, scalars):
    x, y = unit(300, 64, 10, torch.float32), unit(300, 64, 11, torch.float32)
    full = with_gradients(loss, x.double(), y.double(), *scalars)
    leaves = [t.clone().requires_grad_() for t in (x, y)]
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(*leaves, *scalars)
    value.backward()
    assert value.dtype == leaves[0].grad.dtype == torch.float32
    assert 1e-5 < relative_error(leaves[0].grad, full[1]) < 0.03  # that it is not 0 shows bf16 at work
    assert relative_error(leaves[1].grad, full[2]) < 0.03
    assert float(value.detach()) == pytest.approx(float(full[0]), rel=3e-3)


def test_fp16_gradients_of_a_big_batch_do_not_underflow():
    # Divided by N before the product, most probabilities of 4,096 pairs would be below fp16's least number.
    x, y = unit(4096, 16, 12), unit(4096, 16, 13)
    half = with_gradients(infonce, x.half(), y.half(), 5.0)
    full = with_gradients(infonce, x.half().float(), y.half().float(), 5.0)
    assert max(relative_error(a, b) for a, b in zip(half, full, strict=True)) < 0.01


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_number_shows_in_the_loss(value):
    x, y = unit(5, 4, 0), unit(5, 4, 1)
    x[2, 1] = value
    assert math.isnan(infonce(x, y, 10.0))


def test_float_and_tensor_scale_agree_and_unneeded_gradients_are_absent():
    x, y = unit(5, 4, 0), unit(5, 4, 1)
    x.requires_grad_()
    assert infonce(x, y, 4.0).item() == infonce(x, y, torch.tensor(4.0)).item()
    infonce(x, y, 4.0).backward()
    assert x.grad is not None and y.grad is None
    with torch.no_grad():
        assert not infonce(x, y, 4.0).requires_grad


@pytest.mark.parametrize(
    ("x", "y", "groups", "message"),
    [
        (unit(3, 4, 0), unit(4, 4, 0), None, "3 rows of x and 4 of y"),
        (unit(3, 4, 0), unit(3, 5, 0), None, r"\[3, 4\] and \[3, 5\]"),
        (unit(0, 4, 0), unit(0, 4, 0), None, r"\[0, 4\]"),
        (unit(3, 4, 0), unit(3, 4, 0).float(), None, "float64 and torch.float32"),
        (unit(3, 4, 0), unit(3, 4, 0), (torch.arange(2), torch.arange(3)), "groups of shape"),
        (unit(3, 4, 0), unit(3, 4, 0), (torch.arange(3), torch.arange(3, 6)), "there are no positives"),
    ],
)
def test_arguments_that_do_not_fit_are_named(x, y, groups, message):
    with pytest.raises(InputError, match=message):
        infonce(x, y, 1.0, groups=groups)


@pytest.mark.parametrize("tile", [0, -3])
def test_a_tile_without_rows_is_refused(tile):
    with pytest.raises(UsageError, match=f"tile = {tile}"):
        infonce(unit(3, 4, 0), unit(3, 4, 1), 1.0, tile=tile)
