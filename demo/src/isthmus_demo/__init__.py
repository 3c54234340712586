"""The demo data of isthmus: Open Clip Art drawings with captions, groups and splits.

``PAIRS`` is the path of a pairs table (Parquet); the README of this distribution describes its columns.
"""

from importlib.resources import files
from pathlib import Path

__version__ = "0.1.0"

PAIRS = Path(str(files(__name__) / "data" / "pairs.parquet"))
LICENSE = "public domain (Creative Commons Public Domain Dedication), from Debian's openclipart 0.18"
