"""`isthmus demo speech`: lines with rendered faces → states → a recogniser in stages → error rates in babble."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from isthmus.api import evaluate, train
from isthmus.data import audio, video
from isthmus.embedding import embed
from isthmus.errors import UsageError
from isthmus.evaluation.pages.speech import curve
from isthmus.files import write_json
from isthmus.metrics.results import Result
from isthmus.report import Picture, render_page, write_page
from isthmus_demo.pipeline import Say, Stages
from isthmus_demo.talking.faces import FPS
from isthmus_demo.talking.pack import SpeechPack, write_pack
from isthmus_demo.talking.parts import PARTS

AUDIO = "wheel:whisper-tiny-en?seconds=4&layer=4&pool=states"
VIDEO = "wheel:efficientnet-lite0?fps=25&size=64&frame=grid4&layer=4&pool=states"
SENTENCES = 300
PACK = {"val": 30, "test": 60, "recorded": 120}
NOISES = ("clean", "10", "5", "0", "-5", "-10")
OF_CONTROLS = ("clean", "0", "-10")
RECIPE = Path(__file__).with_name("speech.toml")
SHOWN = 12  # lines on the page
WIDE, TALL = 420, 64  # pixels of a spectrogram


@dataclass(frozen=True)
class SpeechDemo:
    """The results of a run: error rates of both senses, sound and video, and of both with other faces."""

    results: list[Result]
    controls: dict[str, list[Result]]
    stages: list[tuple[str, float]]
    noises: list[str]


def run_speech(
    out: str | Path,
    *,
    sentences: int = SENTENCES,
    seed: int = 0,
    pack: dict[str, int] | None = None,
    encoders: Sequence[Any] = (AUDIO, VIDEO),
    overrides: Sequence[str] = (),
    noises: Sequence[str] = NOISES,
    of_controls: Sequence[str] = OF_CONTROLS,
    max_seconds: float | None = None,
    log: Say = lambda line: None,
    progress: bool = False,
) -> SpeechDemo:
    """Write `pack/`, `store/`, `model/`, `results.json` and `report.html` into `out`.

    What `out` holds already is not computed again.

    Args:
        sentences: of the grammar, to train on. pack: the other numbers of `write_pack`.
        encoders: of sound and video, as states with a rate. overrides: of the recipe `speech.toml`.
        noises: loudnesses of the lines over babble that are read, of_controls: those with other faces.
        max_seconds: of training. log: called with a line as each step begins.
    """
    if sentences < 16:
        raise UsageError(f"sentences={sentences}: too few to train on; ask for 16 or more.")
    out, stages = Path(out), Stages(log)
    with stages("say lines, and render faces that say them"):
        made = write_pack(out / "pack", train=sentences, **(pack or PACK), seed=seed, log=log)
    with stages("embed sound and faces"):
        embed(made.lines, encoders=list(encoders), out=out / "store", progress=progress)
    with stages("train on sound, on faces, on both"):
        how: dict[str, Any] = {"seed": seed, "max_seconds": max_seconds, "progress": progress}
        how |= {"recordings": made.lines, "noise": made.babble, "overrides": overrides}
        train(out / "store", recipe=str(RECIPE), out=out / "model", **how)
    with stages("read unseen lines of unseen faces in unseen babble"):
        asked: dict[str, Any] = {"noise": str(made.unseen_babble), "seed": seed}
        results = _listed(evaluate(out / "model", "speech", made.test, snr=noises, **asked))
    with stages("the same with the faces of other lines, and with faces timed by another voice"):
        asked |= {"snr": of_controls, "modality": ("av",)}
        controls = {
            name: _listed(evaluate(out / "model", "speech", table, **asked))
            for name, table in (("another line's face", made.wrong), ("timed by another voice", made.retimed))
        }
    demo = SpeechDemo(results, controls, stages.done, list(noises))
    told: dict[str, Any] = {"results": [dict(one) for one in results]}
    told |= {"controls": {name: [dict(one) for one in listed] for name, listed in controls.items()}}
    write_json(out / "results.json", told | {"stages": dict(stages.done)})
    write_page(page(demo, made, f"isthmus demo speech --out {out}"), out / "report.html")
    return demo


def _listed(found: Any) -> list[Result]:
    return list(found) if isinstance(found, list) else [found]


def table_rows(demo: SpeechDemo, metric: str = "cer") -> list[list[str]]:
    """For a table: who reads, and an error rate in percent at each loudness of noise."""
    names = {"av": "sound and face", "audio": "sound", "video": "face"}
    rows = []
    for sense, name in names.items():
        mine = {_fact(one, "snr"): one for one in demo.results if _fact(one, "modality") == sense}
        if mine:
            rows.append([name, *(_shown(mine.get(_level(one)) or mine.get("any"), metric) for one in demo.noises)])
    for name, listed in demo.controls.items():
        mine = {_fact(one, "snr"): one for one in listed}
        rows.append([f"sound, {name}", *(_shown(mine.get(_level(one)), metric) for one in demo.noises)])
    return rows


def _fact(one: Result, name: str) -> Any:
    return dict(one)[name]


def _level(ratio: str) -> str:
    return ratio if ratio == "clean" else f"{ratio} dB"


def _shown(one: Result | None, metric: str) -> str:
    return "" if one is None else f"{100 * one['metrics'][metric]:.1f}"


def page(demo: SpeechDemo, pack: SpeechPack, command: str) -> str:
    """The page as HTML: the curves, the table, a dozen lines as they sound, look and were read."""
    return render_page(
        "isthmus_demo",
        "speech.html.j2",
        command=command,
        first=demo.results[0],
        curves=[curve(demo.results, metric, title) for metric, title in (("cer", "characters"), ("wer", "words"))],
        noises=[_level(one) for one in demo.noises],
        rows=table_rows(demo),
        words=table_rows(demo, "wer"),
        lines=_lines(demo, pack),
        stages=demo.stages,
        parts=PARTS,
    )


def _lines(demo: SpeechDemo, pack: SpeechPack) -> list[dict[str, Any]]:
    """A dozen unseen lines: spectrogram, mouths, what was said, what was read through which noise."""
    row_of = {row["id"]: row for row in map(json.loads, pack.test.read_text().splitlines())}
    ids = [line["id"] for line in _fact(demo.results[0], "transcripts")]
    places = np.unique(np.linspace(0, len(ids) - 1, SHOWN).astype(int)).tolist()
    wanted = [("audio", "clean"), ("audio", "-5 dB"), ("video", "any"), ("av", "-5 dB")]
    names = {"audio": "sound", "video": "face", "av": "both"}
    found = []
    for place in places:
        row = row_of[ids[place]]
        read = [
            (f"{names[sense]}, {snr}" if snr != "any" else names[sense], _fact(one, "transcripts")[place]["found"])
            for sense, snr in wanted
            for one in demo.results
            if (_fact(one, "modality"), _fact(one, "snr")) == (sense, snr)
        ]
        wave = audio.decode((pack.test.parent / row["audio"]).read_bytes())
        film = video.decode((pack.test.parent / row["video"]).read_bytes())
        pictures = [Picture(spectrogram(wave), ""), Picture(mouths(list(film.frames(FPS))), "")]
        found.append({"said": row["caption"], "speaker": row["speaker"], "pictures": pictures, "read": read})
    return found


def spectrogram(wave: np.ndarray) -> Image.Image:
    """The loudness of each frequency up to 8 kHz over time, dark is loud."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(wave, 200), 400)[::80] * np.hanning(400)
    loud = np.log10(np.abs(np.fft.rfft(frames)) ** 2 + 1e-6).T[::-1]
    level = ((loud - loud.max() + 5) / 5).clip(0, 1)
    return Image.fromarray((255 * (1 - level)).astype(np.uint8)).resize((WIDE, TALL), Image.Resampling.BILINEAR)


def mouths(frames: Sequence[np.ndarray], count: int = 10) -> Image.Image:
    """Some frames of a film side by side, evenly spaced."""
    places = np.linspace(0, len(frames) - 1, count).astype(int)
    strip = np.concatenate([frames[place] for place in places], axis=1)
    return Image.fromarray(np.ascontiguousarray(strip)).resize((WIDE, WIDE // count), Image.Resampling.BICUBIC)
