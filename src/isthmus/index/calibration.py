"""What an index knows of its own scores: those of texts that nothing fits, and how well candidates serve."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isthmus.data.feature_pairs import SIDES
from isthmus.index.candidates import available, calibrate_probes, needs_candidates, write_candidates
from isthmus.index.exact import exact_top
from isthmus.index.segments import Segment
from isthmus.metrics.absence import NullBest, absent, nouns, null_best
from isthmus.models.dual_encoder import DualEncoder

LEAST_SPREAD = 1e-6  # of the best scores of nouns; below it the encoder does not tell them apart
QUERIES = 256  # texts, and pictures, on which probes are calibrated
LEAST_TEXTS = 64  # captions; fewer are no sample of what will be asked


def fit_null(model: DualEncoder, segments: list[Segment], there: np.ndarray, items: pa.Table) -> NullBest | None:
    """The best scores of everyday nouns, of the pictures in rows `there` (bool [n]); None where they are all alike."""
    names, blocks = nouns(), [segment.embeddings for segment in segments]
    best = exact_top(_encoder(model)(names), blocks, 1, None if there.all() else there)[0][:, 0]
    captions = (caption for listed in items["captions"].to_pylist() for caption in listed or ())
    return null_best(best, absent(names, captions)) if np.ptp(best) >= LEAST_SPREAD else None


def calibrate_segments(root: Path, model: DualEncoder, segments: list[Segment], items: pa.Table) -> list[str]:
    """Give large segments that have none yet their candidates, with probes for texts; remarks for the user."""
    large = [one for one in segments if needs_candidates(*one.embeddings.shape)]
    bare = [one for one in large if one.record.candidates is None]
    if bare and not available():
        rows = sum(map(len, bare))
        return [f"{rows:,} pictures are compared one by one for every query. pip install 'isthmus[index]' is faster."]
    texts = _encoder(model)(sample_texts(items)) if bare else None
    for segment in bare:
        write_candidates(root, segment)
        some = np.sort(np.random.default_rng(0).choice(len(segment), min(QUERIES, len(segment)), replace=False))
        assert texts is not None
        calibrate_probes(root, segment, texts, segment.embeddings[some].astype(np.float32))
    return []


def sample_texts(items: pa.Table) -> list[str]:
    """Texts of the kind that will be asked: captions, or where there are few of them everyday nouns."""
    captions = pc.unique(pc.list_flatten(items["captions"])).drop_null()
    if len(captions) < LEAST_TEXTS:
        return nouns()
    chosen = np.random.default_rng(0).choice(len(captions), min(QUERIES, len(captions)), replace=False)
    found: list[str] = captions.take(pa.array(np.sort(chosen))).to_pylist()
    return found


def recall_told(segments: list[Segment]) -> list[str]:
    """How each segment with candidates is searched, and how much it finds, in words."""
    told = []
    for segment in segments:
        if (one := segment.record.candidates) is not None:
            (name, recall), *_ = ((key, value) for key, value in one.items() if key.startswith("recall"))
            told.append(
                f"{len(segment):,} pictures in {one['lists']:,} lists ({one['kind']}), of which {one['probes']:,} are "
                f"probed: {name} {recall['text']:.3f} for texts, {recall['image']:.3f} for pictures."
            )
    return told


def _encoder(model: DualEncoder) -> Any:
    return partial(model.encode, SIDES[1])
