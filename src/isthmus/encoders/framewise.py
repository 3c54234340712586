"""Any image encoder as an encoder of films: every frame by itself, at a stated rate."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from isthmus.encoders.base import Encoder, Inputs, Output
from isthmus.encoders.pooling import pool_tokens
from isthmus.encoders.uri import EncoderURI

FRAMES = 32  # that go through the network at once


class FramewiseEncoder(Encoder):
    """Tokens are frames, `fps` a second; each is what the image encoder gives of the whole picture.

    Layers are those of the image encoder, every frame pooled by the option `frame`, or as its own pipeline does by
    default. A film is decoded while the network works: memory holds `FRAMES` frames, whatever its length.
    """

    def __init__(self, pictures: Encoder, uri: EncoderURI) -> None:
        self.pictures, self.rate_hz = pictures, float(uri.fps or 25)
        self._view = pictures.at(pool=uri.frame)
        ingredients = {"pictures": pictures.backbone_key, "fps": uri.fps, "frame": self._view.pool}
        super().__init__(uri, "video", pictures.network, ingredients, pools=("mean", "max"), device=pictures.device)
        self.licence, self.revision = pictures.licence, pictures.revision

    def preprocess(self, items: Sequence[Any]) -> Inputs:
        """{"films": the films themselves}."""
        return {"films": self.spec.read(items)}

    def forward(self, inputs: Inputs, layers: bool) -> Output:
        each = [self._film(film, layers) for film in inputs["films"]]
        counts = torch.tensor([len(states[-1]) for states in each])
        padded = [nn.utils.rnn.pad_sequence(list(column), batch_first=True) for column in zip(*each, strict=True)]
        mask = (torch.arange(int(counts.max())) < counts[:, None]).to(padded[-1].device)
        return Output(tokens=padded[-1], mask=mask, layers=padded[:-1])

    def _film(self, film: Any, layers: bool) -> list[Tensor]:
        """[T, D_k] of each layer, then of the end."""
        parts: list[list[Tensor]] = []
        rest = film.frames(self.rate_hz)
        while frames := list(islice(rest, FRAMES)):
            inputs = self.pictures.prepare([Image.fromarray(np.ascontiguousarray(frame)) for frame in frames])
            output = self.pictures.forward({key: self._place(value) for key, value in inputs.items()}, layers)
            pool = self._view.pool or self.pictures.default_pool
            parts.append([pool_tokens(state, pool, None, output.prefix) for state in output.layers])
            parts[-1].append(self._view._pooled(output))
        return [torch.cat(column) for column in zip(*parts, strict=True)]
