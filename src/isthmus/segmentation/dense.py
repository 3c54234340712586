"""Embeddings of all patches of an image in the joint space."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from isthmus.encoders import Encoder
from isthmus.encoders.base import Inputs
from isthmus.encoders.images import to_pil
from isthmus.encoders.uri import parse_pool
from isthmus.encoders.whole import WholePictures
from isthmus.errors import UsageError
from isthmus.models.dual_encoder import DualEncoder
from isthmus.segmentation.attention import Alone, last_block

Resample = Literal["bicubic", "bilinear"]
Normalise = Literal["encoder", "clip"]
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
CLIP_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
CLIP_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]


class DenseEncoder:
    """The image side of a model, patch by patch, without any cropping.

    A head that was trained on pooled features takes each patch as if it were a pooled feature; for the pooling
    `cls+mean`, [CLS; patch], as in SAIL's evaluation. A token head projects patches by `dense`.

    Args:
        model: with its encoders loaded, each of which gives tokens.
        attention, alone: of the last block, see `attention.last_block`.
        cls: False leaves out the class token if a token head has a slot for it.
        resample: how pictures are resized; normalise: by the "encoder"'s own mean and deviation, or by "clip"'s.

    Raises `UsageError` for an encoder without tokens, or whose own pooling is none of its tokens.
    """

    def __init__(
        self,
        model: DualEncoder,
        *,
        attention: str = "qk",
        alone: Alone | None = None,
        cls: bool = True,
        resample: Resample = "bicubic",
        normalise: Normalise = "encoder",
    ) -> None:
        self.model, self.attention, self.alone, self.cls = model, attention, alone, cls
        self.patches = [PatchTokens(encoder, resample, normalise) for encoder in model.encoders["image"]]
        self.by_token = hasattr(model.image_projector, "dense")
        if self.by_token and len(self.patches) > 1:
            raise UsageError("a token head of several encoders side by side has no patches in common.")
        with self._changed():
            pass  # refuses encoders without this possibility

    @property
    def side(self) -> int:
        """Pixels of the first encoder's own square input."""
        return self.patches[0].side

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Images of one size to [N, h, w, d], L2-normalised; the grid is the finest of the encoders'."""
        with self._changed():
            found = [patches(images) for patches in self.patches]
        grid = max((tokens.shape[1:3] for tokens, _ in found), key=lambda shape: shape[0] * shape[1])
        device = next(self.model.parameters()).device
        tokens = [(_resampled(tokens, grid).to(device), cls.to(device)) for tokens, cls in found]
        return F.normalize(self._project(tokens).float(), dim=-1)

    def _changed(self) -> ExitStack:
        stack = ExitStack()
        for patches in self.patches:
            stack.enter_context(last_block(patches.encoder, self.attention, alone=self.alone))
        return stack

    def _project(self, found: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        projector: Any = self.model.image_projector
        if self.by_token:
            tokens, cls = found[0]
            height, width = tokens.shape[1:3]
            return projector.dense(tokens.flatten(1, 2), cls if self.cls else None).unflatten(1, (height, width))
        parts = [
            cls[:, None, None].expand_as(tokens) if part == "cls" else tokens
            for patches, (tokens, cls) in zip(self.patches, found, strict=True)
            for part in patches.pool
        ]
        return projector(torch.cat(parts, dim=-1).flatten(0, 2)).unflatten(0, parts[0].shape[:3])


class PatchTokens:
    """One encoder's patches on their grid, at its layer.

    Its preprocessing resizes and crops; here whole images of any size are used (`WholePictures`).
    """

    def __init__(self, encoder: Encoder, resample: Resample = "bicubic", normalise: Normalise = "encoder") -> None:
        if resample not in FILTERS or normalise not in ("encoder", "clip"):
            raise UsageError(f"resample {resample!r}, normalise {normalise!r}: bicubic or bilinear, encoder or clip.")
        if encoder.pool is None or not encoder.pools:
            raise UsageError(
                f"{encoder.uri}: gives no tokens, or its own pooling is not made of them: segmentation needs patches. "
                "Train on a pooling of tokens, such as ?pool=mean or ?pool=cls+mean."
            )
        self.encoder, self.pool = encoder, parse_pool(encoder.pool)
        if "last" in self.pool:
            raise UsageError(f"{encoder.uri}: pool={encoder.pool} does not refer to patches.")
        self.whole, self.filter = WholePictures(encoder), FILTERS[resample]
        if normalise == "clip":
            self.whole.low, self.whole.high = -CLIP_MEAN / CLIP_STD, (1 - CLIP_MEAN) / CLIP_STD
        self.unit = self.side / self._tokens(self.whole.black)[0].shape[2]

    @property
    def side(self) -> int:
        """Pixels of the encoder's own square input."""
        return self.whole.side

    def __call__(self, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Patches float32 [N, h, w, D] and class tokens [N, D] (the mean where there is none). One size for all."""
        width, height = (self._snap(edge) for edge in images[0].size)
        sized = [to_pil(image).resize((width, height), self.filter) for image in images]
        return self._tokens(self.whole(sized))

    def _tokens(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        encoder = self.encoder
        try:
            output = encoder.run(inputs, layers=encoder.layer is not None)
        except (RuntimeError, AssertionError, ValueError) as error:
            shape = tuple(inputs[self.whole.key].shape[-2:])
            raise UsageError(f"{encoder.uri}: cannot take {shape[1]} × {shape[0]} pixels ({error}).") from error
        tokens = output.tokens if encoder.layer is None else output.layers[encoder.layer]
        assert tokens is not None
        tokens = tokens.float()
        patches = tokens[:, output.prefix :]
        cls = tokens[:, 0] if output.prefix else patches.mean(dim=1)
        return patches.unflatten(1, grid_shape(patches.shape[1], *inputs[self.whole.key].shape[-2:])), cls

    def _snap(self, edge: int) -> int:
        """Pixels of the nearest whole number of patches."""
        return round(max(1, round(edge / self.unit)) * self.unit)


def grid_shape(patches: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of `patches` in an image of this size: the factors nearest to its shape."""
    pairs = [(rows, patches // rows) for rows in range(1, patches + 1) if patches % rows == 0]
    return min(pairs, key=lambda pair: max(pair[0] * width, pair[1] * height) / min(pair[0] * width, pair[1] * height))


def _resampled(tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
    if tokens.shape[1:3] == torch.Size(grid):
        return tokens
    return F.interpolate(tokens.permute(0, 3, 1, 2), size=tuple(grid), mode="bilinear").permute(0, 2, 3, 1)
