"""Answers to a question, as tables write them and as a store keeps them: a JSON object of answers and their scores."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from typing import Any

from isthmus.data.cells import as_captions, is_nan, plain
from isthmus.errors import InputError

FIELDS = ("answer", "answers", "scores")
MAX_ANSWERS = 1000  # of one question
MAX_LENGTH = 4096  # characters of one


def read_answers(fields: Mapping[str, Any], place: str) -> str | None:
    """The answers of a row as `written`; None where it has none.

    `answer` is one text, `answers` a list of them; each counts 1 unless `scores`, as many numbers from 0 to 1, say
    otherwise. Lists may be written out as text, as CSV needs it.
    Raises `InputError` for what is neither, naming `place`.
    """
    cell = fields.get("answers") if fields.get("answers") is not None else fields.get("answer")
    texts = [one for one in (_text(cell, place) for cell in as_captions(cell)) if one]
    if not texts:
        return None
    if len(texts) > MAX_ANSWERS:
        raise InputError(f"{place}: {len(texts):,} answers, more than the {MAX_ANSWERS:,} of a question.")
    scores = _scores(fields.get("scores"), len(texts), place)
    return written(dict(zip(reversed(texts), reversed(scores), strict=True)))


def written(answers: Mapping[str, float]) -> str:
    """Answers and their scores as a store keeps them, in one order whatever the order given."""
    return json.dumps({name: answers[name] for name in sorted(answers)}, ensure_ascii=False)


def read_written(cell: str | None) -> dict[str, float]:
    """Answers and their scores from `written`; none where there are none. Raises `InputError` for anything else."""
    if cell is None:
        return {}
    try:
        found = json.loads(cell)
        return {str(name): float(score) for name, score in found.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise InputError(f"answers {cell[:60]!r} are not a JSON object of answers and scores. Embed again.") from None


def _text(value: Any, place: str) -> str | None:
    value = plain(value)
    if value is None or is_nan(value):
        return None
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not isinstance(value, str):
        raise InputError(f"{place}: an answer is a {type(value).__name__}, {str(value)[:40]!r}. Write it as text.")
    if len(value) > MAX_LENGTH:
        raise InputError(f"{place}: an answer has {len(value):,} characters, more than the {MAX_LENGTH:,} allowed.")
    return value.strip()


def _scores(cell: Any, count: int, place: str) -> list[float]:
    cell = plain(cell)
    if cell is None or (not isinstance(cell, list | tuple | str) and is_nan(cell)):
        return [1.0] * count
    try:
        listed = ast.literal_eval(cell) if isinstance(cell, str) else cell
        found = [float(one) for one in (listed if isinstance(listed, list | tuple) else [listed])]
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise InputError(f"{place}: scores {str(cell)[:40]!r} are not a list of numbers.") from None
    if len(found) != count:
        raise InputError(f"{place}: {count} answers, but {len(found)} scores.")
    if not all(math.isfinite(one) and 0 <= one <= 1 for one in found):
        raise InputError(f"{place}: scores {found} are not all from 0 to 1.")
    return found
