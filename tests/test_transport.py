"""The study of unpaired data: its divergence between transport plans."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import isthmus as ist
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.training import train_projectors

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from transport import divergence, naive_divergence, naive_plan, plan
from unpaired_study import Draw, Way, parsed


def rows(n: int, seed: int, width: int = 6) -> Tensor:
    made = torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(made, dim=1)


@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_plan_has_uniform_marginals_and_is_the_one_by_definition(epsilon: float) -> None:
    x, y = rows(7, 0), rows(11, 1)
    found = plan(x, y, epsilon, 800)
    assert (found.sum(1) - 1 / 7).abs().sum() < 1e-4
    assert (found.sum(0) - 1 / 11).abs().sum() < 1e-12
    torch.testing.assert_close(found, naive_plan(x @ y.T, epsilon, 800).exp(), atol=1e-4, rtol=0)


def test_value_and_gradient_are_those_of_autograd_through_a_converged_sinkhorn() -> None:
    x, y = rows(7, 0).requires_grad_(), rows(11, 1).requires_grad_()
    target = naive_plan(rows(7, 2) @ rows(11, 3).T, 0.2, 2000).exp()
    ours, naive = divergence(x, y, target, 0.3), naive_divergence(x @ y.T, target, 0.3, 2000)
    torch.testing.assert_close(ours, naive, atol=1e-4, rtol=0)
    for mine, theirs in zip(torch.autograd.grad(ours, (x, y)), torch.autograd.grad(naive, (x, y)), strict=True):
        assert theirs.abs().max() > 0.01
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3)


def test_nothing_is_lost_against_oneself_and_a_sharp_plan_of_partners_is_the_identity() -> None:
    x = rows(8, 4, width=64).requires_grad_()
    target = plan(x, x.detach(), 0.01)
    torch.testing.assert_close(target, torch.eye(8, dtype=torch.float64) / 8, atol=1e-6, rtol=0)
    loss = divergence(x, x.detach(), target, 0.01)
    assert loss.abs() < 1e-12
    assert torch.autograd.grad(loss, x)[0].abs().max() < 1e-9


def test_descent_brings_the_students_plan_to_the_teachers() -> None:
    teacher = rows(12, 5), rows(12, 6)
    target = plan(*teacher, 0.05)
    student = [rows(12, 7).requires_grad_(), rows(12, 8).requires_grad_()]
    optimizer = torch.optim.Adam(student, 0.1)
    losses = []
    for _ in range(30):
        x, y = (F.normalize(side, dim=1) for side in student)
        loss = divergence(x, y, target, 0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_too_small_an_epsilon_is_refused() -> None:
    with pytest.raises(ValueError, match="use `naive_plan`"):
        plan(rows(7, 0), rows(11, 1), 0.001)


def test_names_of_things_come_with_their_kind() -> None:
    lines = [
        "  1 a licence",
        "00000001 06 n 02 stringed_instrument 0 chordophone 0 000 | it has strings",
        "00000002 06 n 01 guitar 0 001 @ 00000001 n 0000 | it has six",
        "00000003 04 n 01 strumming 0 000 | an act, which nobody draws",
    ]
    assert parsed(lines) == ["stringed instrument, chordophone", "guitar, stringed instrument"]


def test_without_weight_the_study_trains_default_itself_and_with_one_other_heads() -> None:
    made = np.random.default_rng(0)
    image = made.normal(size=(120, 12)).astype(np.float32)
    text = (image[:, :8] + made.normal(size=(120, 8))).astype(np.float32)
    pairs = FeaturePairs.from_arrays(image, text, splits=[None] * 100 + ["test"] * 20)
    small = ["head.width=32", "optim.epochs=6"]
    draw = Draw(pairs, 60, 0, small)
    assert len(draw.unpaired(Way(1.0)).image) == 40
    assert len(draw.unpaired(Way(1.0, own=True)).image) == 60
    theirs = train_projectors(draw.train, draw.val, ist.load_recipe("default", small), seed=0)
    runs = {weight: draw.tried(Way(weight))[:2] for weight in (0.0, 1.0)}
    assert ["transport" in run.history.records[-1] for run, _ in runs.values()] == [False, True]
    heads, whole = draw.refitted(*runs[0.0])
    features = torch.from_numpy(image[-20:])
    torch.testing.assert_close(whole[0](features), theirs.image_projector(features))
    assert not torch.equal(draw.refitted(*runs[1.0])[0][0](features), heads[0](features))
