"""Properties that hold for any data: losses, CKA, curation's choice of the best, the store."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.losses import infonce, naive, sigmoid
from isthmus.selection import cka as cka_module
from isthmus.store import import_arrays, open_store

BATCHES = st.tuples(st.integers(2, 12), st.integers(1, 9), st.integers(0, 2**32 - 1))
COMMON = settings(max_examples=40, deadline=None)


def unit(n: int, d: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Unit rows [n, d] twice, and groups some of which repeat."""
    draws = torch.Generator().manual_seed(seed)
    x, y = torch.nn.functional.normalize(torch.randn(2, n, d, generator=draws, dtype=torch.float64), dim=-1).float()
    group = torch.randint(0, n, (n,), generator=draws)
    return x, y, (group, group)


@COMMON
@given(BATCHES, st.integers(1, 5), st.floats(0.5, 100))
def test_tiles_of_any_size_give_the_naive_loss_and_gradients(shape, tile, scale) -> None:
    n, d, seed = shape
    x, y, groups = unit(n, max(d, 2), seed)
    for tiled, dense in (
        (
            lambda a, b: infonce(a, b, scale, groups=groups, tile=tile),
            lambda a, b: naive.infonce(a, b, scale, groups=groups),
        ),
        (
            lambda a, b: sigmoid(a, b, scale, -3.0, groups=groups, tile=tile),
            lambda a, b: naive.sigmoid(a, b, scale, -3.0, groups=groups),
        ),
    ):
        found, expected = gradients(tiled, x, y), gradients(dense, x.double(), y.double())
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=2e-4, atol=2e-5 * scale)


def gradients(loss, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The loss and its gradients in x and y."""
    x, y = (one.detach().requires_grad_() for one in (x, y))
    value = loss(x, y)
    return value.detach(), *torch.autograd.grad(value, (x, y))


@COMMON
@given(BATCHES, st.randoms(use_true_random=False))
def test_losses_do_not_depend_on_the_order_of_pairs(shape, random) -> None:
    n, d, seed = shape
    x, y, (group, _) = unit(n, d, seed)
    order = torch.tensor(random.sample(range(n), n))
    for loss in (lambda *rows, **g: infonce(*rows, 10.0, **g), lambda *rows, **g: sigmoid(*rows, 10.0, -3.0, **g)):
        whole = loss(x, y, groups=(group, group))
        shuffled = loss(x[order], y[order], groups=(group[order], group[order]))
        torch.testing.assert_close(whole, shuffled, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(whole, loss(y, x, groups=(group, group)), rtol=1e-5, atol=1e-6)


def features(n: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32) + 0.5


@COMMON
@given(st.integers(6, 40), st.integers(2, 8), st.integers(2, 8), st.integers(0, 2**32 - 1), st.floats(0.01, 100))
def test_cka_has_bounds_and_ignores_rotation_scale_shift_and_order(n, left, right, seed, factor) -> None:
    x, y = features(n, left, seed), features(n, right, seed + 1)
    draws = np.random.default_rng(seed)
    turn = np.linalg.qr(draws.normal(size=(left, left)))[0]
    order = draws.permutation(n)
    for unbiased in (True, False):
        value = cka_module.linear_cka(x, y, unbiased=unbiased)
        assert unbiased or -1e-4 <= value <= 1 + 1e-4  # the unbiased estimate of few rows may lie outside
        moved = (factor * (x @ turn + 3)).astype(np.float32)
        tolerance = 1e-3 + 5e-3 * unbiased * abs(value)
        assert abs(cka_module.linear_cka(moved, y, unbiased=unbiased) - value) < tolerance
        assert abs(cka_module.linear_cka(y, x, unbiased=unbiased) - value) < tolerance
        assert abs(cka_module.linear_cka(x[order], y[order], unbiased=unbiased) - value) < tolerance
        assert abs(cka_module.linear_cka(x, moved, unbiased=unbiased) - 1) < 1e-3


ROWS = st.lists(st.floats(-60_000, 60_000, width=16), min_size=4, max_size=4)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(NAMES, st.tuples(ROWS, NAMES), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_a_store_gives_back_what_was_put_in_in_any_order(tmp_path_factory, rows, random) -> None:
    """Values that float16 holds come back bit for bit, under their ids."""
    folder = tmp_path_factory.mktemp("store")
    ids = list(rows)
    random.shuffle(ids)
    image = np.array([rows[one][0] for one in ids], np.float32)
    captions = [rows[one][1] for one in ids]
    import_arrays(folder / "it", image=image, text=image[::-1].copy(), ids=ids, captions=captions, text_model="t")
    store = open_store(folder / "it", verify=True)
    names = store.images["id"].to_pylist()
    assert sorted(names) == sorted(rows)
    found = store.features("image").gather(range(len(names)))
    assert found.tolist() == [rows[name][0] for name in names]
    assert dict(zip(store.captions["id"].to_pylist(), store.captions["caption"].to_pylist(), strict=True)) == {
        name: caption for name, (_, caption) in rows.items()
    }
