"""One thread that works for many clients: what waits at the same time and is of one kind is done together."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

BatchWork = Callable[[list[Any]], Sequence[Any]]


class QueueFull(Exception):
    """More is waiting than the queue holds: the client is to come again later."""


@dataclass(eq=False)
class WaitingJob:
    """What one client waits for. kind: jobs of equal kinds may be joined. work: N items to N results."""

    kind: Hashable
    work: BatchWork
    items: list[Any]
    future: Future[list[Any]] = field(default_factory=Future)


class Batcher:
    """A thread, and the queue in front of it.

    Args:
        name: of the thread.
        most: items that are worked on together.
        waiting: items that may wait; beyond, `submit` raises `QueueFull`. One job always may.
        window: seconds that a job waits for others of its kind.
    """

    def __init__(self, name: str, *, most: int = 32, waiting: int = 1024, window: float = 0.003) -> None:
        self.most, self.waiting, self.window = most, waiting, window
        self._jobs: deque[WaitingJob] = deque()
        self._ready, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def submit(
        self, kind: Hashable, work: BatchWork, items: list[Any], *, seconds: float | None = None
    ) -> list[Any]:
        """The results of `work` for `items`, in their order.

        An exception of `work` is raised here, for this job's items alone. Raises `QueueFull`, and `TimeoutError` after
        so many `seconds`; what then still waits is not worked on.
        """
        job = WaitingJob(kind, work, items)
        with self._ready:
            taken = sum(len(one.items) for one in self._jobs)
            if self._closed or (taken and taken + len(items) > self.waiting):
                raise QueueFull
            self._jobs.append(job)
            self._ready.notify()
        async with asyncio.timeout(seconds):
            return await asyncio.wrap_future(job.future)

    def close(self) -> None:
        """Refuse what waits, and end the thread after the work at hand."""
        with self._ready:
            self._closed = True
            for job in self._jobs:
                job.future.cancel()
            self._jobs.clear()
            self._ready.notify()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while jobs := self._next():
            started = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            self._do(started)

    def _next(self) -> list[WaitingJob]:
        """The oldest job, and those of its kind that fit in with it; empty at the end."""
        with self._ready:
            while not self._jobs and not self._closed:
                self._ready.wait()
            if not self._closed and len(self._jobs) < self.most:
                self._ready.wait(self.window)
            if not self._jobs:
                return []
            chosen, size = [self._jobs[0]], len(self._jobs[0].items)
            for job in list(self._jobs)[1:]:
                if job.kind == chosen[0].kind and size + len(job.items) <= self.most:
                    chosen.append(job)
                    size += len(job.items)
            for job in chosen:
                self._jobs.remove(job)
            return chosen

    def _do(self, jobs: list[WaitingJob]) -> None:
        """Work on jobs of one kind; where that fails, on each alone, so that one client's items spoil no other's."""
        if not jobs:
            return
        try:
            results = list(jobs[0].work([item for job in jobs for item in job.items]))
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
            else:
                for job in jobs:
                    self._do([job])
            return
        at = 0
        for job in jobs:
            job.future.set_result(results[at : at + len(job.items)])
            at += len(job.items)
