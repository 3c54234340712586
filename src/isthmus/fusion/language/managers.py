"""Zero-initialised managers: layers of an image encoder, added to a picture's tokens before chosen decoder layers.

Source: Manager (arXiv 2506.11515, section IV), its plug-in of LLaVA-OneVision: H[image] += Σ_i W_i ⊙ (P(V_i) + E_i),
with one projector P for all layers, a learned vector E_i for each, no norm and no softmax, and W = 0 at first, so that
the model starts as the one without managers. Before decoder layer 0 the layer that is fed in already is left out.
The authors' release counts layers from the embedding's output, but the paper from the first block; here, as everywhere
in isthmus, 0 is the embedding's output and k that of block k.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LanguageManagers(nn.Module):
    """Weights W of all managers and the layers' vectors E.

    layers: N that are weighed. hidden: D of the language model. before: decoder layers that a manager stands before.
    fed: place among the N of the layer that is fed in, None if it is none of them. jitter: of weights in training.
    """

    def __init__(
        self, layers: int, hidden: int, before: Sequence[int], *, fed: int | None, jitter: float = 0.0
    ) -> None:
        super().__init__()
        self.layers, self.before, self.fed, self.jitter = layers, list(before), fed, jitter
        counts = {place: layers - (place == 0 and fed is not None) for place in self.before}
        self.gates = nn.ParameterDict({str(place): torch.zeros(count, hidden) for place, count in counts.items()})
        self.embedding = nn.Parameter(torch.randn(layers, hidden) / hidden**0.5)

    def forward(self, projected: Tensor, place: int) -> Tensor:
        """What is added before decoder layer `place`: projected layers float32 [B, N, T, D] to [B, T, D]."""
        gates = self.gates[str(place)]
        if self.training and self.jitter:
            gates = gates * torch.empty_like(gates).uniform_(1 - self.jitter, 1 + self.jitter)
        values = projected + self.embedding[:, None]
        if len(gates) < self.layers:
            values = torch.cat([values[:, : self.fed], values[:, self.fed + 1 :]], 1)  # type: ignore[operator]
        return (gates[:, None] * values).sum(1)

    def weights(self) -> dict[int, Tensor]:
        """The mean gate of each layer, [N], by decoder layer: how much of it is added. (0 for the one left out.)"""
        found = {}
        for place in self.before:
            mean = self.gates[str(place)].detach().mean(1)
            if len(mean) < self.layers:
                mean = torch.cat([mean[: self.fed], mean.new_zeros(1), mean[self.fed :]])
            found[place] = mean
        return found
