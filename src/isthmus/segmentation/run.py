"""`segment`: the class of every pixel of one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from isthmus.data.images import decode
from isthmus.data.sources import read_file, to_png
from isthmus.encoders.images import to_pil
from isthmus.errors import InputError, UsageError, caught
from isthmus.files import write_atomic
from isthmus.metrics.zeroshot import Templates, load_templates
from isthmus.models.dual_encoder import DualEncoder
from isthmus.report.contact_sheet import check_image_name
from isthmus.segmentation.attention import Alone
from isthmus.segmentation.labels import Segmenter
from isthmus.segmentation.overlay import overlay


@dataclass(repr=False)
class Segmented:
    """The result of `segment`. labels: uint8 [H, W], the number of each pixel's class."""

    classes: list[str]
    labels: np.ndarray = field(repr=False)
    image: Image.Image = field(repr=False)

    @property
    def shares(self) -> dict[str, float]:
        """The share of each class in the picture; classes of one name are added up."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes))
        found = dict.fromkeys(self.classes, 0.0)
        for name, share in zip(self.classes, (counts / self.labels.size).tolist(), strict=True):
            found[name] += share
        return found

    def __repr__(self) -> str:
        shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in self.shares.items())
        return f"Segmented({self.image.width} × {self.image.height}: {shares})"

    def _repr_png_(self) -> bytes:
        """The overlay, in a notebook."""
        return to_png(self.overlay())

    def overlay(self) -> Image.Image:
        """The picture, and beside it the same under the colours of its classes, with a legend."""
        return overlay(self.image, self.labels, self.classes)


def segment(
    model: DualEncoder | str | Path,
    image: str | Path | Image.Image | np.ndarray,
    classes: Sequence[str],
    *,
    templates: str | Path | Templates = "default",
    size: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    threshold: float | None = None,
    attention: Literal["qk", "qq"] = "qk",
    alone: Alone | None = None,
    cls: bool = True,
    out: str | Path | None = None,
    mask: str | Path | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Segmented:
    """Give every pixel of a picture the class whose text its patch is nearest to.

    Use this when you want to see what a model finds where in one picture. For numbers over many pictures with masks,
    take `evaluate` with the task segmentation; for many pictures, a `Segmenter`, which embeds the classes once.

        >>> found = ist.segment("model/", "photo.jpg", ["cat", "tree", "house"], out="segmented.png")
        >>> found.shares
        {'cat': 0.18, 'tree': 0.52, 'house': 0.3}

    Args:
        model: a `DualEncoder`, its folder, or the URI of a pretrained one; its image encoder has to give tokens.
        image: the path of an image file, or a picture: PIL, or an array uint8 [H, W, 3].
        classes: a name each, or several separated by `;`, of which the nearest counts.
        templates: prompts with a `{}` slot, a file of them, or the name of a packaged set.
        size, window, stride, threshold, attention, alone, cls: see `isthmus.segmentation.Segmenter`.
        out: also write the overlay there. mask: also write the classes' numbers there, as a grey PNG.
        device, trust_remote_code: for loading a model that is given by its folder or URI.

    Raises:
        UsageError: names of files that are no images; before anything is loaded. Invalid sizes, an encoder without
            tokens.
        InputError: an image that cannot be read.
    """
    _check(out, mask)
    picture = _opened(image) if isinstance(image, str | Path) else to_pil(image)
    prompts = load_templates(templates) if isinstance(templates, str | Path) else templates
    if isinstance(model, str | Path):
        model = DualEncoder.from_pretrained(model, device=device, trust_remote_code=trust_remote_code)
    segmenter = Segmenter(
        model,
        classes,
        prompts,
        size=size,
        window=window,
        stride=stride,
        threshold=threshold,
        attention=attention,
        alone=alone,
        cls=cls,
    )
    with caught(image if isinstance(image, str | Path) else "the picture", "cannot be segmented"):
        found = Segmented(list(classes), segmenter(picture), picture)
    if out is not None:
        write_atomic(out, found.overlay().save)
    if mask is not None:
        write_atomic(mask, Image.fromarray(found.labels).save)
    return found


def _check(out: str | Path | None, mask: str | Path | None) -> None:
    """Refuse wrong options before anything is loaded."""
    for path in (one for one in (out, mask) if one is not None):
        check_image_name(path)
    if mask is not None and Path(mask).suffix.lower() != ".png":
        raise UsageError(f"mask {mask}: write a PNG; other formats may change the numbers.")


def _opened(path: str | Path) -> Image.Image:
    try:
        return decode(read_file(Path(path)))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
