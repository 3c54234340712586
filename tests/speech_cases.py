"""Spoken lines for tests: letters as tones and as pictures, and encoders that hear and see them."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isthmus.cli import main
from isthmus.encoders import load_encoder
from isthmus.encoders.base import Encoder, Output
from isthmus.encoders.sources import SOURCES
from isthmus.encoders.uri import EncoderURI
from isthmus.models.speech_model import SpeechModel
from isthmus.speech.model import SpeechRecogniser, SpeechShape
from isthmus.speech.vocabulary import Characters
from sounds import coded, save_speech

LETTERS, SECONDS = "abc", 0.16  # of each letter
SPACE = 0.08
PITCHES = {"a": 500, "b": 1_000, "c": 2_000}
TINY = [
    *("speech.width=16", "speech.depth=1", "speech.heads=2", "speech.dropout=0.0", "speech.spelling=written"),
    *("masks.spans=0", "masks.channels=0", "optim.batch=16", "optim.epochs=2", "noise.voices=2", "noise.snr=[5]"),
]
Row = dict[str, str]


class Spectrum(Encoder):
    """The spectrum of each 20 ms of sound, 50 a second: layer 0 the loudness alone, layer 1 all of it."""

    rate_hz = 50.0

    def preprocess(self, items: Any) -> Any:
        frames = [
            torch.from_numpy(np.array(one[: len(one) // 320 * 320])).view(-1, 320) for one in self.spec.read(items)
        ]
        counts = torch.tensor([len(one) for one in frames])
        return {"frames": nn.utils.rnn.pad_sequence(frames, batch_first=True), "counts": counts}

    def forward(self, inputs: Any, layers: bool) -> Output:
        spectrum = torch.fft.rfft(inputs["frames"]).abs()[..., 4:52].unflatten(-1, (12, 4)).mean(-1)
        mask = torch.arange(spectrum.shape[1]) < inputs["counts"][:, None]
        return Output(
            tokens=spectrum, mask=mask, layers=[spectrum[..., :1].expand_as(spectrum), spectrum] if layers else ()
        )


class Glances(Encoder):
    """Every frame as 4 × 4 pixels, 25 a second."""

    rate_hz = 25.0

    def preprocess(self, items: Any) -> Any:
        found = [np.stack(list(one.frames(25)))[..., 0] for one in self.spec.read(items)]
        frames = [F.adaptive_avg_pool2d(torch.from_numpy(one / np.float32(255)), 4).flatten(1) for one in found]
        counts = torch.tensor([len(one) for one in frames])
        return {"frames": nn.utils.rnn.pad_sequence(frames, batch_first=True), "counts": counts}

    def forward(self, inputs: Any, layers: bool) -> Output:
        mask = torch.arange(inputs["frames"].shape[1]) < inputs["counts"][:, None]
        return Output(tokens=inputs["frames"], mask=mask, layers=[inputs["frames"]] * 2 if layers else ())


def load(uri: EncoderURI, *, modality: str | None, device: Any = None, **_: Any) -> Encoder:
    """`letters:ear` and `letters:eye`."""
    kind, sense = {"ear": (Spectrum, "audio"), "eye": (Glances, "video")}[uri.name]
    return kind(uri, sense, nn.Identity(), {"letters": uri.name}, pools=("mean",), device=device)


def register(patch: pytest.MonkeyPatch) -> None:
    """The encoders' source."""
    entry = EntryPoint("letters", "speech_cases:load", SOURCES.group)
    patch.setattr(SOURCES, "_entries", {**SOURCES._entries, "letters": entry})


def spoken(text: str, seed: int = 0) -> np.ndarray:
    """float32 [samples]: a tone for each letter, near silence for a space."""
    rng, parts = np.random.default_rng(seed), []
    for letter in text:
        count = round((SPACE if letter == " " else SECONDS) * 16_000)
        tone = 0.3 * np.sin(2 * np.pi * PITCHES.get(letter, 0) * np.arange(count) / 16_000)
        parts.append(tone * np.hanning(count) ** 0.3)
    wave = np.concatenate(parts)
    return (wave + rng.normal(0, 0.01, len(wave))).astype(np.float32)


def shown(text: str, seed: int = 0) -> np.ndarray:
    """uint8 [T, 4, 4]: a bright row for each letter."""
    rng, frames = np.random.default_rng(seed), []
    for letter in text:
        for _ in range(round((SPACE if letter == " " else SECONDS) * 25)):
            frame = rng.integers(0, 60, (4, 4))
            if letter != " ":
                frame[LETTERS.index(letter)] += 180
            frames.append(frame)
    return np.stack(frames).astype(np.uint8)


def write_lines(folder: Path, count: int = 48, *, words: bool = True) -> Path:
    """`lines.jsonl` with audio, video, caption, speaker, split; half are single words. Voices to babble in `noise`."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(0), list[Row]()
    vocabulary = ["ab", "bc", "cab", "abc"]
    for number in range(count):
        text = " ".join(rng.choice(vocabulary, 1 if words and number % 2 else rng.integers(2, 4)))
        (folder / f"{number}.wav").write_bytes(coded(spoken(text, number)))
        np.save(folder / f"{number}.npy", shown(text, number))
        split = {0: "test", 1: "val"}.get(number // 2 % 6, "train")
        rows.append(
            {"audio": f"{number}.wav", "video": f"{number}.npy", "caption": text, "split": split, "speaker": "x"}
        )
    (folder / "noise").mkdir(exist_ok=True)
    for number in range(3):
        noise = np.random.default_rng(900 + number).normal(0, 0.1, 16_000).astype(np.float32)
        (folder / "noise" / f"{number}.wav").write_bytes(coded(noise))
    table = folder / "lines.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return table


def embed_lines(table: Path, out: Path, *senses: str) -> None:
    uris = [f"letters:{one}?layer=1&pool=states" for one in senses]
    assert main(["embed", str(table), "--encoder", *uris, "--out", str(out)]) == 0


def changes(*more: str) -> list[str]:
    """As the command takes them."""
    return [part for one in (*TINY, *more) for part in ("--set", one)]


def toy_recogniser(folder: Path) -> SpeechModel:
    """An untrained recogniser over a tiny random Whisper, which is saved in `folder`."""
    folder.mkdir()
    save_speech(folder, "whisper")
    encoder, known = load_encoder(f"hf:{folder}?layer=2&pool=states"), Characters("abc ")
    torch.manual_seed(0)
    shape = SpeechShape(known.symbols, audio=(16, 50.0), width=16, depth=1, heads=2)
    return SpeechModel({"audio": SpeechRecogniser(shape)}, records={"audio": [encoder.record()]}, symbols=known)
