"""Validation: retrieval on the validation split."""

from __future__ import annotations

import torch

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.metrics.retrieval import chance, retrieval

CUTOFFS = (1, 5, 10)


def recalls(image: torch.Tensor, text: torch.Tensor, val: FeaturePairs) -> dict[str, float]:
    """Of embeddings [N, d], [M, d]: recall at 1, 5 and 10, the mean of both directions each, and their mean."""
    metrics = retrieval(image, text, val.image_of, k=CUTOFFS, bootstrap=0)["metrics"]
    found = {f"val_recall@{k}": float(metrics[f"mean_recall@{k}"]) for k in CUTOFFS}
    return {"val_recall": sum(found.values()) / len(found), **found}


def guessed(val: FeaturePairs) -> dict[str, float]:
    """What a random order reaches of the recalls at a cut-off."""
    found = chance(len(val), val.image_of, CUTOFFS)
    return {f"val_recall@{k}": found[f"mean_recall@{k}"] for k in CUTOFFS}
