"""The learned scale and the sigmoid's first bias."""

from __future__ import annotations

import math

import pytest
import torch

from isthmus.errors import UsageError
from isthmus.losses import Scale, initial_bias, sigmoid
from losses_cases import unit


def test_scale_starts_where_told_and_learns_its_logarithm():
    scale = Scale(20.0)
    scale().backward()
    assert scale().item() == pytest.approx(20.0)
    assert scale.log_scale.grad.item() == pytest.approx(20.0)  # d exp(s) / ds


def test_scale_stays_within_its_bounds_and_can_come_back():
    scale = Scale(99.0, max=100.0)
    optimizer = torch.optim.SGD(scale.parameters(), lr=0.01)
    (-scale()).backward()
    optimizer.step()
    assert scale().item() == pytest.approx(100.0)
    optimizer.zero_grad()
    scale().backward()
    optimizer.step()
    assert scale().item() < 99.0


def test_a_fixed_scale_has_no_gradient():
    assert not Scale(learn=False).log_scale.requires_grad


@pytest.mark.parametrize("init", [0.5, 101.0, float("nan")])
def test_a_scale_outside_its_bounds_is_refused(init):
    with pytest.raises(UsageError, match="bounds"):
        Scale(init)


def test_initial_bias_balances_positives_and_negatives():
    x, y = unit(200, 64, 0), unit(200, 64, 1).requires_grad_()
    bias = torch.tensor(initial_bias(200), dtype=torch.float64, requires_grad=True)
    sigmoid(x, y, 1e-6, bias).backward()
    assert abs(bias.grad.item()) < 0.01  # −10 gives −1: only positives count; 0 gives +99: only negatives do


def test_initial_bias_is_sails_at_its_batch_and_follows_a_common_direction():
    assert initial_bias(32_768) == pytest.approx(-10.4, abs=0.01)
    assert initial_bias(1) == 0.0
    assert initial_bias(100, scale=20.0, cosine=0.5) == pytest.approx(-math.log(99) - 10)
