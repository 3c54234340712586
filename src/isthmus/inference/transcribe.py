"""`transcribe`: what is said in recordings and films of any length, and when."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from isthmus.data.images import BadImage
from isthmus.errors import InputError, UsageError
from isthmus.evaluation.speaking import GivenSpeech, opened_speech
from isthmus.models.speech_model import SpeechModel
from isthmus.speech.times import SpokenWord, timed_words
from isthmus.speech.windows import windows

AT_ONCE = 8  # windows
CUE = 42, 5.0  # characters and seconds of a subtitle, at most
PAUSE = 0.8  # seconds of silence that end one
FALLBACK = 30.0  # seconds of a window, where an encoder has no limit of its own


@dataclass(repr=False)
class Transcript:
    """What is said in a file. words: with their times, where CTC can place them. seconds: how much of it was heard."""

    file: str
    text: str
    words: list[SpokenWord] = field(default_factory=list)
    seconds: float = 0.0

    def __repr__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """file, text, and the words with start and end in seconds."""
        words = [{"word": one.text, "start": round(one.start, 2), "end": round(one.end, 2)} for one in self.words]
        return {"file": self.file, "text": self.text, "seconds": round(self.seconds, 2), "words": words}

    def srt(self) -> str:
        """As SubRip subtitles."""
        cues = [f"{k}\n{_clock(some[0].start)} --> {_clock(some[-1].end)}\n{_line(some)}\n" for k, some in self._cues()]
        return "\n".join(cues)

    def _cues(self) -> Iterator[tuple[int, list[SpokenWord]]]:
        cues: list[list[SpokenWord]] = []
        for word in self.words:
            last = cues[-1] if cues else []
            fits = last and len(_line([*last, word])) <= CUE[0] and word.end - last[0].start <= CUE[1]
            if fits and word.start - last[-1].end <= PAUSE:
                last.append(word)
            else:
                cues.append([word])
        return enumerate(cues, 1)


def transcribe(
    model: GivenSpeech,
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    beam: int | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Transcript | list[Transcript]:
    """What is said in recordings, or in the sound of films, with the time of every word.

    Use this with a model that `isthmus.train(…, recipe="avsr-small")` made, on files that have no text yet; with text,
    `isthmus.evaluate(model, "speech", …)` says how good it is.

        >>> ist.transcribe("model/", "line.wav").text
        'PLEASE HOLD'

    Args:
        model: a `SpeechModel` or its folder.
        files: one, or a list; of any length: a window is in memory at a time, cut where it is quietest.
        beam: prefixes that are followed at once, 0 for the likeliest symbol of each step; default: the model's own.
        device, trust_remote_code: for loading a model that is given by its folder.

    Returns a `Transcript` for one file, a list for a list. Raises `InputError` for a file without sound, a silent or a
    damaged one, and for a model that does not read speech or has no ears.
    """
    loaded, name = opened_speech(model, device, trust_remote_code)
    if "audio" not in loaded.networks:
        raise InputError(f"{name}: reads {', '.join(loaded.networks)}, and no sound.")
    if isinstance(files, str | os.PathLike):
        return _transcribed(loaded, files, beam)
    return [_transcribed(loaded, file, beam) for file in files]


def _transcribed(model: SpeechModel, file: str | os.PathLike[str], beam: int | None) -> Transcript:
    name = os.fspath(file)
    if os.path.isdir(name):
        raise InputError(f"{name}: a folder, not a recording. Name the files in it: {os.path.join(name, '*')}")
    longest = float(getattr(model.encoders_of("audio")[0], "seconds", FALLBACK))
    options = {} if beam is None else {"beam": beam}
    texts: list[str] = []
    words: list[SpokenWord] = []
    heard = 0.0
    try:
        parts = windows(file, longest)
        while some := list(islice(parts, AT_ONCE)):
            states = model.states("audio", [wave for _, wave in some])
            for (start, wave), line in zip(some, model.read({"audio": states}, "audio", **options), strict=True):
                texts.append(model.symbols.decode(line.symbols))
                log_probs, padding = line.log_probs.numpy().astype(np.float64), {"before": line.before, "own": line.own}
                words += timed_words(log_probs, line.symbols, model.symbols, model.steps_hz, start, **padding)
                heard = start + len(wave) / 16_000
    except UsageError:
        raise
    except (BadImage, OSError) as error:
        raise InputError(f"{name}: {error}" if name not in str(error) else str(error)) from None
    if not texts:
        raise InputError(f"{name}: silence, or less sound than can be encoded: there is nothing to transcribe.")
    return Transcript(name, " ".join(text for text in texts if text), words, heard)


def _line(words: Sequence[SpokenWord]) -> str:
    return " ".join(one.text for one in words)


def _clock(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d},{rest % 1000:03d}"
