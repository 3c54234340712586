"""From patch embeddings and class texts to a class for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from isthmus.data.images import BadImage
from isthmus.encoders.images import to_pil
from isthmus.errors import UsageError
from isthmus.metrics.zeroshot import Templates, class_embeddings
from isthmus.models.dual_encoder import DualEncoder
from isthmus.segmentation.attention import Alone
from isthmus.segmentation.data import BACKGROUND
from isthmus.segmentation.dense import FILTERS, DenseEncoder, Normalise, Resample

SURROUNDINGS = ("background", "plain background", "texture", "empty area")  # what a class alone is compared with
WINDOWS_AT_ONCE = 8
SLID_BYTES = 2**32  # of the scores of one image on which windows slide
NUMBERS_AT_ONCE = 64_000_000  # of scores per pixel and class, in memory at a time


class Segmenter:
    """Finds the class of each pixel: the one whose text is nearest to its patch in the joint space.

    Args:
        model: a dual encoder whose image encoder gives tokens.
        classes: a name each, or several separated by `;` ("background; sky; wall"), of which the nearest counts.
        templates: prompts with a `{}` slot; a name is the mean of its normalised prompts, as in zero-shot.
        size: pixels of the image's shorter side (whole image: of both sides) as the encoder sees it; default its own.
        window: slide a square of so many pixels over the image, scores averaged where squares overlap; default None,
            the whole image at once, made square.
        stride: pixels from window to window; default half a window.
        threshold: if no class has at least this probability (softmax of the model's logits over the classes), the pixel
            is `background`, which must then be among the classes. Its text is not used, except beside one class alone,
            whose softmax would be 1 everywhere: there `SURROUNDINGS` stand for it.
        longest: pixels that the image's longer side has at most, where a window slides; default any.
        attention, alone, cls, resample, normalise: see `DenseEncoder`.

    Raises `UsageError` for sizes, thresholds and attentions that are invalid, or an encoder without tokens.
    """

    def __init__(
        self,
        model: DualEncoder,
        classes: Sequence[str],
        templates: Templates,
        *,
        size: int | None = None,
        window: int | None = None,
        stride: int | None = None,
        threshold: float | None = None,
        attention: str = "qk",
        alone: Alone | None = None,
        cls: bool = True,
        longest: int | None = None,
        resample: Resample = "bicubic",
        normalise: Normalise = "encoder",
    ) -> None:
        own: dict[str, Any] = {"resample": resample, "normalise": normalise}
        self.dense = DenseEncoder(model, attention=attention, alone=alone, cls=cls, **own)
        self.longest, self.filter = longest, FILTERS[resample]
        self.classes, self.scale, self.threshold = list(classes), model.scale, threshold
        self.window = window
        self.size = size or max(self.dense.side, window or 0)
        self.stride = stride or max(1, (window or self.size) // 2)
        self._check(size, stride)
        self.background = self.classes.index(BACKGROUND) if threshold is not None else None
        self.single = self.background is not None and len(self.classes) == 2
        instead = {self.background: SURROUNDINGS if self.single else ()}
        named = [(i, name) for i, one in enumerate(classes) for name in instead.get(i, _names(one))]
        self.class_of = torch.tensor([i for i, _ in named])
        texts = class_embeddings(model.encode_text, [name for _, name in named], templates)
        self.texts = torch.from_numpy(texts).to(next(model.parameters()).device)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """The class of every pixel, uint8 [H, W] of the image as it is."""
        return self.labels(self.scores(image), image.height, image.width)

    def labels(self, scores: Tensor, height: int, width: int) -> np.ndarray:
        """The class of every pixel, uint8 [height, width], of `scores`."""
        label, probability = self.classify(scores, height, width)
        if self.background is not None and self.threshold is not None:
            label[probability < self.threshold] = self.background
        return label

    def scores(self, image: Image.Image) -> Tensor:
        """Cosines to every class, float32 [C, h, w]; h and w are those of patches (with windows: of pixels of the
        resized image).

        The background class of a threshold has −∞, except beside one class alone.
        """
        image = to_pil(image)
        return self._whole(image) if self.window is None else self._slid(image, self.window)

    def classify(self, scores: Tensor, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """The class with the greatest of `scores`, uint8, and its probability, float32: both [height, width].

        Scores are interpolated, some classes at a time. The background class of a threshold is not among them; beside
        one class alone its texts take part in the softmax.
        """
        best = torch.full((height, width), -torch.inf)
        label = torch.zeros((height, width), dtype=torch.uint8)
        total = torch.full((height, width), -torch.inf)
        if self.single:
            total = (
                self.scale
                * F.interpolate(scores[None, self.background, None], size=(height, width), mode="bilinear")[0, 0]
            )
        kept = torch.tensor([i for i in range(len(scores)) if i != self.background])
        for some in kept.split(max(1, NUMBERS_AT_ONCE // (height * width))):
            fine = F.interpolate(scores[some][None], size=(height, width), mode="bilinear")[0]
            value, index = fine.max(dim=0)
            label = torch.where(value > best, some.to(torch.uint8)[index], label)
            best = torch.maximum(best, value)
            total = torch.logaddexp(total, torch.logsumexp(self.scale * fine, dim=0))
        return label.numpy(), torch.exp(self.scale * best - total).numpy()

    def _whole(self, image: Image.Image) -> Tensor:
        return self._cosines([image.resize((self.size, self.size), self.filter)])[0]

    def _slid(self, image: Image.Image, window: int) -> Tensor:
        """The mean of the windows' scores at every pixel of the resized image."""
        factor = self.size / min(image.size)
        least = window
        if self.longest is not None and factor * max(image.size) > self.longest:
            factor, least = self.longest / max(image.size), 1
        width, height = (max(least, round(edge * factor)) for edge in image.size)
        taken = 4 * len(self.classes) * width * height
        if taken > SLID_BYTES:
            shape = f"{image.width} × {image.height} pixels, {width} × {height} as windows slide on them"
            raise BadImage(f"{shape}: their scores take {taken:,} bytes, more than {SLID_BYTES:,}.")
        resized = image.resize((width, height), self.filter)
        tall, wide = min(window, height), min(window, width)
        corners = list(product(_steps(height, tall, self.stride), _steps(width, wide, self.stride)))
        total = torch.zeros(len(self.classes), height, width)
        count = torch.zeros(height, width)
        for start in range(0, len(corners), WINDOWS_AT_ONCE):
            some = corners[start : start + WINDOWS_AT_ONCE]
            crops = [resized.crop((x, y, x + wide, y + tall)) for y, x in some]
            fine = F.interpolate(self._cosines(crops), size=(tall, wide), mode="bilinear")
            for (y, x), scores in zip(some, fine, strict=True):
                total[:, y : y + tall, x : x + wide] += scores
                count[y : y + tall, x : x + wide] += 1
        return total / count

    def _cosines(self, images: Sequence[Image.Image]) -> Tensor:
        """[N, C, h, w]; for a class with several names, of the nearest one."""
        patches = self.dense(images)
        cosines = (patches @ self.texts.T).permute(0, 3, 1, 2).cpu()
        out = torch.full((len(images), len(self.classes), *cosines.shape[2:]), -torch.inf)
        index = self.class_of[None, :, None, None].expand_as(cosines)
        return out.scatter_reduce(1, index, cosines, "amax")

    def _check(self, size: int | None, stride: int | None) -> None:
        sizes = (("size", size), ("window", self.window), ("stride", stride), ("longest", self.longest))
        for name, value in sizes:
            if value is not None and value < 1:
                raise UsageError(f"{name} {value}: a number of pixels, at least 1.")
        if self.window is None and stride is not None:
            raise UsageError("stride: is the step of a sliding window; give its size too (window).")
        if self.window is None and self.longest is not None:
            raise UsageError("longest: bounds an image for a sliding window; give its size too (window).")
        if self.window is not None and (self.window > self.size or self.stride > self.window):
            raise UsageError(
                f"window {self.window}: at most the size ({self.size}) and at least the stride ({self.stride})."
            )
        if not 1 <= len(self.classes) <= 255:
            raise UsageError(f"{len(self.classes)} classes: a mask of 8 bits numbers 1 to 255 of them.")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold {self.threshold}: is a probability, from 0 to 1.")
        if self.threshold is not None and (BACKGROUND not in self.classes or len(self.classes) < 2):
            raise UsageError(
                f"threshold: gives pixels to the class {BACKGROUND!r}, which must be one of several classes."
            )


def _names(classname: str) -> list[str]:
    return [name.strip() for name in classname.split(";") if name.strip()] or [classname]


def _steps(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin: every stride, and the last one flush with the end."""
    return [*range(0, length - window, stride), length - window]
