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

N, M, D = 48, 64, 12
GROUPS = {"pairs": None, "groups": (torch.arange(N) % 20, (torch.arange(M) * 7) % 24)}
SCALARS = {"infonce": (9.0,), "sigmoid": (9.0, -4.0), "infonce, shifted": (1000.0,)}  # exp(1000) is beyond fp64
DTYPES = {"float64": (torch.float64, 1e-9), "bfloat16": (torch.bfloat16, 0.02)}  # and by how much results may differ
CASES = [(name, groups, dtype) for name in SCALARS for groups in GROUPS for dtype in DTYPES]
CASES.remove(("infonce, shifted", "pairs", "bfloat16"))  # such logits are wrong by 4: there is nothing to compare
CASES.remove(("infonce, shifted", "groups", "bfloat16"))

WORKER = """
import sys
import torch.distributed as dist
sys.path.insert(0, {tests!r})
import test_loss_ring as cases
dist.init_process_group("gloo")
cases.work({out!r})
dist.destroy_process_group()
"""


def batch(groups: str, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    return unit(N, D, 1, DTYPES[dtype][0]), unit(M if GROUPS[groups] else N, D, 2, DTYPES[dtype][0])


def loss_of(name: str):
    return sigmoid if name == "sigmoid" else infonce


def work(out: str) -> None:
    """One process's part of all cases: its own rows' gradients and its share of the scalars', written to files."""
    world = torch.distributed.group.WORLD
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    for name, groups, dtype in CASES:
        x, y, *ids = (t.chunk(size)[rank] for t in (*batch(groups, dtype), *(GROUPS[groups] or ())))
        loss = functools.partial(loss_of(name), groups=ids or None, tile=7, process_group=world)
        torch.save(with_gradients(loss, x, y, *SCALARS[name]), f"{out}/{name}-{groups}-{dtype}-{rank}.pt")


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
    try:
        shown = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
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
    for name, groups, dtype in CASES:
        case = f"{name}-{groups}-{dtype}"
        parts = [torch.load(tmp_path / f"{case}-{rank}.pt", weights_only=True) for rank in range(size)]
        loss = functools.partial(loss_of(name), groups=GROUPS[groups])
        want = with_gradients(loss, *batch(groups, dtype), *SCALARS[name])
        values, dx, dy, *scalars = zip(*parts, strict=True)
        got = [torch.cat(dx), torch.cat(dy), *(sum(shares) for shares in scalars)]
        errors = [relative_error(a, b) for a, b in zip([*values, *got], [want[0]] * size + list(want[1:]), strict=True)]
        assert max(errors) < DTYPES[dtype][1], case


@pytest.mark.parametrize("loss", ["infonce(x, y, 1.0", "sigmoid(x, y, 1.0, 0.0"])
def test_processes_with_unequal_rows_are_refused(loss):
    script = f"""
import os, torch, torch.distributed as dist
from isthmus.errors import InputError
from isthmus.losses import infonce, sigmoid
dist.init_process_group("gloo")
x, y = torch.eye(4)[: 2 + dist.get_rank()], torch.eye(4)
try:
    {loss}, groups=(torch.arange(len(x)), torch.arange(4)), process_group=dist.group.WORLD)
except InputError as error:
    print(error)
dist.destroy_process_group()
"""
    for output in spawn(script, 2):
        assert "[2, 3] rows" in output
