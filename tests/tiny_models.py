"""Models over random encoders, saved."""

from __future__ import annotations

from pathlib import Path

from isthmus.encoders import load_encoder
from isthmus.models.dual_encoder import DualEncoder
from isthmus.projectors import build_projector
from tiny_encoders import save_bert, save_dinov2


def save_dual(folder: Path) -> DualEncoder:
    """A random model that loads by its path, `folder/model`, over a DINOv2 and a BERT beside it."""
    image = load_encoder(f"hf:{save_dinov2(folder / 'image')}?pool=cls")
    text = load_encoder(f"hf:{save_bert(folder / 'text')}?pool=mean", modality="text")
    encoders = {"image": [image], "text": [text]}
    heads = [build_projector("linear", [32], 8) for _ in encoders]
    records = {side: [one.record() for one in listed] for side, listed in encoders.items()}
    model = DualEncoder(*heads, scale=10.0, records=records, encoders=encoders)
    model.save_pretrained(folder / "model")
    return model
