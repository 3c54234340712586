"""Limits on model configurations, so that a hostile one gives a message and does not take hours or gigabytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isthmus.errors import InputError

MAX_BYTES = 2**24  # of a configuration; those with the names of 21,841 classes take 2 MB
MAX_DEPTH = 64
MAX_NUMBERS = 1000  # in one list
MAX_LAYERS = 1000  # the deepest published networks have some hundred
MAX_SIDE = 2**14  # pixels
MAX_DIGITS = 40  # tokenizers write 10³⁰ for "no limit"
MAX_MODULES = 100

LAYERS = re.compile(r"(.*_)?(layers?|depths?|blocks|stages)")
SIDES, PROCESSOR = ("height", "width", "crop_size"), "processor_config.json"


def check_limits(file: Path, value: Any) -> None:
    """Refuse a configuration that is deeper, longer or needs more than any published one.

    Raises `InputError`, which names the file and the entry.
    """
    for key, one, depth in _values(value):
        if depth > MAX_DEPTH:
            _refuse(file, key, f"stands {depth} levels deep")
        numbers = _numbers(one)
        if len(numbers) > MAX_NUMBERS:
            _refuse(file, key, f"lists {len(numbers):,} numbers")
        largest = max(map(abs, numbers), default=0)
        if largest >= 10**MAX_DIGITS:
            _refuse(file, key, f"is a number of more than {MAX_DIGITS} digits")
        if largest > MAX_LAYERS and LAYERS.fullmatch(key):
            _refuse(file, key, f"asks for {largest:,} layers")
        if largest > MAX_SIDE and key in SIDES and file.name.endswith(PROCESSOR):
            _refuse(file, key, f"asks for pictures of {largest:,} pixels a side")


def _values(value: Any) -> Iterator[tuple[str, Any, int]]:
    """(key, value, depth) of everything in a JSON value; items of a list have the list's key."""
    waiting = [("", value, 0)]
    while waiting:
        key, value, depth = waiting.pop()
        yield key, value, depth
        if isinstance(value, dict):
            waiting += ((name, one, depth + 1) for name, one in value.items())
        elif isinstance(value, list):
            waiting += ((key, one, depth + 1) for one in value if isinstance(one, dict | list))


def _numbers(value: Any) -> list[int]:
    """The whole numbers in `value`, a number or a list."""
    listed = value if isinstance(value, list) else [value]
    return [one for one in listed if type(one) is int]


def _refuse(file: Path, key: str, reason: str) -> None:
    raise InputError(f"{file}: {key[:80] or 'it'} {reason}, more than any model that isthmus is made for.")
