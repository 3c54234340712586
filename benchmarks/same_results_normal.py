"""What two runs of one program never share, and how `same_results.py` takes it away before it compares.

Nothing else is taken away: files whose bytes are equal are the same, others are compared as text after this.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

# Measured on the clock, at any depth of JSON.
MEASURED = {"seconds", "pairs_per_second", "scoring_seconds"}
# Of values that are measured: where one of the above is in the file, its digests are masked too.
DIGESTS = {"seal", "digest"}
TEXTS = [
    (r".*\r", "", "all but the last state of a progress bar"),
    (r"\d+%\|[^|]*\|.*", "<bar>", "progress bars: their width, times and rates"),
    (r"\n *train \d+%.*", "", "the plain lines of progress in training"),
    (r"[\d,.]+ (pairs|items|rows|it)/s", "<rate>", "rates"),
    (r"\b\d[\d,.]* ?(s|ms|seconds|minutes|min)\b", "<time>", "times"),
    (r"\S*\.py:\d+: (\w*Warning: .*)\n .*", r"\1", "file and line of a Python warning"),
]
TEXT_FILES = (".json", ".jsonl", ".html", ".md", ".txt", ".toml", ".svg")
SHOWN = 60  # characters on each side of the first difference


def normal_text(text: str, folder: Path, tree: Path) -> str:
    """`text` without absolute paths, times and rates."""
    text = text.replace(str(folder), "<work>").replace(str(tree), "<tree>")
    for pattern, replacement, _ in TEXTS:
        text = re.sub(pattern, replacement, text)
    return text


def normal_json(text: str) -> str:
    """JSON, or JSON lines, without measured values: order of keys and form of numbers stay as they are."""
    documents = text.splitlines() if text.count("\n") > 1 and "\n{" in text else [text]
    return "\n".join(json.dumps(_unmeasured(json.loads(one)), indent=1, ensure_ascii=False) for one in documents)


def _unmeasured(value: Any) -> Any:
    if isinstance(value, list):
        return [_unmeasured(one) for one in value]
    if not isinstance(value, dict):
        return value
    hidden = MEASURED | (DIGESTS if _measured(value) else set())
    return {key: f"<{key}>" if key in hidden else _unmeasured(one) for key, one in value.items()}


def _measured(value: Any) -> bool:
    """Whether any key at any depth is a measured one."""
    if isinstance(value, list):
        return any(map(_measured, value))
    return isinstance(value, dict) and any(key in MEASURED or _measured(one) for key, one in value.items())


def file_difference(one: Path, other: Path, one_at: tuple[Path, Path], other_at: tuple[Path, Path]) -> str | None:
    """The first difference of two files, None where there is none. `…_at`: scratch folder and tree of each."""
    contents = one.read_bytes(), other.read_bytes()
    if contents[0] == contents[1]:
        return None
    if one.suffix not in TEXT_FILES:
        return _bytes_difference(*contents)
    texts = [content.decode() for content in contents]
    if one.suffix in (".json", ".jsonl"):
        texts = [normal_json(text) for text in texts]
    return text_difference(*(normal_text(t, *at) for t, at in zip(texts, (one_at, other_at), strict=True)), "text")


def text_difference(one: str, other: str, what: str) -> str | None:
    """Where two texts part, with a little of both."""
    if one == other:
        return None
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    start, line = max(0, at - SHOWN // 2, one.rfind("\n", 0, at) + 1), one.count("\n", 0, at) + 1
    return f"{what}, line {line}: {one[start : at + SHOWN]!r} ≠ {other[start : at + SHOWN]!r}"


def _bytes_difference(one: bytes, other: bytes) -> str:
    if len(one) != len(other):
        return f"{len(one):,} bytes ≠ {len(other):,} bytes"
    at = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
    return f"byte {at:,} of {len(one):,}: {one[at]:02x} ≠ {other[at]:02x}"
