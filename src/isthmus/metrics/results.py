"""Results as CLIP_benchmark writes them, so that its tools read ours, and as a table for people."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from isthmus.errors import InputError
from isthmus.files import read_json, write_json

OPTIONAL = (
    "pretrained",
    "dataset",
    "task",
    "language",
    "max_tokens",
    "truncated",
    "features",
)  # columns of a table where its rows differ
HEADLINE = (
    "image_retrieval_recall@1",
    "text_retrieval_recall@1",
    "mean_recall@1",
    "mean_recall@5",
    "mean_recall@10",
    "acc1",
    "acc5",
    "mean_per_class_recall",
    "accuracy",
    "mean_per_category_accuracy",
    "text_score",
    "image_score",
    "group_score",
    "matching_score",
    "pair_accuracy",
    "set_accuracy",
    "miou",
    "pixel_accuracy",
    "mean_class_accuracy",
    "oracle_class_iou",
    "knn_acc1@10",
    "lp_acc1",
    *(f"fewshot_acc1@{k}" for k in (1, 2, 4, 8, 16)),
)
SHOWN = 25  # lines of a table of categories, and of skipped items, that a person gets to see


def result(
    evaluation: dict[str, Any],
    *,
    dataset: str,
    model: str,
    task: str,
    pretrained: str = "",
    language: str = "en",
    command: str | None = None,
) -> dict[str, Any]:
    """One evaluation (what `retrieval` or `zeroshot` returned) with its origin, ready for JSON.

    `dataset`, `model`, `pretrained`, `task` (`zeroshot_retrieval`, `zeroshot_classification`, …), `metrics`
    and `language` are CLIP_benchmark's; `ci95`, `n`, `definition`, `seed`, `command`, … stand beside them.
    """
    head = {"dataset": dataset, "model": model, "pretrained": pretrained, "task": task}
    plain = {key: _plain(value) for key, value in evaluation.items()}
    return {**head, "metrics": plain.pop("metrics"), "language": language, **plain, "command": command}


def write(path: str | os.PathLike[str], evaluation: dict[str, Any], **origin: Any) -> dict[str, Any]:
    """Write `result(evaluation, **origin)` to `path` as JSON, atomically, and return it."""
    written = result(evaluation, **origin)
    write_json(path, written)
    return written


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A results file, of ours or of CLIP_benchmark; InputError names one that is neither."""
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("metrics"), dict):
        raise InputError(f"{path}: is not a results file: it has no `metrics`.")
    return found


def table(results: Sequence[dict[str, Any]], metrics: Sequence[str] | None = None, tablefmt: str = "simple") -> str:
    """A row for each result, a column for each metric (default: those of HEADLINE that occur).

    Shares are given in percent, ranks as they are, with the 95 % interval where there is one:
    `43.4 [41.2, 45.6]`, and chance where that is part of the result. Columns that are the same in all rows (the data
    set, the task) are left out. Results without any metric of HEADLINE, where none are named, are listed one metric a
    line, as they are.
    """
    if metrics is None and not any(name in result["metrics"] for result in results for name in HEADLINE):
        return "\n\n".join(_list(result, tablefmt) for result in results)
    metrics = metrics or [name for name in HEADLINE if any(name in result["metrics"] for result in results)]
    origin = ["model", *(key for key in OPTIONAL if _differs(results, key))]
    rows = [[*(r.get(key, "") for key in origin), *(_cell(r, name) for name in metrics)] for r in results]
    return tabulate(rows, headers=[*origin, *metrics], tablefmt=tablefmt, disable_numparse=True)


def details(results: Sequence[dict[str, Any]], tablefmt: str = "simple") -> str:
    """What stands below the table: a line per category, ties, remarks, and what was skipped."""
    blocks = []
    for result in results:
        rows = result.get("per_category") or []
        if len(rows) > 1:
            names = list(rows[0]["metrics"])
            cells = [[row["category"], f"{row['n']:,}", *(_cell(row, name) for name in names)] for row in rows[:SHOWN]]
            lines = tabulate(cells, headers=["category", "n", *names], tablefmt=tablefmt, disable_numparse=True)
            rest = f"\n… and {len(rows) - SHOWN:,} categories more (--json has them)" if len(rows) > SHOWN else ""
            blocks.append(f"{result['dataset']}, by category:\n{lines}{rest}")
        ties = {name: count for name, count in (result.get("ties") or {}).items() if count}
        if ties:
            counted = ", ".join(f"{name} {count:,}" for name, count in ties.items())
            blocks.append(f"{result['dataset']}: ties, which are no answers: {counted}")
        blocks += [f"{result['dataset']}: {note}" for note in result.get("notes") or []]
    reasons: dict[str, list[str]] = {}
    for item, reason in (one for result in results for one in result.get("skipped") or []):
        reasons.setdefault(reason, []).append(str(item))
    told = [f"  skipped {_some(items)}: {reason}" for reason, items in list(reasons.items())[:SHOWN]]
    untold = sum(map(len, list(reasons.values())[SHOWN:]))
    told += [f"  … and {untold:,} more (--json has them)"] if untold else []
    blocks += ["\n".join(told)] if told else []
    return "\n\n".join(blocks)


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:SHOWN]) + (f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else "")


def _list(result: dict[str, Any], tablefmt: str) -> str:
    """Every metric on a line of its own, unscaled."""
    bounds = result.get("ci95") or {}
    rows = [
        [name, f"{value:.4g}", "[{:.4g}, {:.4g}]".format(*bounds[name]) if name in bounds else ""]
        for name, value in result["metrics"].items()
    ]
    return tabulate(rows, headers=["metric", "value", "ci95"], tablefmt=tablefmt, disable_numparse=True)


def _differs(results: Sequence[dict[str, Any]], key: str) -> bool:
    return len({str(result.get(key, "")) for result in results}) > 1


def _cell(result: dict[str, Any], name: str) -> str:
    value, bounds = result["metrics"].get(name), (result.get("ci95") or {}).get(name)
    if value is None:
        return "–"
    scale = 1 if name.endswith("rank") else 100
    text = f"{scale * value:.1f}"
    text += f" [{scale * bounds[0]:.1f}, {scale * bounds[1]:.1f}]" if bounds else ""
    return text + (f", chance {scale * result['chance'][name]:.1f}" if name in (result.get("chance") or {}) else "")


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays as Python numbers and lists."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
