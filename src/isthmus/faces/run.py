"""`crop_mouths`: films to small grey films of the mouth, which image encoders and recognisers read as any film."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from isthmus.data.images import BadImage
from isthmus.data.sources import read_file
from isthmus.data.video import ENDINGS, BadVideo, Film, decode
from isthmus.errors import InputError, UsageError
from isthmus.faces.alignment import SMOOTH, crop, interpolate, smooth
from isthmus.faces.landmarks import Finder, find_finder
from isthmus.files import atomic_path, write_atomic, write_json
from isthmus.progress import progress_bar
from isthmus.report.contact_sheet import contact_sheet

SIDES = (32, 256)
LEAST_SHARE = 0.5  # of the frames with a face, below which a film is left out
SHOWN = 6  # crops of each film on the contact sheet
MOST_SHOWN = 12  # films on it


@dataclass(frozen=True)
class Mouths:
    """The crops of one film. share: of its frames in which a face was found; None for ready crops."""

    source: str
    video: str
    frames: int
    fps: float
    share: float | None


@dataclass
class CroppedMouths:
    """What `crop_mouths` did. skipped: (film, reason)."""

    done: list[Mouths] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {"mouths": [asdict(one) for one in self.done], "skipped": dict(self.skipped)}


def crop_mouths(
    videos: Sequence[str | Path],
    out: str | Path,
    *,
    fps: int = 25,
    side: int = 96,
    landmarks: str = "dlib",
    landmarks_model: str | None = None,
    ready: bool = False,
    least_share: float = LEAST_SHARE,
    progress: bool | None = False,
) -> CroppedMouths:
    """Write the mouths of films as grey films, a table of them (`mouths.csv`), and a contact sheet (`mouths.png`).

    videos: files, or folders of them. fps: frames a second of the crops, whatever the films have. side: of a crop in
    pixels, `SIDES`. landmarks: a finder by name (`isthmus.faces.landmarks.FINDERS`), landmarks_model: its file.
    ready: the films are crops already, which are resampled and resized alone. least_share: of frames with a face, below
    which a film is skipped.

    As the published front-ends were trained (Pan et al., ACL 2022): 68 landmarks, missed frames interpolated, a moving
    average over 12 frames, a similarity transform to a mean face, the crop around the mouth. Memory: a frame, and the
    landmarks. Raises `UsageError` for an option, `InputError` where no film could be used.
    """
    if not SIDES[0] <= side <= SIDES[1] or not 1 <= fps <= 240:
        raise UsageError(f"side={side}, fps={fps}: a crop has {SIDES[0]} to {SIDES[1]} pixels, 1 to 240 a second.")
    if not 0 <= least_share <= 1:
        raise UsageError(f"least_share={least_share}: a share of frames is from 0 to 1.")
    made = None if ready else find_finder(landmarks, landmarks_model)
    found, sheet = CroppedMouths(), list[tuple[Image.Image, str]]()
    films = _named(videos)
    _check_kept(films, Path(out))
    bar = progress_bar(progress, films.items(), desc="films", unit="film")
    for name, path in bar:
        try:
            crops, share = _crops(decode(read_file(path)), fps, side, made, least_share)
            frames, shown = _write(Path(out) / f"{name}.mkv", crops, fps, side)
        except BadImage as error:  # of a file that cannot be read, or of a film
            found.skipped.append((str(path), error.reason))
            continue
        found.done.append(Mouths(str(path), f"{name}.mkv", frames, fps, share))
        sheet += [(picture, _caption(name, second, share)) for second, picture in shown]
    _tell(Path(out), found, sheet)
    if not found.done:
        raise InputError("; ".join(f"{film}: {why}" for film, why in found.skipped[:5]))
    return found


def follow(film: Film, fps: float, finder: Finder) -> list[np.ndarray | None]:
    """The landmarks [68, 2] in each frame of a film, `fps` a second; None where no face is found."""
    return [finder(frame) for frame in film.frames(fps)]


def _named(videos: Sequence[str | Path]) -> dict[str, Path]:
    """Films by the name of their crops: each its stem, with a number where that is taken."""
    found: dict[str, Path] = {}
    for given in map(Path, videos):
        inside = sorted(p for p in given.rglob("*") if p.suffix.lower() in ENDINGS) if given.is_dir() else [given]
        if not inside:
            raise InputError(f"{given}: no films in this folder ({', '.join(ENDINGS)}).")
        for path in inside:
            stem = path.stem if not given.is_dir() else "_".join(path.relative_to(given).with_suffix("").parts)
            name, number = stem, 1
            while name in found:
                number += 1
                name = f"{stem}-{number}"
            found[name] = path
    return found


def _check_kept(films: dict[str, Path], out: Path) -> None:
    """Raise `UsageError` where crops would take the place of a film."""
    sources = {path.resolve(): path for path in films.values()}
    for name in films:
        if source := sources.get((out / f"{name}.mkv").resolve()):
            raise UsageError(f"{source}: would be written over: name another folder for the crops (--out).")


def _crops(film: Film, fps: int, side: int, made: Any, least: float) -> tuple[Iterable[np.ndarray], float | None]:
    """(crops uint8 [side, side] as they are asked for, share of frames with a face)."""
    if made is None:
        return (_resized(frame, side) for frame in film.frames(fps)), None
    track = follow(film, fps, made())
    share = sum(points is not None for points in track) / len(track)
    if not share or share < least:
        raise BadVideo(
            f"a face in {100 * share:.0f} % of its {len(track):,} frames; {100 * least:.0f} % are asked for."
        )
    points = interpolate(track)
    steady = smooth(points, max(1, round(SMOOTH * fps / 25)))
    pairs = zip(film.frames(fps), points, steady, strict=True)
    return (crop(*one, side) for one in pairs), share


def _resized(frame: np.ndarray, side: int) -> np.ndarray:
    """The middle square of a frame, grey."""
    picture = Image.fromarray(np.ascontiguousarray(frame)).convert("L")
    least = min(picture.size)
    x, y = (picture.width - least) // 2, (picture.height - least) // 2
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, (x, y, x + least, y + least)))


def _write(path: Path, crops: Iterable[np.ndarray], fps: int, side: int) -> tuple[int, list[tuple[float, Image.Image]]]:
    """Write the crops without loss; (their number, some of them with their second)."""
    count, kept, every = 0, list[tuple[float, Image.Image]](), 1
    with atomic_path(path) as aside:
        for count, frame in enumerate(write_grey(aside, crops, fps, side), 1):
            if (count - 1) % every == 0:
                kept.append(((count - 1) / fps, Image.fromarray(frame)))
            if len(kept) == 4 * SHOWN:
                kept, every = kept[::2], 2 * every
    chosen = np.linspace(0, len(kept) - 1, min(SHOWN, len(kept))).round().astype(int)
    return count, [kept[place] for place in chosen]


def write_grey(path: Path, frames: Iterable[np.ndarray], fps: int, side: int) -> Iterator[np.ndarray]:
    """Write frames uint8 [side, side] to a Matroska file by FFV1, without loss; each is given back as it is written."""
    import av

    with av.open(str(path), "w", format="matroska") as container:
        track: Any = container.add_stream("ffv1", rate=Fraction(fps))
        track.width, track.height, track.pix_fmt = side, side, "gray"
        for frame in frames:
            container.mux(track.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "gray")))
            yield frame
        container.mux(track.encode())


def _caption(name: str, second: float, share: float | None) -> str:
    return f"{name}\n{second:.1f} s" + ("" if share is None else f", a face in {100 * share:.0f} %")


def _tell(out: Path, found: CroppedMouths, sheet: list[tuple[Image.Image, str]]) -> None:
    if found.done:
        text = StringIO()
        writer = csv.DictWriter(text, ["video", "source", "frames", "fps", "share"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(one) for one in found.done)
        write_atomic(out / "mouths.csv", lambda path: path.write_text(text.getvalue(), "utf-8"))
        pictures, captions = zip(*sheet[: SHOWN * MOST_SHOWN], strict=True)
        with atomic_path(out / "mouths.png") as aside:
            contact_sheet(pictures, captions, columns=SHOWN, size=120, fill=True).save(aside, format="PNG")
    write_json(out / "mouths.json", found.record())
