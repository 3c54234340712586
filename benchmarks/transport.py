"""SOTAlign's divergence of a student from a teacher, by transport plans, for `unpaired_study.py`.

Roschmann et al., ICML 2026, arXiv 2602.23353. Both see n pictures and m texts of which nobody knows the pairs. Each
has a plan: the joint distribution P [n, m] with uniform marginals that is greatest in Σ P·similarity + ε·entropy(P).
The loss is KL(P* ‖ P), P* of the teacher. Written as a dual it has the gradient (P − P*) / ε in the student's
similarities: no step of Sinkhorn is differentiated.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ITERATIONS = 100
TOLERANCE = 1e-4  # of the rows' marginals, all deviations together; columns are exact
WIDEST = 600.0  # range of similarities / ε up to which exponentials stay within fp64


def divergence(x: Tensor, y: Tensor, target: Tensor, epsilon: float) -> Tensor:
    """KL(target ‖ plan of x and y), 0-d.

    x [n, d], y [m, d]: unit rows of the student. target [n, m]: the teacher's `plan`. The gradient is exact where
    Sinkhorn has converged.
    """
    return _Divergence.apply(x, y, target, epsilon)


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, target: Tensor, epsilon: float) -> Tensor:
        found = plan(x, y, epsilon)
        ctx.save_for_backward(x, y, ((found - target) / epsilon).to(x.dtype))
        return torch.special.xlogy(target, target / found).sum().to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, slope = ctx.saved_tensors
        return grad * (slope @ y), grad * (slope.T @ x), None, None


@torch.no_grad()
def plan(x: Tensor, y: Tensor, epsilon: float, iterations: int = ITERATIONS) -> Tensor:
    """The plan [n, m] of unit rows x and y, fp64, by Sinkhorn's scaling (Cuturi 2013).

    In fp64 the scaling needs no logarithms, and an iteration is two products of a matrix with a vector. Raises
    `ValueError` for an ε so small that numbers would leave fp64's range.
    """
    similarity = x.double() @ y.double().T
    similarity -= similarity.max()
    if -similarity.min() > WIDEST * epsilon:
        raise ValueError(f"epsilon = {epsilon:g} is below {-similarity.min() / WIDEST:.2g}: use `naive_plan`.")
    kernel = similarity.div_(epsilon).exp_()
    n, m = kernel.shape
    v = kernel.new_ones(m)
    for _ in range(iterations):
        sums = kernel @ v
        u = 1 / (n * sums)
        v = 1 / (m * (u @ kernel))
        if (u * (kernel @ v) - 1 / n).abs().sum() < TOLERANCE:
            break
    return kernel.mul_(u[:, None]).mul_(v)


def naive_divergence(similarity: Tensor, target: Tensor, epsilon: float, iterations: int = ITERATIONS) -> Tensor:
    """`divergence` by definition, through which autograd goes step by step."""
    logs = naive_plan(similarity, epsilon, iterations)
    return (torch.special.xlogy(target, target) - target * logs).sum()


def naive_plan(similarity: Tensor, epsilon: float, iterations: int = ITERATIONS) -> Tensor:
    """The logarithm of the plan of a matrix of similarities, all iterations in logarithms."""
    n, m = similarity.shape
    z = similarity / epsilon
    g = z.new_zeros(m)
    for _ in range(iterations):
        f = -math.log(n) - torch.logsumexp(z + g, dim=1)
        g = -math.log(m) - torch.logsumexp(z + f[:, None], dim=0)
    return z + f[:, None] + g
