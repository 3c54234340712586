"""The display of a running run, and Ctrl-C, which stops it between two steps."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from isthmus.progress import in_notebook, progress_bar, watched

LINE_SECONDS = 10.0


class Progress:
    """A bar with items per second on a terminal or in a notebook; elsewhere a line every ten seconds; or nothing."""

    def __init__(self, shown: bool | None, total: int, done: int, unit: str = "pair") -> None:
        shown = in_notebook() if shown is None else shown
        self.lines, self.unit = shown and not watched(), unit
        self.total, self.done = total, done
        self.start, self.last = (done, time.monotonic()), time.monotonic()
        shown = shown and watched() and total > done  # a closed form has no steps
        self.bar = progress_bar(shown, total=total, initial=done, unit=unit, unit_scale=True)

    def advance(self, items: int, note: str) -> None:
        """`items` more are done; `note`: the latest loss and metric."""
        self.done += items
        self.bar.update(items)
        self.bar.set_postfix_str(note, refresh=False)
        now = time.monotonic()
        if self.lines and (now - self.last >= LINE_SECONDS or self.done >= self.total):
            self.last = now
            rate = (self.done - self.start[0]) / max(now - self.start[1], 1e-9)
            left = (self.total - self.done) / max(rate, 1e-9)
            share = self.done / max(self.total, 1)
            sys.stderr.write(f"train {share:.0%}  {note}  {rate:,.0f} {self.unit}s/s  {left:,.0f} s left\n")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.close()


class Interrupt:
    """Whether Ctrl-C was pressed."""

    pressed = False


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Ctrl-C only sets `pressed`, so that a step is never cut in half; a second one interrupts at once.

    Python delivers signals to the main thread alone: in another thread, or if the program handles Ctrl-C itself,
    nothing changes.
    """
    interrupt = Interrupt()

    def press(number: int, frame: FrameType | None) -> None:
        interrupt.pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if ours:
            signal.signal(signal.SIGINT, press)
    except ValueError:  # not the main thread
        ours = False
    try:
        yield interrupt
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
