"""What studies of recipes share: draws of pairs, what a model finds of the test pictures, and paired differences."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import torch

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.metrics.bootstrap import paired_bootstrap
from isthmus.metrics.retrieval import ranks
from isthmus.projectors.projector import project

CUTOFFS = (1, 5, 10)
RESAMPLES = 2000
CPU = torch.device("cpu")

Hits = list[list[int]]  # of image → text and text → image queries: in how many of the cut-offs each is found


def drawn(pairs: FeaturePairs, size: int | None, seed: int) -> tuple[FeaturePairs, FeaturePairs]:
    """`size` of the images that may be used (None: all), a fifth of them for validation: (train, val).

    The images are the first in the order of hash(seed, id), whatever split they had.
    """
    usable = np.flatnonzero([split != "test" for split in pairs.splits or [None] * len(pairs)])
    key = {int(row): hashlib.blake2b(f"{seed}:{pairs.image_ids[row]}".encode()).digest() for row in usable}
    chosen = np.sort(np.array(sorted(key, key=key.__getitem__)[:size]))
    parts = dataclasses.replace(pairs.subset(chosen), splits=None).split(seed=seed)
    return parts["train"], parts["val"]


def test_part(pairs: FeaturePairs) -> FeaturePairs:
    return pairs.subset(np.array([split == "test" for split in pairs.splits or []]))


def hits(image: Any, text: Any, test: FeaturePairs) -> Hits:
    """What two projectors find among the test pictures."""
    found = ranks(project(image, test.image, CPU), project(text, test.text, CPU), test.image_of)
    return [sum(found.hits(k)[side].astype(int) for k in CUTOFFS).tolist() for side in (0, 1)]


def mean_recall(found: Hits) -> float:
    """Percent: both directions, R@1, R@5 and R@10 averaged."""
    return 100 * sum(float(np.mean(side)) for side in found) / (2 * len(CUTOFFS))


def difference(ours: list[Hits], theirs: list[Hits], test: FeaturePairs) -> dict[str, Any]:
    """Ours minus theirs, averaged over seeds, in points of mean recall, and its 95 % interval over groups."""
    mean = [
        tuple(np.mean([run[side] for run in runs], axis=0) / len(CUTOFFS) for side in (0, 1)) for runs in (ours, theirs)
    ]
    group = test.bootstrap_group
    found = paired_bootstrap(mean[0], mean[1], (group[test.image_of], group), resamples=RESAMPLES)
    low, high = found["ci95"]
    return {"difference": 100 * found["difference"], "ci95": [100 * low, 100 * high]}
