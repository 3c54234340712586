"""What two runs of one program never share, and how `same_results.py` takes it away before it compares.

Nothing else is taken away: files whose bytes are equal are the same, others are compared as text after this.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

# Measured on the clock, at any depth of JSON.
MEASURED = {"seconds", "pairs_per_second", "items_per_second", "scoring_seconds"}
# Of a file that holds one of the above: its seal, and the digest of a file that does.
DIGESTS = {"seal", "digest"}
# Of a selection whose encoders were timed; one among a store's features counts widths and is compared.
OF_COST = {"cost"}
TIMED = {"cost_unit": "seconds a pair"}
TEXTS = [
    (r"(?m)[\r\n].*(\d+%\||\d+it \[).*$", "", "progress bars"),
    (r"(?m)^train (?!100%)\d+%.*\n", "", "lines of progress in training, but for the last"),
    (r"[\d,.]+ (pairs|items|rows|it)/s", "<rate>", "rates"),
    (r"\b\d[\d,.]* ?(s|ms|seconds|minutes|min)\b", "<time>", "times"),
    (r"(seconds\W{1,4})\d[\d.]*", r"\1<time>", "times behind their name, printed and in a model's card"),
    (r"(\| (?:image|text) features, [^|]*\|[^|]*\|)[^|]*", r"\1 <time> ", "seconds in a model card's table"),
    (r"(\| training of the heads \|[^|]*\|)[^|]*", r"\1 <time> ", "the same of the heads"),
    (r"\S*\.py:\d+: (\w*Warning: .*)\n .*", r"\1", "file and line of a Python warning"),
    (r"(#|id=\")p[0-9a-f]{10}", r"\1<clip>", "matplotlib's names of clip paths, which are addresses"),
]
COST_LABEL = "milliseconds to encode"  # on the axis of a plot of measured costs
COST_CELLS = [
    r'(<td class="value start">)[\d.e+-]+(?: <span class="mark">★</span>)?(?=</td>)',
    r'( M</td>\s*<td class="number">)[^<]*',  # items a second, behind the number of parameters
]
TEXT_FILES = (".json", ".jsonl", ".html", ".md", ".txt", ".toml", ".svg")
SHOWN = 60  # characters on each side of the first difference


def normal_text(text: str, folder: Path, tree: Path) -> str:
    """`text` without absolute paths, times and rates."""
    text = text.replace(str(folder), "<work>").replace(str(tree), "<tree>")
    for pattern, replacement, _ in TEXTS:
        text = re.sub(pattern, replacement, text)
    return _without_costs(text) if COST_LABEL in text else text


def _without_costs(page: str) -> str:
    """A selection's report without measured costs and their plot."""
    for cell in COST_CELLS:
        page = re.sub(cell, r"\1<cost>", page)
    return re.sub(r"(?s)<svg.*?</svg>", lambda plot: "<costs>" if COST_LABEL in plot[0] else plot[0], page)


def normal_json(text: str) -> str:
    """JSON, or JSON lines, without measured values: order of keys and form of numbers stay as they are."""
    documents = text.splitlines() if text.count("\n") > 1 and "\n{" in text else [text]
    return "\n".join(json.dumps(_unmeasured(json.loads(one)), indent=1, ensure_ascii=False) for one in documents)


def _unmeasured(value: Any, hidden: frozenset[str] | set[str] = frozenset()) -> Any:
    """`value` without what is measured; hidden: keys that an outer table makes measured."""
    if isinstance(value, list):
        return [_unmeasured(one, hidden) for one in value]
    if not isinstance(value, dict):
        return value
    if TIMED.items() <= value.items():
        hidden = OF_COST
    here = hidden | MEASURED | (DIGESTS if _measured(value) else set())
    masked = {key: f"<{key}>" for key, one in value.items() if key in here and not isinstance(one, dict | list)}
    return {key: masked.get(key) or _unmeasured(one, hidden) for key, one in value.items()}


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
