"""A third modality as another package brings it: signals (.npy, 100 samples a second), and encoders of all three.

test_modalities.py registers it by the entry points' registries; nothing in isthmus knows it.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from isthmus.encoders.base import Encoder, Output
from isthmus.encoders.uri import EncoderURI
from isthmus.errors import InputError, UsageError
from isthmus.modality import ModalitySpec
from toys import png

RATE, FRAME = 100, 20
PITCHES = {"low": 3, "middle": 6, "high": 9, "shrill": 12}
COLOURS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
SHAPES = ("steady", "faint", "bursting", "noisy")


def decode(data: bytes, start: float = 0, end: float | None = None) -> np.ndarray:
    """float32 [samples] between two times in seconds."""
    signal = np.load(io.BytesIO(data), allow_pickle=False)
    if signal.ndim != 1 or signal.dtype.kind != "f":
        raise InputError(f"a signal is [samples], not {list(signal.shape)} {signal.dtype}.")
    stop = len(signal) if end is None else round(float(end) * RATE)
    return signal[round(float(start) * RATE) : stop].astype(np.float32)


SIGNAL = ModalitySpec(
    read=lambda items: [np.asarray(item, np.float32) for item in items],
    probe=lambda: np.sin(np.arange(2 * FRAME, dtype=np.float32)),
    options=(),
    many=("tokens",),
    single="mean",
    tokens="tokens",
    padded=True,
    length=len,
    decode=decode,
    columns=("signal", "wave", "recording"),
    part=("start", "end"),
    endings=(".npy",),
)


class Frames(Encoder):
    """Magnitudes of the spectrum of each frame of 0.2 s, beside the frame's loudness."""

    rate_hz = RATE / FRAME

    def preprocess(self, items: Any) -> Any:
        frames = [
            torch.from_numpy(item[: len(item) // FRAME * FRAME]).view(-1, FRAME) for item in self.spec.read(items)
        ]
        longest = max(map(len, frames))
        mask = torch.stack([torch.arange(longest) < len(one) for one in frames])
        return {"frames": nn.utils.rnn.pad_sequence(frames, batch_first=True), "mask": mask}

    def forward(self, inputs: Any, layers: bool) -> Output:
        spectrum = torch.fft.rfft(inputs["frames"]).abs()
        tokens = torch.cat([spectrum, inputs["frames"].square().mean(-1, keepdim=True)], dim=-1)
        return Output(tokens=tokens, mask=inputs["mask"], layers=[tokens, tokens] if layers else ())


class Pooled(Encoder):
    """One row of features for each item, by a function."""

    rows: Any = None

    def preprocess(self, items: Any) -> Any:
        return {"rows": torch.from_numpy(np.stack([self.rows(item) for item in self.spec.read(items)]))}

    def forward(self, inputs: Any, layers: bool) -> Output:
        return Output(pooled=inputs["rows"])


def words(text: str) -> np.ndarray:
    found = np.zeros(48, np.float32)
    for word in text.split():
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "little")
        found += np.random.default_rng(seed).standard_normal(48).astype(np.float32)
    return found


def thumbnail(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((4, 4)), np.float32).reshape(-1) / 255


def load(uri: EncoderURI, *, modality: str | None, device: Any = None, **_: Any) -> Encoder:
    """`toy:frames`, `toy:words`, `toy:thumbnails`."""
    if uri.name == "frames":
        return Frames(uri, "signal", nn.Identity(), {"toy": "frames"}, pools=["mean", "max"], device=device)
    kinds = {"words": ("text", words), "thumbnails": ("image", thumbnail)}
    if uri.name not in kinds:
        raise UsageError(f"{uri}: no such toy.")
    kind, rows = kinds[uri.name]
    encoder = type(f"Pooled_{uri.name}", (Pooled,), {"rows": staticmethod(rows)})
    return encoder(uri, kind, nn.Identity(), {"toy": uri.name}, pools=(), device=device)


def signal(pitch: str, shape: str, seed: int) -> np.ndarray:
    """1.6 to 2.4 seconds of a tone of one pitch and one shape."""
    rng = np.random.default_rng(seed)
    time = np.arange(rng.integers(160, 240)) / RATE
    loudness = {"faint": 0.25, "bursting": np.where(time < 0.4, 1.2, 0.1)}.get(shape, 0.7)
    tone = loudness * np.sin(2 * np.pi * PITCHES[pitch] * time + rng.uniform(0, 6))
    return (tone + (0.4 if shape == "noisy" else 0.03) * rng.normal(size=len(time))).astype(np.float32)


def sight(pitch: str, shape: str, seed: int) -> Image.Image:
    """The same to the eye: the colour says the pitch, the bright corner the shape."""
    pixels = np.random.default_rng(seed).normal(0, 3, (16, 16, 3)) + 20
    pixels += np.array(COLOURS[list(PITCHES).index(pitch)]) * 90
    row, column = divmod(SHAPES.index(shape), 2)
    pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 70
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_signals(folder: Path, copies: int = 10, **columns: str) -> Path:
    """Signals, pictures and a table `pairs.jsonl`; columns: how signal, image and caption are called ("": not)."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {"signal": "signal", "image": "", "caption": "caption", **columns}
    rows = []
    for copy in range(copies):
        for number, (pitch, shape) in enumerate((p, s) for p in PITCHES for s in SHAPES):
            seed = 16 * copy + number
            np.save(folder / f"{seed:03d}.npy", signal(pitch, shape, seed))
            (folder / f"{seed:03d}.png").write_bytes(png(sight(pitch, shape, seed)))
            row = {
                "signal": f"{seed:03d}.npy",
                "image": f"{seed:03d}.png",
                "caption": f"a {shape} {pitch} tone take {copy}",
            }
            split = ("test", "val")[copy] if copy < 2 else "train"
            told = {column: row[name] for name, column in named.items() if column}
            rows.append({**told, "label": pitch, "split": split})
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder / "pairs.jsonl"
