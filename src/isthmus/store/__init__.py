"""The store: features of pairs on disk, memory-mapped, keyed by content and joined by id."""

from __future__ import annotations

from isthmus.store.arrays import import_arrays
from isthmus.store.checkup import doctor
from isthmus.store.clip_retrieval import export_clip_retrieval, import_clip_retrieval
from isthmus.store.imports import import_folder
from isthmus.store.matrix import FeatureMatrix
from isthmus.store.reader import Store, open_store
from isthmus.store.removal import Removed, remove
from isthmus.store.writer import StoreWriter

__all__ = [
    "FeatureMatrix",
    "Removed",
    "Store",
    "StoreWriter",
    "doctor",
    "export_clip_retrieval",
    "import_arrays",
    "import_clip_retrieval",
    "import_folder",
    "open_store",
    "remove",
]
