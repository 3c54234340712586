"""Imports of version 0.1.0 go on working, and say where their names are now."""

from __future__ import annotations

import importlib

import pytest

import isthmus as ist
from isthmus.moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_what_moved_is_where_the_table_says(old: str) -> None:
    new = MOVED[old]
    places = list(new.values()) if isinstance(new, dict) else [f"{new}:__name__"]
    for place in places:
        module, _, name = place.partition(":")
        assert hasattr(importlib.import_module(module), name), place


def test_an_old_import_works_and_warns_with_the_new_place() -> None:
    with pytest.warns(DeprecationWarning, match=r"is isthmus.models.dual_encoder.DualEncoder now"):
        from isthmus.model import DualEncoder
    assert DualEncoder is ist.DualEncoder
    with pytest.warns(DeprecationWarning), pytest.raises(ImportError, match="no_such_name"):
        from isthmus.model import no_such_name  # noqa: F401


def test_a_module_that_never_was_is_missing() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("isthmus.models_of_ours")
