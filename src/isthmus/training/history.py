"""The training curve: JSON lines in `history.jsonl`, and copies to TensorBoard or W&B on request."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from isthmus.errors import UsageError, did_you_mean
from isthmus.files import write_atomic, writing

HistoryRecord = dict[str, Any]
Sink = Callable[[HistoryRecord], None]


class History:
    """The records of one run, in memory and, given a `path`, as JSON lines.

    A resumed run passes the records of its checkpoint; later records are dropped.
    """

    def __init__(self, path: Path | None, records: Iterable[HistoryRecord] = (), sinks: Iterable[Sink] = ()) -> None:
        self.path, self.records, self.sinks = path, list(records), list(sinks)
        if path is not None:
            text = "".join(map(_line, self.records))
            write_atomic(path, lambda aside: aside.write_text(text, encoding="utf-8"))

    def append(self, record: HistoryRecord) -> None:
        self.records.append(record)
        if self.path is not None:
            with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
                file.write(_line(record))
        for sink in self.sinks:
            sink(record)


def _line(record: HistoryRecord) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def open_sink(tracker: str, out: Path | None, config: dict[str, Any], step: int) -> Sink:
    """A writer for "tensorboard" or "wandb"; `step` is where a resumed run continues.

    Raises `UsageError` for an unknown tracker, a missing package (its extra is named), or a missing folder.
    """
    if tracker not in TRACKERS:
        raise UsageError(f"Unknown tracker {tracker!r}.{did_you_mean(tracker, TRACKERS)}")
    if out is None:
        raise UsageError(f"Logging to {tracker} needs an output folder.")
    try:
        return TRACKERS[tracker](out, config, step)
    except ImportError:
        raise UsageError(f"{tracker} is not installed: pip install 'isthmus[{tracker}]'.") from None


def _tensorboard(out: Path, config: dict[str, Any], step: int) -> Sink:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1 if step else None)

    def write(record: HistoryRecord) -> None:
        for key, value in record.items():
            if key != "step" and value is not None:
                writer.add_scalar(key, value, record["step"])
        writer.flush()

    return write


def _wandb(out: Path, config: dict[str, Any], step: int) -> Sink:
    import wandb

    run = wandb.init(project="isthmus", name=out.name, dir=str(out), config=config)
    return lambda record: run.log(record, step=record["step"])


TRACKERS = {"tensorboard": _tensorboard, "wandb": _wandb}
