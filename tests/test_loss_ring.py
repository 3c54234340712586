"""The losses over several processes: as one process has them, whatever the number of processes."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from isthmus.losses import infonce, sigmoid
from losses_cases import relative_error, unit, with_gradients

N, D = 48, 12
GROUPS = {"pairs": None, "groups": (torch.arange(N) % 20, (torch.arange(N) * 7) % 24)}
SCALARS = {"infonce": (9.0,), "sigmoid": (9.0, -4.0), "infonce at scale 100": (100.0,)}
CASES = [(name, groups) for name in SCALARS for groups in GROUPS]

WORKER = """
import sys
import torch.distributed as dist
sys.path.insert(0, {tests!r})
import test_loss_ring as cases
dist.init_process_group("gloo")
cases.work({out!r})
dist.destroy_process_group()
"""


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return unit(N, D, 1), unit(N, D, 2)


def loss_of(name: str):
    return sigmoid if name == "sigmoid" else infonce


def work(out: str) -> None:
    """One process's part of all cases: its own rows' gradients and its share of the scalars', written to files."""
    world = torch.distributed.group.WORLD
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    own = slice(rank * N // size, (rank + 1) * N // size)
    x, y = (t[own] for t in batch())
    for name, groups in CASES:
        ids = None if GROUPS[groups] is None else tuple(g[own] for g in GROUPS[groups])
        loss = functools.partial(loss_of(name), groups=ids, tile=7, process_group=world)
        torch.save(with_gradients(loss, x, y, *SCALARS[name]), f"{out}/{name}-{groups}-{rank}.pt")


def spawn(script: str, size: int) -> list[str]:
    """What each of `size` processes that know of each other prints; all must succeed."""
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env=environment | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    shown = [process.communicate(timeout=120) for process in processes]
    for process, (_, errors) in zip(processes, shown, strict=True):
        assert process.returncode == 0, errors
    return [output for output, _ in shown]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize("size", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_loss_and_gradients_are_those_of_one_process(size, tmp_path):
    spawn(WORKER.format(tests=str(Path(__file__).parent), out=str(tmp_path)), size)
    for name, groups in CASES:
        parts = [torch.load(tmp_path / f"{name}-{groups}-{rank}.pt", weights_only=True) for rank in range(size)]
        loss = functools.partial(loss_of(name), groups=GROUPS[groups])
        want = with_gradients(loss, *batch(), *SCALARS[name])
        values, dx, dy, *scalars = zip(*parts, strict=True)
        for value in values:
            torch.testing.assert_close(value, want[0])
        got = [torch.cat(dx), torch.cat(dy), *(sum(shares) for shares in scalars)]
        assert max(relative_error(a, b) for a, b in zip(got, want[1:], strict=True)) < 1e-9, (name, groups)


def test_processes_with_unequal_rows_are_refused():
    script = """
import os, torch, torch.distributed as dist
from isthmus.errors import InputError
from isthmus.losses import infonce
dist.init_process_group("gloo")
x = torch.eye(4)[: 2 + dist.get_rank()]
try:
    infonce(x, x, 1.0, process_group=dist.group.WORLD)
except InputError as error:
    print(error)
dist.destroy_process_group()
"""
    for output in spawn(script, 2):
        assert "[2, 3] rows" in output
