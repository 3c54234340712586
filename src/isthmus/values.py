"""Typed sections of a recipe: the values of a TOML table, checked against the dataclass of the section."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import field
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from isthmus.errors import UsageError, did_you_mean

Sections = Mapping[str, type]  # dataclasses by the name of their table

INF = math.inf


def within(default: Any, low: float, high: float = INF) -> Any:
    """A field whose numbers must lie in [low, high]."""
    return field(default=default, metadata={"low": low, "high": high})


def keys_of(sections: Sections) -> list[str]:
    """All dotted keys, such as "optim.lr"."""
    return [f"{section}.{entry.name}" for section, cls in sections.items() for entry in dataclasses.fields(cls)]


def nearest_key(key: str, sections: Sections) -> str:
    """A hint for an unknown dotted key: the same last part in another section first, then the spelling."""
    known = keys_of(sections)
    same = [one for one in known if one.partition(".")[2] == key.rpartition(".")[2]]
    return f" Did you mean {same[0]!r}?" if len(same) == 1 else did_you_mean(key, known)


def checked_section(sections: Sections, section: str, values: Any, where: str) -> dict[str, Any]:
    """The values of one section, converted to the types that its class declares.

    Raises `UsageError` for an unknown key (the nearest is named), a value of another type or out of range.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"{where}: {section} must be a table, [{section}].")
    cls = sections[section]
    hints = get_type_hints(cls)
    entries = {entry.name: entry for entry in dataclasses.fields(cls)}
    checked = {}
    for key, value in values.items():
        if key not in entries:
            raise UsageError(f"{where}: unknown key {f'{section}.{key}'!r}.{nearest_key(f'{section}.{key}', sections)}")
        try:
            checked[key] = _convert(value, hints[key])
        except TypeError:
            wanted = " or ".join(_kinds(hints[key]))
            raise UsageError(f"{where}: {section}.{key} must be {wanted}, not {value!r}.") from None
        _check_range(f"{where}: {section}.{key}", checked[key], entries[key].metadata)
    return checked


def _convert(value: Any, hint: Any) -> Any:
    """`value` as the type `hint` declares; TypeError when it is not one."""
    if get_origin(hint) in (Union, UnionType):
        for option in get_args(hint):
            try:
                return _convert(value, option)
            except TypeError:
                continue
    elif get_origin(hint) is Literal:
        if isinstance(value, str) and value in get_args(hint):
            return value
    elif get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis:
        if isinstance(value, list | tuple):
            return tuple(_convert(item, get_args(hint)[0]) for item in value)
    elif get_origin(hint) is tuple:
        if isinstance(value, list | tuple) and len(value) == len(get_args(hint)):
            return tuple(_convert(item, kind) for item, kind in zip(value, get_args(hint), strict=True))
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif type(value) is hint:  # not isinstance, because True is not a whole number
        return value
    raise TypeError


def _kinds(hint: Any) -> Iterator[str]:
    """The types that `hint` accepts, in words."""
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "a string"}
    if get_origin(hint) in (Union, UnionType):
        for option in get_args(hint):
            yield from _kinds(option)
    elif get_origin(hint) is Literal:
        yield " or ".join(f'"{choice}"' for choice in get_args(hint))
    elif get_origin(hint) is tuple:
        yield "a list of whole numbers" if ... in get_args(hint) else f"a list of {len(get_args(hint))} numbers"
    elif hint in words:
        yield words[hint]


def _check_range(what: str, value: Any, bounds: Mapping[str, float]) -> None:
    low, high = bounds.get("low", -INF), bounds.get("high", INF)
    for number in value if isinstance(value, tuple) else [value]:
        if isinstance(number, float | int) and not (math.isfinite(number) and low <= number <= high):
            wanted = f"at least {low:g}" if high == INF else f"from {low:g} to {high:g}"
            raise UsageError(f"{what} must be {wanted if low > -INF else 'finite'}, not {number}.")
