"""How well a model reads speech: error rates by sense and by the loudness of noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isthmus.data.columns import Columns
from isthmus.data.pairs import Pairs
from isthmus.data.tables import Frame
from isthmus.errors import InputError, UsageError
from isthmus.evaluation.exposure import Exposure, content_of
from isthmus.evaluation.inputs import named
from isthmus.evaluation.speaking import (
    CLEAN,
    GivenSpeech,
    Readings,
    error_rates,
    opened_speech,
    rate_differences,
    spoken_lines,
)
from isthmus.evaluation.tasks import task
from isthmus.metrics.results import Result, result
from isthmus.models.speech_model import SpeechModel
from isthmus.speech.recordings import VOICES, NoiseSource, speakers_of
from isthmus.store.opening import holds_features, open_pairs

LOUDEST = 100  # dB between speech and noise, either way
SENSES_OF = {"av": "av", "a": "audio", "v": "video"}
DEFINITION = (
    "cer, wer = insertions, deletions and substitutions over the reference's characters (spaces included) and words, "
    "of all lines together; texts as the model spells them. Noise: several recordings at once, scaled so that the "
    "energy of the whole line is snr dB above the noise's; a line has the same piece of noise at every ratio. ci95 = "
    "95 % intervals by a bootstrap over lines; minus_audio: on the same draws of lines."
)
Condition = tuple[str, float | None]  # the recogniser, and the ratio: of video none


@task(primary="cer", columns=("cer", "wer", "cer_minus_audio"))
def speech(
    model: GivenSpeech,
    data: Pairs | Frame | str | Path,
    *,
    split: str | None = None,
    snr: Sequence[str] = ("clean",),
    modality: Sequence[str] | None = None,
    noise: str | Path | None = None,
    noise_split: str | None = None,
    voices: int = VOICES,
    beam: int | None = None,
    report: str | Path | None = None,
    columns: str | Columns | None = None,
    unseen: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[Result]:
    """Error rates of a model that reads speech, clean and in noise, from sound, video and both.

    Args:
        snr: ratios in dB at which noise is mixed with the lines, and clean: clean,10,5,0,-5,-10
        modality: av, a, v: both, sound, video; default: all that the model reads and the data have
        noise: a recording, or a folder or table of them that babble; of nobody who speaks in the data
        noise_split: of a table of noise, only this split
        voices: recordings that babble at once (20)
        beam: prefixes that are followed at once, 0 for the likeliest symbol of each step; default: the model's own
    """
    if holds_features(data):
        raise InputError(f"{named(data)}: holds features. Recordings are read: give the pairs that it was made of.")
    loaded, name = opened_speech(model)
    pairs = open_pairs(data, split=split, columns=columns)
    ratios = [_ratio(one) for one in snr]
    senses = _senses(loaded, pairs, modality)
    source = None if noise is None else NoiseSource.open(noise, split=noise_split, voices=voices)
    exposure = Exposure(loaded, named(pairs), unseen, captions=False)
    if senses == ["video"]:
        exposure.modalities = ("video",)
    skipped = list(pairs.skipped)
    if source is not None and "audio" in pairs.modalities:
        side = pairs.side("audio")
        heard = [content_of(side, row) for row in range(len(side))]
        source.check([one for one in heard if one], speakers_of(side))
    readings = _read(loaded, pairs, senses, ratios, source, exposure, skipped, beam=beam, seed=seed)
    shared = {"skipped": skipped, "definition": DEFINITION, "bootstrap": bootstrap, "seed": seed, **exposure.report()}
    shared |= {"noise": None if source is None else f"{noise}, {source.voices} at once"}
    shared |= {"decoding": vars(loaded.decoding) | ({} if beam is None else {"beam": beam})}
    results = [
        result(one | shared, dataset=named(pairs), model=name, task="speech_recognition", language=_language(pairs))
        for one in _scored(readings, bootstrap, seed)
    ]
    if report is not None:
        from isthmus.evaluation.pages.speech import write_report

        write_report(report, results)
    return results


def _ratio(text: str) -> float | None:
    if text.strip() == "clean":
        return CLEAN
    try:
        ratio = float(text)
    except ValueError:
        ratio = math.nan
    if not abs(ratio) <= LOUDEST:
        raise UsageError(f"--snr {text}: clean, or a number of dB from -{LOUDEST} to {LOUDEST}.")
    return ratio


def _senses(model: SpeechModel, pairs: Pairs, wanted: Sequence[str] | None) -> list[str]:
    """The recognisers that are asked, both senses first."""
    there = [one for one in SENSES_OF.values() if one in model.networks]
    if wanted is None:
        usable = [one for one in there if one in pairs.modalities or (one == "av" and len(pairs.modalities) > 1)]
        if not usable:
            raise InputError(
                f"{named(pairs)}: holds {', '.join(pairs.modalities)}; the model reads {', '.join(there)}."
            )
        return usable
    for one in wanted:
        if SENSES_OF.get(one) not in there:
            known = ", ".join(short for short, name in SENSES_OF.items() if name in there)
            raise UsageError(f"--modality {one}: this model has {known}.")
    return [SENSES_OF[one] for one in wanted]


def _read(
    model: SpeechModel,
    pairs: Pairs,
    senses: Sequence[str],
    ratios: Sequence[float | None],
    noise: NoiseSource | None,
    exposure: Exposure,
    skipped: list[tuple[str, str]],
    *,
    beam: int | None,
    seed: int,
) -> dict[Condition, Readings]:
    """What every recogniser reads through every ratio of noise; video has none."""
    wanted: list[Condition] = [(one, ratio) for one in senses if one != "video" for ratio in ratios]
    wanted += [("video", CLEAN)] if "video" in senses else []
    found: dict[Condition, Readings] = {one: Readings() for one in wanted}
    options = {} if beam is None else {"beam": beam}
    for lines in spoken_lines(model, pairs, senses, ratios, noise, exposure, skipped, seed=seed):
        for (one, ratio), into in found.items():
            into.ids += lines.ids
            into.right += lines.texts
            into.found += model.texts(lines.states(ratio, one), one, **options)
    count = len(next(iter(found.values())).right)
    exposure.check(count)
    if not count:
        raise InputError(f"{named(pairs)}: no line could be read; the first: {': '.join(skipped[0])}")
    return found


def _scored(readings: dict[Condition, Readings], bootstrap: int, seed: int) -> list[dict[str, Any]]:
    """A result for each condition, with the difference from sound alone at the same ratio where that is one too."""
    counts = {one: found.counts() for one, found in readings.items()}
    results = []
    for (senses, ratio), own in counts.items():
        metrics, ci95 = error_rates(own, bootstrap, seed)
        audio = counts.get(("audio", ratio))
        if senses == "av" and audio is not None:
            more = rate_differences(own, audio, "audio", bootstrap, seed)
            metrics, ci95 = metrics | more[0], ci95 | more[1]
        said = readings[senses, ratio]
        each = zip(said.ids, said.right, said.found, strict=True)
        lines = [{"id": id, "reference": right, "found": found} for id, right, found in each]
        level = "any" if senses == "video" else "clean" if ratio is CLEAN else f"{ratio:g} dB"
        told = {"metrics": metrics, "ci95": ci95, "modality": senses, "snr": level, "transcripts": lines}
        results.append(told | {"n": {"lines": len(own), "words": int(own[:, 3].sum())}})
    return results


def _language(pairs: Pairs) -> str:
    named_by_rows = set(pairs.captions["lang"].to_pylist()) - {None}
    return named_by_rows.pop() if len(named_by_rows) == 1 else "en"
