"""Lines with their phones: a closed grammar said by the voices of flite, and recorded prompts, aligned."""

from __future__ import annotations

import gzip
import itertools
import os
import re
import subprocess
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.audio import RATE
from isthmus.errors import InputError
from isthmus_demo.talking.parts import fetch_part, part
from isthmus_demo.talking.visemes import Phone

# As the sentences of the GRID corpus (Cooke et al., 2006) are made.
GRAMMAR = (
    ("bin", "lay", "place", "set"),
    ("blue", "green", "red", "white"),
    ("at", "by", "in", "with"),
    tuple("abcdefghijklmnopqrstuvxyz"),
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    ("again", "now", "please", "soon"),
)
VOICES = ("awb", "kal16", "rms", "slt")
DIGITS = dict(zip("0123456789", GRAMMAR[4], strict=True))
SECONDS = (0.7, 3.6)  # of a recorded prompt
FLITE = {"ax": "AH", "pau": ""}  # its names of phones that are not ARPAbet's


@dataclass(frozen=True)
class SpokenText:
    """A line: wave float32 [samples] at 16 kHz, its phones with their times, who says what."""

    id: str
    text: str
    speaker: str
    wave: np.ndarray
    phones: list[Phone]

    @property
    def seconds(self) -> float:
        return len(self.wave) / RATE


def sentences(count: int, rng: np.random.Generator) -> list[str]:
    """Different sentences of the grammar."""
    every = int(np.prod([len(words) for words in GRAMMAR]))
    found = []
    for number in rng.choice(every, count, replace=False).tolist():
        words = []
        for choices in GRAMMAR:
            number, place = divmod(number, len(choices))
            words.append(choices[place])
        found.append(" ".join(words))
    return found


def say(text: str, voice: str, id: str, out: Path) -> SpokenText:
    """A sentence by a voice of flite, which tells when each phone ends. out: a file for its sound."""
    root = fetch_part(part("libflite1"))
    libraries = str(next(root.rglob("libflite.so.1")).parent)
    program = str(fetch_part(part("flite")) / "usr/bin/flite")
    command = [program, "-voice", voice, "-psdur", "-t", text, "-o", str(out)]
    told = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60, env=os.environ | {"LD_LIBRARY_PATH": libraries}
    ).stdout
    phones, before = [], 0.0
    for name, end in (one.split(":") for one in told.split()):
        phones.append((FLITE.get(name, name.upper()), before, float(end)))
        before = float(end)
    with wave.open(str(out)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
        if file.getframerate() != RATE:
            raise InputError(f"flite's voice {voice}: {file.getframerate()} samples a second.")
    return SpokenText(id, text, voice, samples, phones)


def prompts(limit: int | None = None) -> Iterator[SpokenText]:
    """The prompts of Asterisk in English, one voice, that pocketsphinx can align with their text."""
    from pocketsphinx import Decoder

    decoder = Decoder(lm=None, loglevel="FATAL")
    listed = next(fetch_part(part("asterisk-core-sounds-en")).rglob("core-sounds-en.txt.gz"))
    sounds = {path.stem: path for path in fetch_part(part("asterisk-core-sounds-en-g722")).rglob("*.g722")}
    found = (
        line
        for name, _, text in (row.partition(":") for row in gzip.decompress(listed.read_bytes()).decode().splitlines())
        if name in sounds and "[" not in text and (line := _prompt(decoder, name, text, sounds[name]))
    )
    return itertools.islice(found, limit)


def recordings(language: str) -> Iterator[tuple[str, np.ndarray]]:
    """(name, wave) of the prompts of Asterisk in another language."""
    root = fetch_part(part(f"asterisk-core-sounds-{language}-g722"))
    for path in sorted(root.rglob("*.g722")):
        sound = _g722(path)
        if len(sound) > RATE:
            yield path.stem, sound


def _prompt(decoder: Any, name: str, written: str, path: Path) -> SpokenText | None:
    spelled = re.sub(r"\d", lambda digit: f" {DIGITS[digit[0]]} ", written.lower().replace("’", "'"))
    text = " ".join(re.sub(r"[^a-z' ]+", " ", spelled).split())
    sound = _g722(path)
    if not text or not SECONDS[0] <= len(sound) / RATE <= SECONDS[1]:
        return None
    phones = _aligned(decoder, text, sound)
    return SpokenText(f"prompt-{name}", text, "allison", sound, phones) if phones else None


def _aligned(decoder: Any, text: str, sound: np.ndarray) -> list[Phone]:
    """The phones of a text in a recording; none where a word is unknown, or they do not fit."""
    pcm = (sound * 32767).astype(np.int16).tobytes()
    if any(decoder.lookup_word(word) is None for word in text.split()):
        return []
    try:
        decoder.set_align_text(text)
        for again in (False, True):
            if again:
                decoder.set_alignment()
            decoder.start_utt()
            decoder.process_raw(pcm, full_utt=True)
            decoder.end_utt()
            if not again and decoder.hyp() is None:  # of an alignment of phones it must not be asked
                return []
        found = []
        for word in decoder.get_alignment():  # its entries are memory of its own, gone when the iteration is
            for phone in word:
                name, last = phone.name, phone.start + phone.duration
                found.append(("" if name == "SIL" else name, phone.start / 100, last / 100))
        return found
    except RuntimeError:
        return []


def _g722(path: Path) -> np.ndarray:
    """A recording in G.722, float32 [samples] at 16 kHz."""
    import av

    with av.open(str(path), format="g722") as container:
        blocks = [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
    return np.concatenate([np.zeros(0, np.int16), *blocks]).astype(np.float32) / 32768  # some hold no sound
