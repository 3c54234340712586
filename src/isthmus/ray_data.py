"""Planned work on Ray Data: the same tasks, done by the workers of a cluster. Ray does the scheduling."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from isthmus.errors import IsthmusError, UsageError

Work = Callable[[Any], Any]


def run(make: Callable[[], Work], tasks: Sequence[Any], *, threads: int = 1, gpus: float = 0) -> Iterator[Any]:
    """`make()(task)` of every task, in the order in which workers finish.

    Joins the cluster that `RAY_ADDRESS` or `ray start` names, else starts one on this machine. `make` is called once on
    each worker. There are as many workers as the cluster has resources for when the run begins. A worker has `threads`
    threads and `gpus` GPUs; with the same number of threads it computes the same bits as this process. What is passed
    (by cloudpickle, in memory) must not hold locks or open files.

    Raises:
        UsageError: Ray is not installed.
        IsthmusError: the error of a task.
    """
    if not tasks:
        return
    ray = _connected()
    dumps, loads = ray.cloudpickle.dumps, ray.cloudpickle.loads
    room = ray.cluster_resources()
    size = int(room.get("GPU", 0) // gpus if gpus else room.get("CPU", 1) // threads)
    pool = ray.data.ActorPoolStrategy(size=max(1, min(size, len(tasks))))
    rows = ray.data.from_items([{"task": dumps(task)} for task in tasks], override_num_blocks=len(tasks))
    arguments = (dumps(make), threads)
    done = rows.map(_Worker, fn_constructor_args=arguments, num_cpus=threads, num_gpus=gpus, compute=pool)
    for row in done.iter_rows():
        result = loads(row["result"])
        if isinstance(result, IsthmusError):
            raise result
        yield result


class _Worker:
    """An actor: calls `make` at the first task, so that its error comes back as a result."""

    def __init__(self, make: bytes, threads: int) -> None:
        torch.set_num_threads(threads)
        self._make = make
        self._work: Work | None = None

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        from ray import cloudpickle

        try:
            self._work = self._work or cloudpickle.loads(self._make)()
            result = self._work(cloudpickle.loads(row["task"]))
        except IsthmusError as error:  # any other error is a defect, and Ray reports it with its traceback
            result = error
        return {"result": cloudpickle.dumps(result)}


def _connected() -> Any:
    """The `ray` package, connected, quiet, and without reports to its makers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError(f"The ray engine needs ray ({error}): pip install 'isthmus[ray]'.") from None
    if not ray.is_initialized():
        ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray
