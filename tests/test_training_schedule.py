"""Learning rate, order of samples and Lion: hand-computed values, invariants, and a naive loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from isthmus.training.optimizers import Lion, build_optimizer, learning_rate, warmup_steps
from isthmus.training.order import batch_slices, block_order, epoch_order, step_seed
from isthmus.training.recipe import OptimOptions


def test_warmup_then_cosine_by_hand():
    optim = OptimOptions(lr=1.0, min_lr=0.2, warmup=2, warmup_lr=0.5)
    rates = [learning_rate(step, 6, optim) for step in range(6)]
    # warm-up: 0.75, 1.0; cosine over 4 steps: 0.2 + 0.8 · (1 + cos(πk/4)) / 2 for k = 0 … 3
    root = math.sqrt(0.5)
    expected = [0.75, 1.0, 1.0, 0.2 + 0.4 * (1 + root), 0.6, 0.2 + 0.4 * (1 - root)]
    assert rates == pytest.approx(expected)


def test_constant_schedule_and_no_warmup():
    optim = OptimOptions(lr=0.3, schedule="constant")
    assert [learning_rate(step, 3, optim) for step in range(3)] == [0.3, 0.3, 0.3]


@pytest.mark.parametrize(("warmup", "steps", "expected"), [(0.1, 50, 5), (99, 50, 50), (7, 50, 7), (0, 50, 0)])
def test_warmup_is_a_share_below_one_and_a_count_from_one_on(warmup, steps, expected):
    optim = OptimOptions(warmup=warmup)
    assert warmup_steps(optim, steps) == expected
    assert all(0 <= learning_rate(step, steps, optim) <= optim.lr for step in range(steps))


def test_order_is_a_permutation_that_depends_on_seed_and_epoch_alone():
    first = epoch_order(1000, seed=1, epoch=0)
    np.random.default_rng(0).random(17)  # someone else draws numbers in between
    np.testing.assert_array_equal(first, epoch_order(1000, seed=1, epoch=0))
    np.testing.assert_array_equal(np.sort(first), np.arange(1000))
    for other in (epoch_order(1000, seed=1, epoch=1), epoch_order(1000, seed=2, epoch=0)):
        np.testing.assert_array_equal(np.sort(other), np.arange(1000))
        assert (other == first).mean() < 0.02
    assert (epoch_order(1000, seed=0, epoch=1) != first).any()  # (seed, epoch), not their sum


@pytest.mark.parametrize(
    ("pairs", "batch", "sizes"),
    [(10, 5, [5, 5]), (12, 5, [5, 5, 2]), (11, 5, [5, 6]), (3, 5, [3]), (6, 5, [6]), (1, 5, [1])],
)
def test_batches_cover_all_pairs_and_leave_no_pair_alone(pairs, batch, sizes):
    slices = batch_slices(pairs, batch)
    assert [part.stop - part.start for part in slices] == sizes
    assert np.concatenate([np.arange(pairs)[part] for part in slices]).tolist() == list(range(pairs))


def test_step_seeds_are_distinct():
    assert len({step_seed(seed, step) for seed in range(30) for step in range(30)}) == 900


def test_lion_matches_the_papers_algorithm():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    grads = torch.randn(20, 7, 3, generator=generator, dtype=torch.float64)
    lr, beta1, beta2, decay = 0.01, 0.9, 0.99, 0.1
    param = nn.Parameter(start.clone())
    lion = Lion([param], lr=lr, betas=(beta1, beta2), weight_decay=decay)
    weight, momentum = start.numpy().copy(), np.zeros((7, 3))
    for grad in grads:
        param.grad = grad.clone()
        lion.step()
        for index in np.ndindex(7, 3):  # entry by entry, as the paper's listing
            g = grad.numpy()[index]
            update = np.sign(beta1 * momentum[index] + (1 - beta1) * g)
            weight[index] -= lr * (update + decay * weight[index])
            momentum[index] = beta2 * momentum[index] + (1 - beta2) * g
    np.testing.assert_allclose(param.detach().numpy(), weight, rtol=1e-12)


def test_lion_leaves_gradients_alone():
    param = nn.Parameter(torch.ones(3))
    param.grad = torch.tensor([1.0, -2.0, 3.0])
    Lion([param]).step()
    assert param.grad.tolist() == [1.0, -2.0, 3.0]


def test_only_matrices_decay_unless_all_are_asked_for():
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2))

    def decays(**options):
        groups = build_optimizer(model, OptimOptions(weight_decay=0.1, **options)).param_groups
        return {id(param): group["weight_decay"] for group in groups for param in group["params"]}

    weight, others = model[1].weight, [model[0].weight, model[0].bias, model[1].bias]
    assert decays() == {id(weight): 0.1, **{id(param): 0.0 for param in others}}
    assert decays(name="lion", decay_all=True) == {id(param): 0.1 for param in [weight, *others]}


@pytest.mark.parametrize("pairs", [1, 7, 1000, 1003])
def test_blocks_are_shuffled_whole_and_pairs_among_a_few_of_them(pairs: int) -> None:
    order = block_order(pairs, seed=1, epoch=0, block=10, window=4)
    np.testing.assert_array_equal(np.sort(order), np.arange(pairs))
    np.testing.assert_array_equal(order, block_order(pairs, seed=1, epoch=0, block=10, window=4))
    for start in range(0, pairs, 40):
        assert len(np.unique(order[start : start + 40] // 10)) <= 5  # the short last block moves the edges
    if pairs == 1000:
        assert all(len(np.unique(order[start : start + 40] // 10)) == 4 for start in range(0, pairs, 40))
        assert (block_order(pairs, seed=1, epoch=1, block=10, window=4) != order).mean() > 0.9
        assert np.abs(np.diff(order)).mean() > 100 and (np.abs(np.diff(order)) == 1).mean() < 0.1
