"""Small pictures and encoders without weights: enough to run the whole way in a second."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from isthmus.encoders import Encoder
from isthmus.encoders.callables import from_callable

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 60), "blue": (40, 60, 220), "yellow": (240, 220, 40)}
SHADES = ("dark", "pale", "plain", "bright")
PLACES = ("left", "right", "top", "bottom")


def picture(colour: str, shade: str, place: str, seed: int = 0) -> Image.Image:
    """A coloured square on grey: its colour, brightness and place are what the caption says."""
    factor = {"dark": 0.4, "pale": 0.7, "plain": 0.9, "bright": 1.1}[shade]
    rng = np.random.default_rng(seed)
    pixels = np.full((24, 24, 3), 128.0) + rng.normal(0, 4, (24, 24, 3))
    rows, columns = {"left": (slice(6, 18), slice(0, 10)), "right": (slice(6, 18), slice(14, 24))}.get(
        place, (slice(0, 10) if place == "top" else slice(14, 24), slice(6, 18))
    )
    pixels[rows, columns] = np.array(COLOURS[colour]) * factor
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_pairs(folder: Path, copies: int = 3) -> Path:
    """A folder of PNGs and a `pairs.jsonl` with captions, labels and a test split; returns the table's path."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "pairs.jsonl"
    combinations = [(c, s, p) for c in COLOURS for s in SHADES for p in PLACES]
    with table.open("w", encoding="utf-8") as lines:
        for copy in range(copies):
            for number, (colour, shade, place) in enumerate(combinations):
                name = f"{copy}-{number:03d}.png"
                (folder / name).write_bytes(png(picture(colour, shade, place, seed=64 * copy + number)))
                row = {
                    "image": name,
                    "caption": f"a {shade} {colour} square at the {place}, take {copy}",
                    "label": colour,
                    "split": "test" if copy == copies - 1 else "train",
                }
                lines.write(json.dumps(row) + "\n")
    return table


def pixel_features(images: list[Image.Image]) -> np.ndarray:
    small = [np.asarray(image.resize((6, 6)), np.float32).reshape(-1) / 255 for image in images]
    return np.stack(small)


def word_features(texts: list[str]) -> np.ndarray:
    out = np.zeros((len(texts), 64), np.float32)
    for row, text in enumerate(texts):
        for word in text.replace(",", "").split():
            seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "little")
            out[row] += np.random.default_rng(seed).standard_normal(64).astype(np.float32)
    return out


def pixel_encoder(fingerprint: str = "pixels-1") -> Encoder:
    """6 × 6 thumbnails, 108 wide."""
    return from_callable(pixel_features, "image", fingerprint, name="pixels", width=108)


def word_encoder(fingerprint: str = "words-1") -> Encoder:
    """Sums of random vectors of words, 64 wide."""
    return from_callable(word_features, "text", fingerprint, name="words", width=64)
