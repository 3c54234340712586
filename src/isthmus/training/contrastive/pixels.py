"""Image features computed while training, by the frozen encoder: no store of tokens, and pictures may be augmented."""

from __future__ import annotations

import dataclasses
import math
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.images import BadImage
from isthmus.data.matrix import OnDemand
from isthmus.data.pairs import Pairs
from isthmus.encoders import Encoder, encode_views, load_encoder
from isthmus.encoders.whole import WholePictures
from isthmus.errors import InputError, UsageError
from isthmus.precision import choose_precision
from isthmus.store.opening import open_pairs
from isthmus.store.reader import Store

AT_ONCE = 16  # images per forward pass
THREADS = 4
SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)  # ranges of a crop's share of the area and of its aspect: freeze-align's


class PixelFeatures(OnDemand):
    """Features [n, width] of images, a matrix whose rows are encoded on demand.

    pictures: the source of images; ids: of the image in each row. encoder: the view that encodes them.
    augment: "crop" for a random crop and flip, drawn from torch's global generator, so that a step that is repeated
        sees the same pictures; the encoder sees the crop whole, as a square of its own size. "none": its preprocessing.

    Raises `InputError` for an id that `pictures` lacks; `gather` for an image that cannot be read.
    """

    def __init__(self, pictures: Pairs, ids: list[str], encoder: Encoder, augment: str = "none") -> None:
        place = {id: row for row, id in enumerate(pictures.images["id"].to_pylist())}
        missing = [id for id in ids if id not in place]
        if missing:
            raise InputError(f"{len(missing):,} of {len(ids):,} images are not among the pictures given: {missing[0]}.")
        self.pictures, self.encoder, self.augment = pictures, encoder, augment
        self.ids, self._rows = ids, [place[id] for id in ids]
        self.shape = (len(ids), encoder.width)
        self._whole = WholePictures(encoder) if augment != "none" else None
        fast = choose_precision("auto", encoder.device) == "bf16"
        self._autocast = torch.bfloat16 if fast and any(True for _ in encoder.network.parameters()) else None

    @property
    def identity(self) -> str:
        """What determines the features, so that they need not be read for a fingerprint."""
        return f"{self.encoder.fingerprint} {self.augment}"

    def followed_by(self, other: PixelFeatures) -> PixelFeatures:
        """These images and then those of `other`, of the same pictures and encoder, augmented as these are."""
        return PixelFeatures(self.pictures, [*self.ids, *other.ids], self.encoder, self.augment)

    def gather(self, index: Any) -> np.ndarray:
        """Rows float32 [len(index), width], read, augmented and encoded now."""
        index = np.asarray(index, np.int64).tolist()
        out = np.empty((len(index), self.shape[1]), np.float32)
        seeds = self._seeds(len(index))
        with ThreadPoolExecutor(THREADS) as pool:
            prepared = [
                pool.submit(self._prepare, index[start : start + AT_ONCE], seeds[start : start + AT_ONCE])
                for start in range(0, len(index), AT_ONCE)
            ]
            for number, batch in enumerate(prepared):
                features = encode_views([self.encoder], batch.result(), self._autocast)[0]
                out[number * AT_ONCE : number * AT_ONCE + len(features)] = features
        return out

    def _seeds(self, count: int) -> list[int | None]:
        return torch.randint(2**62, (count,)).tolist() if self.augment != "none" else [None] * count

    def _prepare(self, index: list[int], seeds: list[int | None]) -> Any:
        images = [self._image(row) for row in index]
        if self._whole is None:
            return self.encoder.prepare(images)
        drawn = zip(images, seeds, strict=True)
        return self._whole([random_crop(image, seed or 0, self._whole.side) for image, seed in drawn])

    def _image(self, row: int) -> Image.Image:
        try:
            return self.pictures.decode(self._rows[row])
        except BadImage as error:
            raise InputError(f"{self.ids[row]}: {error.reason} Leave it out with --only.") from None


def encoded_live(pairs: FeaturePairs, pictures: Pairs, encoder: Encoder, augment: str = "none") -> FeaturePairs:
    """`pairs` with their images encoded by `encoder` from `pictures` on demand."""
    live = PixelFeatures(pictures, pairs.image_ids, encoder, augment)
    return dataclasses.replace(pairs, image=live, image_parts=encoder.parts, image_encoder=[encoder.record()])


def live_split(
    store: Store, chosen: dict[str, Any], pixels: Pairs | str | Path, augment: str
) -> tuple[FeaturePairs, FeaturePairs]:
    """Train and validation pairs of a store, their images encoded while training; only training images are augmented.

    chosen: what `Store.pairs` takes; its `image` is one encoder (URI or loaded), which the store need not hold.
    """
    named = chosen["image"] if isinstance(chosen["image"], list | tuple) else [chosen["image"]]
    if len(named) != 1 or named[0] is None:
        raise UsageError("pixels (--pixels) needs one image encoder by name: --image-encoder URI.")
    encoder = load_encoder(named[0], modality="image")
    pictures = open_pairs(pixels)
    held = store.pooled("image")[0]["fingerprint"]
    chosen = chosen | {"image": held}  # any encoder: only ids, groups and splits are used
    train, val = store.pairs(split="train", **chosen), store.pairs(split="val", **{**chosen, "only": None})
    return encoded_live(train, pictures, encoder, augment), encoded_live(val, pictures, encoder)


def random_crop(image: Image.Image, seed: int, side: int) -> Image.Image:
    """A random part of the image as a square of `side` pixels (torchvision's RandomResizedCrop), flipped half of the
    time.
    """
    draw = random.Random(seed)
    width, height = image.size
    for _ in range(10):
        area = draw.uniform(*SCALE) * width * height
        ratio = math.exp(draw.uniform(*map(math.log, RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            break
    else:
        w = h = min(width, height)
    left, top = draw.randint(0, width - w), draw.randint(0, height - h)
    crop = image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draw.random() < 0.5 else crop
