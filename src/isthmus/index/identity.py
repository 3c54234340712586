"""What tells models apart whose embeddings do not compare."""

from __future__ import annotations

import hashlib

from isthmus.data.feature_pairs import SIDES
from isthmus.models.dual_encoder import DualEncoder


def model_fingerprint(model: DualEncoder) -> str:
    """32 hex digits that differ when embeddings do: of the projectors' weights, the width and the encoders."""
    told = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        told.update(f"{name} {list(tensor.shape)}".encode() + tensor.detach().float().cpu().numpy().tobytes())
    told.update(f"{model.width} {[(m, one['fingerprint']) for m in SIDES for one in model.records[m]]}".encode())
    return told.hexdigest()
