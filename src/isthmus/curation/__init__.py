"""Choosing the pairs worth training on."""

from isthmus.curation.run import Curated, curate

__all__ = ["Curated", "curate"]
