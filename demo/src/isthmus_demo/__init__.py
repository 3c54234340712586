"""The demo of isthmus: Open Clip Art drawings with captions, the run behind `isthmus demo`, packaged encoders.

``PAIRS`` is the path of a pairs table (Parquet); the README of this distribution describes its columns.
"""

from pathlib import Path

__version__ = "0.1.0"

PAIRS = Path(__file__).parent / "data" / "pairs.parquet"
LICENSE = "public domain (Creative Commons Public Domain Dedication), from Debian's openclipart 0.18"
