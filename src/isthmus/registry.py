"""Registries of objects by name: those of isthmus, and those that other packages register as entry points."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from isthmus.errors import UsageError, did_you_mean

DEMO = "isthmus-demo: to install it, run `pip install -e ./demo` in a clone of the repository"


class Registry:
    """Names and the objects they stand for, imported on first use.

    group: of the entry points by which other packages add names, such as `isthmus.encoder_sources`. They cannot
        replace a name of ours.
    own: our names, with `module` or `module:attribute`. noun: what they are, for messages. elsewhere: names that a
    separate package registers, with that package and how to install it.
    """

    def __init__(
        self, group: str, own: Mapping[str, str], *, noun: str = "entry", elsewhere: Mapping[str, str] | None = None
    ) -> None:
        self.group, self.own, self.noun, self.elsewhere = group, own, noun, elsewhere or {}

    def names(self) -> list[str]:
        """All names, in their order: also those of `elsewhere`, installed or not."""
        return list(dict.fromkeys([*self.elsewhere, *self.own, *sorted(self._entries)]))

    def find(self, name: str) -> Any:
        """The object that `name` stands for. UsageError: unknown, or its package is missing or broken."""
        entry = self.entry(name)
        if name in self.own:
            return entry.load()
        try:
            return entry.load()
        except (ImportError, AttributeError) as error:
            package = entry.dist.name if entry.dist else entry.module
            raise UsageError(f"the {self.noun} {name!r} of the package {package} cannot be loaded: {error}") from error

    def entry(self, name: str) -> EntryPoint:
        """The place of `name`, without importing it. UsageError: it is unknown, or its package is missing."""
        if name in self._entries:
            return self._entries[name]
        if name in self.elsewhere:
            raise UsageError(f"the {self.noun} {name!r} comes with the package {self.elsewhere[name]}.")
        raise UsageError(f"no {self.noun} {name!r}." + did_you_mean(name, self.names()))

    @cached_property
    def _entries(self) -> dict[str, EntryPoint]:
        ours = {name: EntryPoint(name, value, self.group) for name, value in self.own.items()}
        return {entry.name: entry for entry in entry_points(group=self.group)} | ours
