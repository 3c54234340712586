"""Overlays: colours of the classes over the image, and a legend."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from isthmus.report.contact_sheet import GREY, INK, WHITE, font, line_height
from isthmus.segmentation.labels import BACKGROUND

GOLDEN = 0.618034  # change of hue from class to class: the first few are far apart, and no hue repeats
OPACITY = 0.6
LEAST = 0.001  # share of the picture below which a class is not in the legend


def colours(classes: Sequence[str]) -> np.ndarray:
    """A colour for each class, uint8 [C, 3]; the background's is white."""
    shades = [(0.58 + i * GOLDEN, 0.85 - 0.25 * (i % 2), 0.95 - 0.2 * (i // 2 % 2)) for i in range(len(classes))]
    found = [
        (1.0, 1.0, 1.0) if name == BACKGROUND else colorsys.hsv_to_rgb(*shades[i]) for i, name in enumerate(classes)
    ]
    return (255 * np.array(found)).round().astype(np.uint8)


def blend(image: Image.Image, labels: np.ndarray, classes: Sequence[str]) -> Image.Image:
    """The image in grey under the colours of its classes, RGB. labels: uint8 [H, W]; 255 stays as it is."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(classes)] = colours(classes)
    below = np.asarray(image.convert("RGB")).astype(np.float32)
    grey = np.asarray(image.convert("L")).astype(np.float32)[..., None]
    mixed = OPACITY * table[labels] + (1 - OPACITY) * grey
    return Image.fromarray(np.where((labels < len(classes))[..., None], mixed, below).round().astype(np.uint8))


def overlay(image: Image.Image, labels: np.ndarray, classes: Sequence[str]) -> Image.Image:
    """Image and blend side by side; below them the classes found, with their shares of the picture."""
    shares = np.bincount(labels.ravel(), minlength=len(classes))[: len(classes)] / labels.size
    found = [i for i in np.argsort(-shares, kind="stable") if shares[i] >= LEAST]
    letters = font(max(12, image.height // 28))
    line, gap = round(1.4 * line_height(letters)), max(6, image.height // 60)
    entries = [(i, classes[i].partition(";")[0].strip() + " ", f"{100 * shares[i]:.0f} %") for i in found]
    widths = [round(2 * line + letters.getlength(name + share)) for _, name, share in entries]
    places, bottom = _flow(widths, line, gap, 2 * image.width + 3 * gap)
    sheet = Image.new("RGB", (2 * image.width + 3 * gap, image.height + 3 * gap + bottom), WHITE)
    sheet.paste(image.convert("RGB"), (gap, gap))
    sheet.paste(blend(image, labels, classes), (2 * gap + image.width, gap))
    draw, table = ImageDraw.Draw(sheet), colours(classes)
    for (i, name, share), (x, y) in zip(entries, places, strict=True):
        top = image.height + 2 * gap + y
        draw.rectangle((x, top + line // 8, x + line * 3 // 4, top + line * 7 // 8), tuple(table[i].tolist()), GREY)
        draw.text((x + line, top + line // 8), name, INK, font=letters)
        draw.text((x + line + letters.getlength(name), top + line // 8), share, GREY, font=letters)
    return sheet


def _flow(widths: Sequence[int], line: int, gap: int, room: int) -> tuple[list[tuple[int, int]], int]:
    """The position of each legend entry, wrapped within `room` pixels, and the total height."""
    places, x, y = [], gap, 0
    for width in widths:
        if x > gap and x + width > room:
            x, y = gap, y + line
        places.append((x, y))
        x += width
    return places, y + line
