"""Indexes of pictures: encoded once, kept up to date, searched at once."""

from typing import TYPE_CHECKING, Any

from isthmus.index.layout import is_index
from isthmus.index.reader import ImageIndex, open_index

if TYPE_CHECKING:
    from isthmus.index.build import IndexReport, build_index

__all__ = ["ImageIndex", "IndexReport", "build_index", "is_index", "open_index"]


def __getattr__(name: str) -> Any:
    """What builds an index is loaded when it is needed: it loads torch, which a search of texts does without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from isthmus.index import build

    return getattr(build, name)
