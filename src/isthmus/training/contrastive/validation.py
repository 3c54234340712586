"""How good a state is: retrieval on the validation split."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.matrix import rows, rows_at_once
from isthmus.metrics.retrieval import retrieval

CUTOFFS = (1, 5, 10)
BATCH = 8192


def recalls(image: torch.Tensor, text: torch.Tensor, val: FeaturePairs) -> dict[str, float]:
    """Of embeddings [N, d], [M, d]: recall at 1, 5 and 10, the mean of both directions each, and their mean."""
    metrics = retrieval(image, text, val.image_of, k=CUTOFFS, bootstrap=0)["metrics"]
    found = {f"val_recall@{k}": float(metrics[f"mean_recall@{k}"]) for k in CUTOFFS}
    return {"val_recall": sum(found.values()) / len(found), **found}


@torch.inference_mode()
def project(projector: nn.Module, matrix: Any, device: torch.device) -> torch.Tensor:
    """Unit rows float32 [n, width] of all features [n, D], on the CPU."""
    parts = []
    batch = min(BATCH, rows_at_once(matrix.shape[1]))
    for start in range(0, matrix.shape[0], batch):
        features = rows(matrix, np.arange(start, min(start + batch, matrix.shape[0])))
        parts.append(F.normalize(projector(torch.from_numpy(features).to(device)).float(), dim=-1).cpu())
    return torch.cat(parts)
