"""A model without weights that knows colours, patch by patch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from isthmus.encoders import Encoder
from isthmus.encoders.base import Inputs, Output
from isthmus.encoders.callables import from_callable
from isthmus.encoders.uri import EncoderURI
from isthmus.models.dual_encoder import DualEncoder
from isthmus.projectors import build_projector

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class PatchColours(Encoder):
    """A CNN of sorts: the mean colour of every 8 × 8 pixels. Its own preprocessing crops the centre of 32 × 32."""

    def __init__(self) -> None:
        super().__init__(EncoderURI("hf", "colours"), "image", nn.AvgPool2d(8), {"weights": "none"}, pools=("mean",))

    def preprocess(self, items: Sequence[Any]) -> Inputs:
        small = [item.convert("RGB").resize((40, 40)).crop((4, 4, 36, 36)) for item in items]
        return {"pixels": torch.stack([torch.tensor(np.asarray(one)).permute(2, 0, 1) / 127.5 - 1 for one in small])}

    def forward(self, inputs: Inputs, layers: bool) -> Output:
        return Output(tokens=self.network((inputs["pixels"] + 1) / 2).flatten(2).transpose(1, 2))


def words(texts: list[str]) -> np.ndarray:
    return np.array([[name in text for name in COLOURS] for text in texts], np.float32) + 1e-3


def colour_model(image: Encoder | None = None, text: Encoder | None = None) -> DualEncoder:
    encoders = {
        "image": [image or PatchColours()],
        "text": [text or from_callable(words, "text", "words", name="words", width=3)],
    }
    heads = [build_projector("linear", [3], 3, norm="none") for _ in encoders]
    for head in heads:
        nn.init.eye_(head.blocks[0].linear.weight)
        nn.init.zeros_(head.blocks[0].linear.bias)
    records = {modality: [one.record() for one in listed] for modality, listed in encoders.items()}
    return DualEncoder(*heads, scale=10.0, records=records, encoders=encoders)
