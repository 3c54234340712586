"""Batches the loss tests share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from isthmus.losses import naive


def unit(n: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """[n, d] random unit vectors."""
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def saturated(n: int, d: int, seed: int, clusters: int = 8, spread: float = 0.02, pair: float = 0.002):
    """x, y [n, d] as late in training: tight clusters, each pair nearly equal."""
    centre = unit(clusters, d, seed)[torch.arange(n) % clusters]
    x = F.normalize(centre + spread * unit(n, d, seed + 1))
    return x, F.normalize(x + pair * unit(n, d, seed + 2))


def on_grid(t: Tensor) -> Tensor:
    """`t`, entries up to 1, rounded to multiples of 2⁻¹¹.

    A product of two then has 22 bits, a sum of them up to 2 has 23, and a scale that is a power of two adds none: the
    logits are exact in fp32, in whatever order a processor adds them up.
    """
    return (t * 2**11).round() / 2**11


def sizes(name: str, x: Tensor, y: Tensor, scale: float, *bias: float) -> list[Tensor]:
    """How much is added up for what `with_gradients` gives: the sums of absolute values, of its shapes, in fp64.

    All gradients are sums over pairs of p, the gradient of a logit, times something. Where pull and push cancel, the
    sum is far smaller than this, and keeps as many digits fewer.
    """
    logits = (scale * x @ y.T).requires_grad_()
    loss = getattr(naive, name)(logits, torch.eye(len(y), dtype=logits.dtype), 1.0, *bias)
    p = torch.autograd.grad(loss, logits)[0].abs()
    ends = [(p * (x.abs() @ y.abs().T)).sum(), *[p.sum()] * len(bias)]
    return [loss.detach() + p.sum(), scale * p @ y.abs(), scale * p.T @ x.abs(), *ends]


def with_gradients(loss, x: Tensor, y: Tensor, *scalars: float) -> list[Tensor]:
    """The loss and its gradients for x, y and each of the scalars, all in fp64 at least."""
    leaves = [t.clone().requires_grad_() for t in (x, y)]
    leaves += [torch.tensor(s, dtype=torch.promote_types(x.dtype, torch.float32), requires_grad=True) for s in scalars]
    value = loss(*leaves)
    value.backward()
    return [value.detach().double(), *(leaf.grad.double() for leaf in leaves)]


def relative_error(got: Tensor, want: Tensor) -> float:
    """‖got − want‖ / ‖want‖, absolute where want is zero."""
    return float((got - want).norm() / (want.norm() if want.norm() > 0 else 1))


def group_cases() -> dict[str, tuple[Tensor, Tensor] | None]:
    """Group ids of 23 rows of x and 23 or 31 of y, by what is odd about them."""
    random = torch.Generator().manual_seed(0)
    few = torch.randint(9, (23,), generator=random), torch.randint(9, (31,), generator=random)
    return {
        "one to one": None,
        "several captions": (torch.arange(23), torch.arange(31) % 23),
        "few groups": few,
        "partly without partner": (torch.arange(23) - 12, torch.arange(31)),
        "shuffled": (torch.randperm(23, generator=random), torch.arange(23)),
        "one group": (torch.zeros(23), torch.zeros(31)),
        "one pair": (torch.arange(23), torch.arange(22, 53)),
    }
