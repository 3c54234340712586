"""The demo's scenes: composed of test pictures, segmented by the names of what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isthmus.encoders import Encoder
from isthmus.evaluation.segmentation import PixelTally
from isthmus.metrics.zeroshot import load_templates
from isthmus.models.dual_encoder import DualEncoder
from isthmus.report import Picture
from isthmus.segmentation import Segmenter
from isthmus.segmentation.labels import BACKGROUND
from isthmus.segmentation.overlay import overlay
from isthmus_demo.scenes import names, random_scene, read_cutouts

SCENES = 6
HOW: dict[str, Any] = {
    "size": 480,
    "window": 240,
    "stride": 80,
    "threshold": 0.5,
}  # for maps of 8 × 8 cells of 240 pixels
TEMPLATES = "clipart"


@dataclass(frozen=True)
class Scenes:
    """Scenes beside their segmentation, captions: their objects.

    miou, accuracy: IoU of a scene's classes and share of its pixels given their class, means over the scenes; and the
    scores if everything is called background. cells: of the encoder's map, along one side of its own input.
    """

    pictures: Sequence[Picture]
    miou: float
    accuracy: float
    background_miou: float
    background_accuracy: float
    cells: int


def segments(
    model: DualEncoder, images: Sequence[Encoder], texts: Sequence[Encoder], seed: int, count: int = SCENES
) -> Scenes:
    """Segment scenes made of test pictures, whose masks are exact.

    Each scene is segmented by the names of its own objects, as a user would do it; improbable pixels are background.
    """
    model = DualEncoder(
        model.image_projector,
        model.text_projector,
        scale=model.scale,
        records=model.records,
        encoders={"image": list(images), "text": list(texts)},
    )
    cutouts = read_cutouts(split="test", least=2)
    numbers, templates = {name: i + 1 for i, name in enumerate(names(cutouts))}, load_templates(TEMPLATES)
    pictures, ours, empty = [], [], []
    for number in range(count):
        scene = random_scene(cutouts, 1000 * seed + number, objects=(2, 4))
        own = [found.name for found in scene.objects]
        segmenter = Segmenter(model, [BACKGROUND, *own], templates, **HOW)
        label = segmenter(scene.image)
        truth = np.select([scene.mask == numbers[name] for name in own], range(1, len(own) + 1), 0).astype(np.uint8)
        ours.append(_scored(truth, label, own))
        empty.append(_scored(truth, np.zeros_like(label), own))
        pictures.append(Picture(overlay(scene.image, label, [BACKGROUND, *own]), ", ".join(own)))
    (patches, *_) = segmenter.dense.patches
    cells = round(patches.side / patches.unit)
    (miou, accuracy), (background_miou, background_accuracy) = (
        np.mean(found, axis=0).tolist() for found in (ours, empty)
    )
    return Scenes(pictures, miou, accuracy, background_miou, background_accuracy, cells)


def _scored(truth: np.ndarray, label: np.ndarray, names: Sequence[str]) -> tuple[float, float]:
    """mIoU and pixel accuracy of one scene."""
    tally = PixelTally([BACKGROUND, *names])
    tally.add(truth, label)
    metrics = tally.scores(bootstrap=0)["metrics"]
    return metrics["miou"], metrics["pixel_accuracy"]
