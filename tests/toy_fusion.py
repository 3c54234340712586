"""A fusion model with random weights over encoders of a few thousand: what asks and evaluates it is tested on this."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from isthmus.encoders import Encoder, load_encoder
from isthmus.fusion import FusionHeads, FusionNetwork, FusionOptions, FusionPlan
from isthmus.models.fusion_model import FusionModel
from tiny_encoders import save_bert, save_dinov2


def views(folder: Path, layers: Sequence[int] = (1, 2, 3)) -> dict[str, list[Encoder]]:
    """States of these layers of a tiny DINOv2 (3 × 3 patches) and a tiny BERT, saved below `folder`."""
    found = {}
    for side, save in (("image", save_dinov2), ("text", save_bert)):
        place = folder / side
        if not place.exists():
            save(place)
        encoder = load_encoder(f"hf:{place}", modality=side)
        found[side] = [encoder.at(layer, "states") for layer in layers]
    return found


def toy_model(folder: Path, answers: Sequence[str] = ("yes", "no", "two"), **options: Any) -> FusionModel:
    """A model with all heads. options: of `FusionOptions`."""
    encoders = views(folder)
    records = {side: [one.record() for one in some] for side, some in encoders.items()}
    widths = {side: [one["width"] for one in some] for side, some in records.items()}
    chosen = FusionOptions(**({"depth": 2, "width": 16, "heads": 2} | options))
    torch.manual_seed(0)
    plan = FusionPlan(widths, chosen, FusionHeads(contrast=8), answers=len(answers), matching=True, contrast=True)
    network = FusionNetwork(plan)
    for parameter in network.parameters():  # what starts equal would tell nothing
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return FusionModel(network, records=records, answers=answers, loss="one", encoders=encoders)
