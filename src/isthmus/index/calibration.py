"""What an index knows of its own scores: those of texts that nothing fits, and how well candidates serve."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from isthmus.data.feature_pairs import SIDES
from isthmus.index.exact import exact_top
from isthmus.index.layout import IndexRecord
from isthmus.index.segments import Segment
from isthmus.metrics.absence import absent, nouns, null_best
from isthmus.models.dual_encoder import DualEncoder

LEAST_SPREAD = 1e-6  # of the best scores of nouns; below it the encoder does not tell them apart


def calibrate(
    root: Path, record: IndexRecord, model: DualEncoder, segments: list[Segment], removed: np.ndarray, items: pa.Table
) -> None:
    """Fit `record.null`, the best scores of everyday nouns, to the pictures as they are now."""
    encode: Any = partial(model.encode, SIDES[1])
    blocks = [segment.embeddings for segment in segments]
    there = np.ones(record.rows, bool)
    there[removed] = False
    names = nouns()
    best = exact_top(encode(names), blocks, 1, None if there.all() else there)[0][:, 0]
    captions = (caption for listed in items["captions"].to_pylist() for caption in listed or ())
    record.null = null_best(best, absent(names, captions)) if np.ptp(best) >= LEAST_SPREAD else None
