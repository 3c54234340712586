"""How good a state is: retrieval on the validation split."""

from __future__ import annotations

import torch

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.metrics.retrieval import retrieval
from isthmus.projectors.projector import project
from isthmus.training.joint import Joint

CUTOFFS = (1, 5, 10)


def validate(joint: Joint, val: FeaturePairs, device: torch.device) -> dict[str, float]:
    """Recall at 1, 5 and 10, each the mean of both directions (shares), and their mean, `val_recall`."""
    joint.eval()
    image, text = project(joint.image, val.image, device), project(joint.text, val.text, device)
    joint.train()
    return recalls(image, text, val)


def recalls(image: torch.Tensor, text: torch.Tensor, val: FeaturePairs) -> dict[str, float]:
    """The same of embeddings [N, d] and [M, d]."""
    metrics = retrieval(image, text, val.image_of, k=CUTOFFS, bootstrap=0)["metrics"]
    found = {f"val_recall@{k}": float(metrics[f"mean_recall@{k}"]) for k in CUTOFFS}
    return {"val_recall": sum(found.values()) / len(found), **found}
