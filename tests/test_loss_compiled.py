"""The compiled sweeps against the eager ones and against fp64; what happens without a compiler."""

from __future__ import annotations

import functools
import os
import stat
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from isthmus.losses import compiled, infonce, library, sigmoid, sweeps
from isthmus.losses.gradients import ROWS, add_
from isthmus.losses.tiles import Tiles
from losses_cases import on_grid, saturated, sizes, unit, with_gradients

EXACT = {torch.float32: 2e-6, torch.bfloat16: 4e-3}  # of what is written back to a tile


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    assert compiled._library() is not None, "these tests need a C compiler (cc) and torch's GNU OpenMP"


def tile_of(dtype: torch.dtype, scale: float, rows: int = 301, width: int = 257) -> tuple[Tiles, Tensor]:
    """Logits up to `scale`, some of them −∞, a row and a column wholly so; and the Tiles they are of."""
    x, y = unit(rows, 8, 0, dtype), unit(width, 8, 1, dtype)
    tile = (scale * (x.double() @ y.double().T)).to(dtype)
    tile[torch.arange(200), torch.arange(200)] = -torch.inf
    tile[7] = tile[:, 9] = -torch.inf
    return Tiles(x, y, 1.0, torch.arange(rows), torch.arange(width), None, dtype), tile


def eager(function, *arguments):
    """What the twin gives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISTHMUS_COMPILE", "0")
        assert compiled.compiled(arguments[1]) is None
        return function(*arguments)


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize(("scale", "bounded"), [(5.0, True), (50.0, True), (50.0, False), (5000.0, False)])
def test_sums_of_exponentials(dtype: torch.dtype, scale: float, bounded: bool) -> None:
    tiles, tile = tile_of(dtype, scale)
    assert compiled.compiled(tile) is not None
    got = sweeps.log_sums(tiles, tile, bounded)
    for mine, twin, dim in zip(got, eager(sweeps.log_sums, tiles, tile, bounded), (1, 0), strict=True):
        want = tile.double().logsumexp(dim)
        finite = want.isfinite()
        assert torch.equal(mine.isfinite(), finite) and torch.equal(twin.isfinite(), finite)
        assert finite.sum() == len(want) - 1
        for found in (mine, twin):
            # an exponential is within 5 u, their sum within √301 u more, a logarithm rounded to fp32 within u of itself
            torch.testing.assert_close(found[finite], want[finite], rtol=1e-7, atol=2e-6)


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("bounded", [True, False])
def test_softmax(dtype: torch.dtype, bounded: bool) -> None:
    scale = 20.0 if bounded else 500.0
    tiles, tile = tile_of(dtype, scale)
    generator = torch.Generator().manual_seed(0)
    row, column = (torch.rand(2, n, generator=generator) for n in tile.shape)
    shift = 0 if bounded else scale
    row[0], column[0] = shift * (1 + row[0]), shift * (1 + column[0])
    z = tile.double()
    want = (z - row[0, :, None]).exp() * row[1, :, None] + (z - column[0]).exp() * column[1]
    got, twin = tile.clone(), tile.clone()
    sweeps.softmax_(tiles, got, row, column, bounded)
    eager(sweeps.softmax_, tiles, twin, row, column, bounded)
    tolerance = EXACT[dtype] if bounded else max(EXACT[dtype], 1e-4)  # the shift is rounded where it is large
    for found in (got, twin):
        torch.testing.assert_close(found.double(), want, rtol=tolerance, atol=1e-30)


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize(("scale", "bias"), [(10.0, -9.0), (100.0, 3.0), (1000.0, 0.0)])
def test_sigmoid(dtype: torch.dtype, scale: float, bias: float) -> None:
    tiles, tile = tile_of(dtype, scale)
    z = tile.double() + bias
    got, twin = tile.clone(), tile.clone()
    sums = sweeps.sigmoid_(tiles, got, bias), eager(sweeps.sigmoid_, tiles, twin, bias)
    want = torch.stack([z.logaddexp(z.new_zeros(())).sum(), z.sigmoid().sum()])
    for found, total in zip((got, twin), sums, strict=True):
        torch.testing.assert_close(found.double(), z.sigmoid(), rtol=EXACT[dtype], atol=2e-38)
        torch.testing.assert_close(total, want, rtol=1e-5, atol=1e-12)


def test_adding_to_columns_of_a_wider_sum() -> None:
    part = unit(300, 256, 0, torch.bfloat16)
    got = torch.ones(300, 1000)
    add_(got[:, 100:356], part)
    want = torch.ones(300, 1000)
    want[:, 100:356] += part.float()
    assert torch.equal(got, want)


def test_nan_is_not_swept_under() -> None:
    for dtype in EXACT:
        tiles, tile = tile_of(dtype, 5.0)
        tile[3, 3] = torch.nan
        assert sweeps.log_sums(tiles, tile, True)[0][3].isnan()
        assert sweeps.log_sums(tiles, tile, False)[1][3].isnan()
        assert sweeps.sigmoid_(tiles, tile, 0.0).isnan().all() and tile[3, 3].isnan()


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
@pytest.mark.parametrize("scale", [16.0, 128.0])
@pytest.mark.parametrize("data", ["random", "saturated"])
def test_losses_and_gradients_are_those_of_the_eager_losses(loss, scale, data, monkeypatch) -> None:
    """Both lie within what rounding explains, in units of the fp32 roundoff u and of what is added up (`sizes`).

    The logits are exact, biased ones too. Each exponential is within 5 u and is taken twice, in the sum and in the
    gradient; weights, shifts and products round 5 times more. A sum of k numbers is off by √k u where roundings are of
    either sign (Higham & Mary 2019; k u at worst): over a tile's columns the sum of exponentials and the product with
    y or x, over ROWS rows of d numbers the scale's gradient.

    On the saturated batch push and pull of 1 each leave 4e-4 for the scale: an error of u / 10, less than one
    exponential has, shows as 1e-5. How one of the two losses happens to round is therefore no bound for the other.
    """
    n, d, tile = 700, 16, 300
    x, y = saturated(n, d, 0) if data == "saturated" else (unit(n, d, 0), unit(n, d, 1))
    x, y = on_grid(x), on_grid(y)
    function, scalars = (infonce, [scale]) if loss == "infonce" else (sigmoid, [scale, -9.0])
    function = functools.partial(function, tile=tile)
    got = with_gradients(function, x.float(), y.float(), *scalars)
    monkeypatch.setenv("ISTHMUS_COMPILE", "0")
    twin = with_gradients(function, x.float(), y.float(), *scalars)
    want = with_gradients(function, x, y, *scalars)
    roundings = 2 * 5 + 5 + 2 * tile**0.5 + (ROWS * d) ** 0.5
    for mine, other, exact, size in zip(got, twin, want, sizes(loss, x, y, *scalars), strict=True):
        for found in (mine, other):
            assert (found - exact).norm() < roundings * torch.finfo(torch.float32).eps / 2 * size.norm()


def test_without_a_compiler_the_losses_run_as_they_are(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("ISTHMUS_CACHE", str(tmp_path))
    compiled._library.cache_clear()
    try:
        for compiler in ("/no/such/compiler", "false"):
            monkeypatch.setenv("CC", compiler)
            compiled._library.cache_clear()
            assert compiled._library() is None
            assert compiled.compiled(tile_of(torch.float32, 5.0)[1]) is None
        assert not list(tmp_path.rglob("*.so*"))
    finally:
        compiled._library.cache_clear()


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache in which the sweeps are compiled."""
    monkeypatch.setenv("ISTHMUS_CACHE", str(tmp_path))
    compiled._load()
    return tmp_path / "sweeps"


def library_in(cache: Path) -> Path:
    (path,) = cache.glob("*.so")
    return path


def test_it_is_built_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = library_in(cache).read_bytes()
    monkeypatch.setattr(compiled, "_run", lambda *command: pytest.fail("built again"))
    compiled._load()
    assert library_in(cache).read_bytes() == written and stat.S_IMODE(cache.stat().st_mode) == 0o700


DAMAGES = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "changed": lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
    "without its digest": lambda data: data[:-32],
    "another": lambda data: b"no library at all, and longer than a digest",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_is_built_again_and_never_loaded(cache: Path, damage: str) -> None:
    path = library_in(cache)
    written = path.read_bytes()
    path.write_bytes(DAMAGES[damage](written))
    assert compiled._load() is not None
    assert library.intact(library_in(cache).read_bytes())


def test_two_libraries_are_not_taken_for_each_other(cache: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}.c").write_text(f"int {name}(void) {{ return 1; }}")

        def build(path: Path, name: str = name) -> None:
            subprocess.run(["cc", "-shared", "-fPIC", tmp_path / f"{name}.c", "-o", path], check=True)

        assert getattr(library.load(cache / f"{name}.so", build), name)() == 1


def test_a_library_is_not_loaded_from_a_folder_open_to_others(cache: Path) -> None:
    cache.chmod(0o770)
    with pytest.raises(OSError, match="this user alone"):
        compiled._load()


def test_a_library_is_not_loaded_from_another_users_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(OSError, match="this user alone"):
        compiled._load()


def test_a_library_is_not_loaded_from_a_linked_folder(cache: Path) -> None:
    cache.rename(cache.with_name("elsewhere"))
    cache.symlink_to(cache.with_name("elsewhere"))
    with pytest.raises(OSError, match="this user alone"):
        compiled._load()


def test_a_linked_library_is_built_again(cache: Path) -> None:
    path = library_in(cache)
    path.rename(cache.parent / "planted.so")
    path.symlink_to(cache.parent / "planted.so")
    assert compiled._load() is not None and not path.is_symlink()


def test_what_a_killed_compiler_left_goes_with_the_next_build(cache: Path) -> None:
    library_in(cache).unlink()
    for name in (".tmp-01234567-sweeps.so", ".tmp-01234567-sweeps.so.o"):
        (cache / name).write_bytes(b"half")
    compiled._load()
    assert not list(cache.glob(".tmp-*"))
