"""What an encoder is: a frozen network of one modality that gives pooled features, tokens and every layer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from isthmus.encoders.fingerprint import view_fingerprint
from isthmus.encoders.pooling import check_pool, pool_tokens
from isthmus.encoders.uri import EncoderURI

Modality = Literal["image", "text"]


@dataclass
class Output:
    """One forward pass over N items.

    pooled: [N, D], as the encoder's own pipeline ends.
    tokens: [N, T, D] after the final norm, or None where the source does not expose them.
    mask:   [N, T] bool, True where a token is real; None means all are.
    layers: [N, T_k, D_k] each; index 0 is the embedding (or stem) output, then each block's output
            before the final norm. Empty unless asked for.
    prefix: how many leading tokens are not patches or words of content (CLS and registers); a CNN has 0.
    """

    pooled: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None
    layers: Sequence[Tensor] = ()
    prefix: int = 0


class Encoder:
    """A frozen encoder seen through one layer and one pooling.

    Sources subclass it and give three things: `network` (the frozen module), `preprocess` and `forward`.
    Several views of one network share it (`at`), and `encode_views` fills them all from one forward pass.
    """

    modality: Modality
    uri: EncoderURI
    network: nn.Module
    depth: int  # number of blocks (stages of a CNN); layers run from 0 (embedding, stem) to depth
    base_fingerprint: str  # weights + preprocessing + tokenizer + max length + prompt, 64 hex digits
    licence: str | None = None

    def preprocess(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """RGB PIL images, or strings, to the tensors `forward` takes. Runs on the CPU, in any thread."""
        raise NotImplementedError

    def forward(self, inputs: dict[str, Tensor], layers: bool) -> Output:
        """One forward pass; fill `Output.layers` only if `layers`."""
        raise NotImplementedError
