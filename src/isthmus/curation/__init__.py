"""Choosing the pairs worth training on."""

from isthmus.curation.curated import Curated
from isthmus.curation.run import curate

__all__ = ["Curated", "curate"]
