"""Results as CLIP_benchmark writes them, so that its tools read ours, and as a table for people."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Required, TypedDict, cast

import numpy as np
from tabulate import tabulate

from isthmus.errors import InputError
from isthmus.files import read_cached, read_sealed, write_sealed
from isthmus.report import terminal

OPTIONAL = (
    "pretrained",
    "dataset",
    "task",
    "language",
    "max_tokens",
    "truncated",
    "features",
    "modality",
    "snr",
)  # columns of a table, shown if its rows differ
SHOWN = 25  # lines of a table of categories, and of skipped items, that are printed


class Result(TypedDict, total=False):
    """One evaluation with its origin, as JSON. Tasks add fields; `metrics` and the origin are always there.

    `ci95`: [low, high] of the metrics that have an interval. `n`: what was counted. `skipped`: (what, why).
    """

    dataset: Required[str]
    model: Required[str]
    pretrained: Required[str]
    task: Required[str]
    metrics: Required[dict[str, float]]
    language: Required[str]
    command: Required[str | None]
    ci95: dict[str, list[float]]
    chance: dict[str, float]
    n: dict[str, float]
    definition: str
    prompt: str  # of a language model, and how its words are taken
    decoding: str | dict[str, Any]
    seed: int
    bootstrap: int
    skipped: Sequence[tuple[str, str]]
    notes: list[str]
    per_category: list[dict[str, Any]]
    ties: dict[str, int]
    classes: list[str]
    templates: object
    confusion: list[list[int]]
    features: str
    projected_minus_frozen: dict[str, dict[str, Any]]
    modality: str
    snr: str
    noise: str | None
    transcripts: list[dict[str, str]]
    max_tokens: int
    truncated: int
    by_length: list[dict[str, Any]]
    reading: dict[str, float] | None
    reliability: dict[str, list[dict[str, Any]]]
    abstain: dict[str, dict[str, Any]]
    seen: dict[str, Any]
    seen_items: dict[str, Any] | None  # of the items asked about, how many trained or validated the model
    warnings: list[str]
    options: dict[str, Any]
    folds: list[float]
    key: str  # for results that `suite` keeps: a hash of what it was computed from


def result(
    evaluation: dict[str, Any],
    *,
    dataset: str,
    model: str,
    task: str,
    pretrained: str = "",
    language: str = "en",
    command: str | None = None,
) -> Result:
    """One evaluation (what `retrieval` or `zeroshot` returned) with its origin, ready for JSON.

    `dataset`, `model`, `pretrained`, `task` (`zeroshot_retrieval`, `zeroshot_classification`, …), `metrics`
    and `language` are CLIP_benchmark's; `ci95`, `n`, `definition`, `seed`, `command`, … are added.
    """
    head = {"dataset": dataset, "model": model, "pretrained": pretrained, "task": task}
    plain = {key: _plain(value) for key, value in evaluation.items()}
    return cast(Result, {**head, "metrics": plain.pop("metrics"), "language": language, **plain, "command": command})


def write(path: str | os.PathLike[str], evaluation: dict[str, Any], **origin: Any) -> Result:
    """Write `result(evaluation, **origin)` to `path` as JSON, atomically and sealed, and return it."""
    written = result(evaluation, **origin)
    write_sealed(path, cast(dict, written))
    return written


def read(path: str | os.PathLike[str]) -> Result:
    """A results file, of ours or of CLIP_benchmark; InputError names one that is neither."""
    found = read_sealed(path)
    if not isinstance(found, dict) or not isinstance(found.get("metrics"), dict):
        raise InputError(f"{path}: is not a results file: it has no `metrics`.")
    return cast(Result, found)


def kept(path: str | os.PathLike[str], key: str) -> Result | None:
    """The result that `write` stored there, if it is intact and was computed from what `key` identifies."""
    found = read_cached(path)
    if found is None or found.get("key") != key:
        return None
    metrics, names = found.get("metrics"), [found.get(name) for name in ("dataset", "model", "task")]
    numbers = isinstance(metrics, dict) and all(isinstance(value, int | float) for value in metrics.values())
    return cast(Result, found) if numbers and all(isinstance(one, str) for one in names) else None


def table(results: Sequence[Result], metrics: Sequence[str] = (), tablefmt: str = "simple") -> str:
    """A row for each result, a column for each of `metrics` that occurs, in their order.

    Shares are given in percent, ranks as they are, with the 95 % interval where there is one:
    `43.4 [41.2, 45.6]`, and chance where that is part of the result. Columns that are the same in all rows (the data
    set, the task) are left out. If none of `metrics` occurs, all metrics are listed, one a line, unscaled.
    As text for a terminal ("simple"), what is wider is a metric a line, or, of several results, several tables.
    """
    metrics = [name for name in metrics if any(name in result["metrics"] for result in results)]
    if not metrics:
        return "\n\n".join(_list(result, tablefmt) for result in results)
    origin = ["model", *(key for key in OPTIONAL if _differs(results, key))]
    rows = [[*(str(r.get(key, "")) for key in origin), *(_cell(r, name) for name in metrics)] for r in results]
    wide = tabulate(rows, headers=[*origin, *metrics], tablefmt=tablefmt, disable_numparse=True)
    if tablefmt != "simple" or terminal.fits(wide):
        return wide
    if len(results) == 1:
        return _by_metric(results[0], metrics)
    return terminal.stacked([*origin, *metrics], rows, len(origin))


def _by_metric(result: Result, metrics: Sequence[str]) -> str:
    """A line for each metric, under the model's name."""
    bounds, chance = result.get("ci95") or {}, result.get("chance") or {}
    rows = []
    for name in metrics:
        scale = _scale(name)
        span = "–".join(f"{scale * bound:.1f}" for bound in bounds.get(name, ()))
        guessed = f"{scale * chance[name]:.1f}" if name in chance else ""
        rows.append([name, f"{scale * result['metrics'][name]:.1f}", span, guessed])
    heads = [result["model"][-terminal.WIDTH // 2 :], "", "95 %", "chance"]
    kept = [i for i in range(4) if i < 2 or any(row[i] for row in rows)]
    shown = [[row[i] for i in kept] for row in rows]
    return tabulate(shown, headers=[heads[i] for i in kept], tablefmt="simple", disable_numparse=True)


def details(results: Sequence[Result], tablefmt: str = "simple") -> str:
    """The text below the table: a line per category, ties, remarks, and what was skipped."""
    blocks = []
    for result in results:
        rows = result.get("per_category") or []
        if len(rows) > 1:
            names = list(rows[0]["metrics"])
            cells = [[row["category"], f"{row['n']:,}", *(_cell(row, name) for name in names)] for row in rows[:SHOWN]]
            heads = ["category", "n", *names]
            lines = tabulate(cells, headers=heads, tablefmt=tablefmt, disable_numparse=True)
            if tablefmt == "simple" and not terminal.fits(lines):
                lines = terminal.stacked(heads, cells, 2)
            rest = f"\n… and {len(rows) - SHOWN:,} categories more (--json has them)" if len(rows) > SHOWN else ""
            blocks.append(f"{result['dataset']}, by category:\n{lines}{rest}")
        ties = {name: count for name, count in (result.get("ties") or {}).items() if count}
        if ties:
            counted = ", ".join(f"{name} {count:,}" for name, count in ties.items())
            blocks.append(terminal.wrapped(f"{result['dataset']}: ties, which are no answers: {counted}", "  "))
        blocks += [terminal.wrapped(f"{result['dataset']}: {note}", "  ") for note in result.get("notes") or []]
    reasons: dict[str, list[str]] = {}
    for item, reason in (one for result in results for one in result.get("skipped") or []):
        reasons.setdefault(reason, []).append(str(item))
    skipped = [f"  skipped {_some(items)}: {reason}" for reason, items in list(reasons.items())[:SHOWN]]
    more = sum(map(len, list(reasons.values())[SHOWN:]))
    skipped += [f"  … and {more:,} more (--json has them)"] if more else []
    blocks += ["\n".join(skipped)] if skipped else []
    return "\n\n".join(blocks)


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:SHOWN]) + (f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else "")


def _list(result: Result, tablefmt: str) -> str:
    """Every metric on a line of its own, unscaled."""
    bounds = result.get("ci95") or {}
    rows = [
        [name, f"{value:.4g}", "[{:.4g}, {:.4g}]".format(*bounds[name]) if name in bounds else ""]
        for name, value in result["metrics"].items()
    ]
    return tabulate(rows, headers=["metric", "value", "ci95"], tablefmt=tablefmt, disable_numparse=True)


def _differs(results: Sequence[Result], key: str) -> bool:
    return len({str(result.get(key, "")) for result in results}) > 1


def _cell(result: Mapping[str, Any], name: str) -> str:
    value, bounds = result["metrics"].get(name), (result.get("ci95") or {}).get(name)
    if value is None:
        return "–"
    scale = _scale(name)
    text = f"{scale * value:.1f}"
    text += f" [{scale * bounds[0]:.1f}, {scale * bounds[1]:.1f}]" if bounds else ""
    return text + (f", chance {scale * result['chance'][name]:.1f}" if name in (result.get("chance") or {}) else "")


def _scale(name: str) -> int:
    """Ranks are given as they are, shares in percent."""
    return 1 if name.endswith("rank") else 100


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays as Python numbers and lists."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
