"""Features through a head into the joint space, a bounded part at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isthmus.data.matrix import Matrix, rows, rows_at_once

BATCH = 8192


@torch.inference_mode()
def project(
    head: nn.Module, matrix: Matrix, device: torch.device, *, width: int | None = None, batch_size: int = BATCH
) -> Tensor:
    """Unit rows float32 [n, d] of all features [n, D] on the CPU, computed on `device`, normalised in fp32.

    head: in the mode it is in. width: the first so many of its dimensions alone. batch_size: rows at once, at most.
    """
    out = torch.empty(matrix.shape[0], width or int(head.width))  # type: ignore[arg-type]
    batch = min(batch_size, rows_at_once(matrix.shape[1]))
    for start in range(0, len(out), batch):
        features = torch.from_numpy(rows(matrix, slice(start, start + batch))).to(device)
        out[start : start + batch] = nn.functional.normalize(head(features).float()[:, : out.shape[1]], dim=-1).cpu()
    return out
