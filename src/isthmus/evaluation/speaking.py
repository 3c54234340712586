"""Spoken lines for evaluation: their states, heard through noise at given ratios and seen, a few lines at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.images import BadImage
from isthmus.data.pairs import Pairs
from isthmus.encoders.pictures import reason
from isthmus.errors import InputError, UsageError
from isthmus.evaluation.exposure import Exposure
from isthmus.evaluation.inputs import Saved
from isthmus.metrics.bootstrap import estimate
from isthmus.metrics.transcripts import character_edits, word_edits
from isthmus.models.saved import kind_of
from isthmus.models.speech_model import SenseStates, SpeechModel
from isthmus.progress import progress_bar, watched
from isthmus.speech.recordings import NoiseSource
from isthmus.speech.vocabulary import plain

GivenSpeech = SpeechModel | Saved | str | Path
CLEAN = None  # in place of a ratio
AT_ONCE = 8
RATES = ("cer", "wer")


def opened_speech(model: Any, device: str | None = None, trust_remote_code: bool = False) -> tuple[SpeechModel, str]:
    """The model, loaded if it is only named, and its name. Raises `InputError` for a model of another kind."""
    saved = Saved(model, device, trust_remote_code) if isinstance(model, str | Path) else model
    if isinstance(saved, SpeechModel):
        return saved, "isthmus"
    if not isinstance(saved, Saved) or kind_of(Path(saved.path)) != SpeechModel.kind:
        raise InputError(
            f"{getattr(saved, 'path', model)}: reads no speech. Train a model that does: isthmus train STORE --recipe "
            "avsr-small."
        )
    device, trust = saved.device, saved.trust_remote_code
    return SpeechModel.from_pretrained(saved.path, device=device, trust_remote_code=trust), str(saved.path)


@dataclass
class LinesAtOnce:
    """Some lines: ids, texts as they are judged, states of the sound by ratio, states of the video."""

    ids: list[str]
    texts: list[str]
    heard: dict[float | None, SenseStates] = field(default_factory=dict)
    seen: SenseStates | None = None

    def states(self, ratio: float | None, senses: str) -> dict[str, SenseStates]:
        """What a recogniser of these senses ("audio", "video", "av") is given."""
        found = {} if senses == "video" else {"audio": self.heard[ratio]}
        return found if senses == "audio" or self.seen is None else {**found, "video": self.seen}


def spoken_lines(
    model: SpeechModel,
    pairs: Pairs,
    senses: Sequence[str],
    ratios: Sequence[float | None],
    noise: NoiseSource | None,
    exposure: Exposure,
    skipped: list[tuple[str, str]],
    *,
    seed: int = 0,
) -> Iterator[LinesAtOnce]:
    """The lines of pairs, a few at a time, as a model takes them; those that cannot be used are added to `skipped`.

    Every ratio is of the same piece of noise at another loudness. Raises `UsageError` for a ratio without noise.
    """
    if noise is None and any(one is not CLEAN for one in ratios):
        raise UsageError("--snr other than clean: name the noise too, a recording or a folder of them (--noise PATH).")
    needed = [name for name in ("audio", "video") if any(name in (one, *_of(one)) for one in senses)]
    sides = {name: pairs.side(name) for name in needed}
    rows = {name: {id: row for row, id in enumerate(side.samples)} for name, side in sides.items()}
    captions = pairs.captions
    ids, texts = captions["id"].to_pylist(), captions["caption"].to_pylist()
    reader = _LineReader(model, sides, rows, exposure)
    with progress_bar(watched(), total=len(ids), desc="lines", unit="line", leave=False) as bar:
        for first in range(0, len(ids), AT_ONCE):
            some = list(zip(ids[first : first + AT_ONCE], texts[first : first + AT_ONCE], strict=True))
            found = reader.read(some, skipped)
            bar.update(len(some))
            if found:
                yield from reader.encoded(found, ratios, noise, seed, skipped)


def _of(senses: str) -> tuple[str, ...]:
    return ("audio", "video") if senses == "av" else (senses,)


class _LineReader:
    """Decodes lines one by one, so that a bad one spoils no other, and encodes those that are left together."""

    def __init__(self, model: SpeechModel, sides: dict[str, Pairs], rows: dict[str, dict[str, int]], seen: Exposure):
        self.model, self.sides, self.rows, self.exposure = model, sides, rows, seen

    def read(self, lines: Sequence[tuple[str, str]], skipped: list[tuple[str, str]]) -> list[tuple[str, str, dict]]:
        """(id, text as it is judged, item by sense) of the lines that can be used."""
        found = []
        for id, written in lines:
            try:
                text = plain(written, self.model.symbols.spelling)
                if not text:
                    raise InputError(f"its text is empty as it is judged: {written[:40]!r}.")
                items = {name: self._item(name, id, first=k == 0) for k, name in enumerate(self.sides)}
            except UsageError:
                raise
            except (BadImage, InputError, OSError, MemoryError) as error:
                skipped.append((id, reason(error)))
                continue
            if all(one is not None for one in items.values()):
                found.append((id, text, items))
        return found

    def _item(self, name: str, id: str, first: bool) -> Any:
        """A decoded item, None where it is left out because the model has seen it."""
        if id not in self.rows[name]:
            raise InputError(f"it has no {name}.")
        side, row = self.sides[name], self.rows[name][id]
        return self.exposure.picture(side, row)[1] if first else side.decode(row)

    def encoded(
        self,
        lines: list[tuple[str, str, dict]],
        ratios: Sequence[float | None],
        noise: NoiseSource | None,
        seed: int,
        skipped: list[tuple[str, str]],
    ) -> Iterator[LinesAtOnce]:
        """Their states; of lines that fail together each is tried alone, and the bad ones are added to `skipped`."""
        try:
            found = self._states(lines, ratios, noise, seed)
        except UsageError:
            raise
        except (BadImage, InputError, RuntimeError, MemoryError) as error:  # films are decoded as they are encoded
            if len(lines) == 1:
                skipped.append((lines[0][0], reason(error)))
            for one in lines if len(lines) > 1 else ():
                yield from self.encoded([one], ratios, noise, seed, skipped)
            return
        yield found

    def _states(
        self, lines: list[tuple[str, str, dict]], ratios: Sequence[float | None], noise: NoiseSource | None, seed: int
    ) -> LinesAtOnce:
        """Their states, through every ratio of noise."""
        found = LinesAtOnce([id for id, _, _ in lines], [text for _, text, _ in lines])
        if "video" in self.sides:
            found.seen = self.model.states("video", [items["video"] for _, _, items in lines])
        for ratio in ratios if "audio" in self.sides else ():
            waves = [items["audio"] for _, _, items in lines]
            if ratio is not None and noise is not None:
                waves = [noise.under(wave, ratio, f"{id}|{seed}") for wave, id in zip(waves, found.ids, strict=True)]
            found.heard[ratio] = self.model.states("audio", waves)
        return found


# --- error rates --------------------------------------------------------------------------------------------


@dataclass
class Readings:
    """What was read of n lines in one condition, beside what was said."""

    ids: list[str] = field(default_factory=list)
    right: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)

    def counts(self) -> np.ndarray:
        """[n, 4]: edits and length in characters, the same in words."""
        letters, words = character_edits(self.right, self.found), word_edits(self.right, self.found)
        return np.stack([letters.edits, letters.lengths, words.edits, words.lengths], axis=1)


def error_rates(counts: np.ndarray, resamples: int, seed: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Character and word error rates of counts [n, 4], with 95 % intervals by a bootstrap over lines."""
    return estimate(lambda weights: _rates(weights @ counts), RATES, len(counts), resamples, seed)


def rate_differences(
    counts: np.ndarray, others: np.ndarray, name: str, resamples: int, seed: int
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The first error rates minus the second, on the same draws of lines. name: of the others, for the metrics."""
    names = [f"{rate}_minus_{name}" for rate in RATES]
    return estimate(lambda w: _rates(w @ counts) - _rates(w @ others), names, len(counts), resamples, seed)


def _rates(sums: np.ndarray) -> np.ndarray:
    return np.array([sums[0] / sums[1], sums[2] / sums[3]])
