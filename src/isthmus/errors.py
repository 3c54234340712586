"""Errors that tell the user which input is wrong and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

PANIC = "PanicException"  # of Rust code, by name: there is no class to import, and it is no Exception


class IsthmusError(Exception):
    """Base of all errors raised on purpose; the command line prints them and exits with `exit_code`."""

    exit_code = 1


class InputError(IsthmusError, ValueError):
    """The data, a store or a model cannot be used as it is. Names the file, the row and the remedy."""


class UsageError(IsthmusError, ValueError):
    """A name, key or option that does not exist, or options that do not go together."""

    exit_code = 2


class OfflineError(IsthmusError):
    """Something is not in the cache and may not, or cannot, be fetched now."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'cca'?"` for a near miss, else the list of what exists; appended to an error."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else f" Known: {', '.join(known)}."


@contextmanager
def caught(what: Any, failure: str = "cannot be loaded") -> Iterator[None]:
    """Turn whatever a library raises on files from strangers, which is anything, into an `InputError` about `what`.

    Our own errors, an interrupt and an exit pass.
    """
    try:
        yield
    except IsthmusError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{what}: {failure}: {said[:1000]}") from error
