"""Indexes of pictures: encoded once, kept up to date, searched at once."""

from isthmus.index.build import IndexReport, build_index
from isthmus.index.layout import is_index
from isthmus.index.reader import ImageIndex, open_index

__all__ = ["ImageIndex", "IndexReport", "build_index", "is_index", "open_index"]
