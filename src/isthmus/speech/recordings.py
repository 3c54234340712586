"""Recordings through noise, or faster: pairs whose sound is changed as it is read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from isthmus.data.audio import ENDINGS, RATE, BadAudio
from isthmus.data.images import BadImage
from isthmus.data.pairs import Pairs, as_pairs, pairs_from_lists
from isthmus.errors import InputError, UsageError
from isthmus.speech.noise import at_snr, at_speed, babble, check_disjoint

AUDIO = "audio"
HELD = 1_800 * RATE  # samples of noise that are held in memory
VOICES = 20  # that babble at once


@dataclass(frozen=True)
class Heard:
    """How a recording is heard. snr: in dB, None without noise. speed: 1 as it is. draw: which piece of noise."""

    snr: float | None = None
    speed: float = 1.0
    draw: int = 0

    @property
    def name(self) -> str:
        """Short, and fit for a folder."""
        noise = "clean" if self.snr is None else f"{self.snr:g}dB" + (f"-{self.draw}" if self.draw else "")
        return noise + ("" if self.speed == 1 else f"-{self.speed:g}x")


class NoiseSource:
    """Noise to mix with speech: several recordings babble at once, a single one is used as it is.

    waves: at 16 kHz. hashes: of the content of each. speakers: their names, where they are known.
    """

    def __init__(self, waves: list[np.ndarray], hashes: list[str], speakers: list[str], voices: int = VOICES) -> None:
        self.waves, self.hashes, self.speakers = waves, hashes, speakers
        self.voices = min(voices, len(waves))
        told = [f"{self.voices}", *hashes]
        self.identity = hashlib.blake2b("\n".join(told).encode(), digest_size=8).hexdigest()

    @classmethod
    def open(cls, source: Any, *, split: str | None = None, voices: int = VOICES) -> NoiseSource:
        """A recording, a folder or a table of them; half an hour at most is held, drawn by a hash of their ids.

        Raises `InputError` where nothing of it can be read.
        """
        pairs = _listed(source)
        pairs = pairs if split is None else pairs.filter(split=split)
        side = pairs.side(AUDIO)
        ids = side.images["id"].to_pylist()
        order = sorted(range(len(ids)), key=lambda row: hashlib.blake2b(ids[row].encode()).digest())
        waves, hashes, rows, held = [], [], [], 0
        for row in order:
            try:
                data = side.read_bytes(row)
                wave = side.picture(row, data)
            except BadImage:
                continue
            waves.append(wave)
            hashes.append(side.content_hash(data, row))
            rows.append(row)
            held += len(wave)
            if held > HELD:
                break
        if not waves:
            raise InputError(f"{source}: no recording in it can be read, so it is no noise.")
        return cls(waves, hashes, [one for one in speakers_of(side, rows) if one], voices)

    def check(self, hashes: list[str], speakers: list[str | None]) -> None:
        """Raise `InputError` for a recording, or a speaker, that is also among the lines heard through this noise."""
        check_disjoint(self.hashes, hashes, "recordings")
        check_disjoint(self.speakers, [one for one in speakers if one])

    def under(self, wave: np.ndarray, snr: float, key: str) -> np.ndarray:
        """The wave [S] with noise at `snr` dB. key: what the piece of noise follows from.

        Raises `BadAudio` where that piece is silent.
        """
        seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
        rng = np.random.default_rng(seed)
        try:
            return at_snr(wave, babble(self.waves, len(wave), self.voices, rng), snr)
        except InputError as error:  # of this line alone
            raise BadAudio(str(error)) from None


class NoisyRecordings(Pairs):
    """Recordings of pairs as they are heard; their content hash says how, so that a store tells them apart."""

    heard = Heard()
    noise: NoiseSource | None = None
    seed = 0

    @classmethod
    def of(cls, pairs: Pairs, heard: Heard, noise: NoiseSource | None, seed: int) -> NoisyRecordings:
        """The recordings of `pairs`, without captions. Raises `UsageError` for a ratio without noise."""
        if heard.snr is not None and noise is None:
            raise UsageError(f"{heard.snr:g} dB: name the noise, a recording or a folder of them (--noise PATH).")
        side = pairs.side(AUDIO)
        found = cls(side.images, side.captions.slice(0, 0), side.reader, path=side.path, modality=AUDIO)
        found.heard, found.noise, found.seed = heard, noise, seed
        return found

    def _how(self, row: int) -> str | None:
        noise = self.noise.identity if self.noise and self.heard.snr is not None else ""
        return f"{super()._how(row) or ''}|{self.heard.name}|{noise}|{self.seed}"

    def _item(self, row: int, data: bytes) -> Any:
        wave = super()._item(row, data)
        if self.heard.speed != 1:
            wave = at_speed(wave, self.heard.speed)
        if self.heard.snr is None:
            return wave
        assert self.noise is not None
        key = f"{self.images['id'][row].as_py()}|{self.seed}|{self.heard.name}"
        return self.noise.under(wave, self.heard.snr, key)


def speakers_of(side: Pairs, rows: list[int] | None = None) -> list[str | None]:
    """Who speaks in recordings, None where that is not said."""
    if "speaker" not in side.images.column_names:
        return [None] * (len(side) if rows is None else len(rows))
    column: pa.ChunkedArray = side.images["speaker"]
    return column.to_pylist() if rows is None else column.take(pa.array(rows, pa.int64())).to_pylist()


def _listed(source: Any) -> Pairs:
    path = Path(source) if isinstance(source, str | Path) else None
    if path is not None and path.suffix.lower() in ENDINGS and path.is_file():
        return pairs_from_lists([str(path.absolute())], modality=AUDIO)
    if path is not None and path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and file.is_file())
        if files and not any(path.glob("*.jsonl")):
            return pairs_from_lists([str(file.absolute()) for file in files], modality=AUDIO)
    return as_pairs(source, captions="optional")
