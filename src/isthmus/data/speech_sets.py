"""Folders of speech as LRS2, LRS3 and LRW are published: clips with their transcripts, in folders of splits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from isthmus.data.audio import ENDINGS, FILMS
from isthmus.data.gathering import Gathered
from isthmus.data.sources import Folders
from isthmus.data.text import read_text
from isthmus.errors import InputError

CLIP = re.compile(r"(?:(?:.*/)?(?P<part>main|pretrain|trainval|test)/)?(?P<who>[^/]+)/(?P<number>\d{5})\.txt")
WORD = re.compile(r"(?:.*/)?(?P<word>[^/]+)/(?P<split>train|val|test)/(?P=word)_\d{5}\.[^./]+")
LISTS = ("pretrain", "train", "val", "test")  # LRS2 names the clips of its splits in `train.txt` and so on
SPLITS = {"pretrain": "train", "trainval": "train", "test": "test"}  # LRS3 has them as folders
MAX_TEXT = 2**20
SpeechRow = tuple[int, dict[str, Any]]


def read_speech_set(folder: Path, files: Sequence[str], into: Gathered) -> bool:
    """Read a folder of one of the three, whose files are `files`; False, and nothing is read, if it is none of them.

    The sound of a clip is in a file of its name (.wav, .flac, …) or in the clip itself (.mp4), which is its video.
    Captions are the transcripts as they are published, in capitals; in LRW the word, which is also the label. Clips
    without a transcript are listed. LRS3's `speaker` is the talk.
    """
    rows = _words(files) or _clips(folder, files, into)
    if not rows:
        return False
    into.intake.holds("audio", folder)
    split = into.reading.split
    told = ((number, fields if split is None else {"split": split, **fields}) for number, fields in rows)
    into.rows(f"{folder}: clip", told, Folders((folder,)))
    return True


def _sounds(files: Sequence[str]) -> dict[str, str]:
    """The file with the sound of each stem: one of sound alone, or else the clip."""
    found: dict[str, str] = {}
    for endings in (FILMS, ENDINGS):
        found |= {name.rpartition(".")[0]: name for name in files if name.lower().endswith(endings)}
    return found


def _films(files: Sequence[str]) -> dict[str, str]:
    """The clip of each stem."""
    return {name.rpartition(".")[0]: name for name in files if name.lower().endswith(FILMS)}


def _words(files: Sequence[str]) -> list[SpeechRow]:
    """LRW: WORD/train/WORD_00001.mp4."""
    rows: list[SpeechRow] = []
    films = _films(files)
    for name in _sounds(files).values():
        if not (told := WORD.fullmatch(name)):
            return []
        word = told["word"]
        seen = films.get(name.rpartition(".")[0])
        rows.append(
            (len(rows) + 1, {"image": name, "video": seen, "caption": word, "label": word, "split": told["split"]})
        )
    return rows


def _clips(folder: Path, files: Sequence[str], into: Gathered) -> list[SpeechRow]:
    """LRS2: main/ID/00001.mp4 and lists of the splits; LRS3: trainval/ID/00001.mp4; each with a 00001.txt."""
    named = [told for name in files if (told := CLIP.fullmatch(name))]
    sounds, films = _sounds(files), _films(files)
    clips = [told for told in named if told.string[:-4] in sounds]
    if not clips or not _transcript(folder / clips[0].string):
        return []
    listed, rows = _listed(folder, files), list[SpeechRow]()
    if left := [name for stem, name in sounds.items() if f"{stem}.txt" not in {told.string for told in clips}]:
        into.notes.append(f"{folder}: {len(left):,} clips without a transcript, as {left[0]}.")
    for told in clips:
        part, who = told["part"], told["who"]
        split = SPLITS.get(part or "") or listed.get(f"{who}/{told['number']}")
        stem, text = told.string[:-4], _transcript(folder / told.string)
        fields = {"image": sounds[stem], "video": films.get(stem), "caption": text, "split": split}
        rows.append((len(rows) + 1, fields | ({"speaker": who} if part == "trainval" else {})))
    return rows


def _listed(folder: Path, files: Sequence[str]) -> dict[str, str]:
    """The split of each clip that LRS2's lists name, as "ID/00001"."""
    found: dict[str, str] = {}
    for name in LISTS:
        if f"{name}.txt" in files:
            found |= {clip: SPLITS.get(name, name) for clip in _first_words(folder / f"{name}.txt")}
    return found


def _first_words(file: Path) -> Iterator[str]:
    for line in read_text(file, 64 * MAX_TEXT).splitlines():
        if words := line.split():
            yield words[0]


def _transcript(file: Path) -> str | None:
    """What stands behind "Text:" in the first line; None where there is no such line."""
    try:
        first = read_text(file, MAX_TEXT).partition("\n")[0]
    except InputError:
        return None
    head, colon, text = first.partition(":")
    return (" ".join(text.split()) or None) if colon and head.strip() == "Text" else None
