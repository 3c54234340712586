"""The modality `video`: films, read frame by frame at whatever rate an encoder wants, and never held as a whole."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from isthmus.data.containers import EXTRA, beginning, container_of, open_film, part_times, said
from isthmus.data.images import BadImage
from isthmus.errors import UsageError
from isthmus.modality import ModalitySpec

LONGEST = 3_600.0  # seconds of one item
MAX_PIXELS = 2**25  # of a frame: 8K
MAX_RATE = 480  # frames a second of a file
SLACK = 0.25  # seconds by which a file may end before the `end` that its row names
EARLY = Fraction(1, 1_000)  # seconds before its time at which a frame counts, since some containers round to them
STILL = Fraction(1, 25)  # seconds that a last frame lasts where its file does not say
ENDINGS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".ogv", ".flv")
NUMPY = b"\x93NUMPY"
ARRAY_RATE = 25  # frames a second of an array, which does not say

Timed = Iterator[tuple[Fraction, Fraction, np.ndarray]]  # second, seconds that it lasts (0: unknown), uint8 [H, W, 3]


class BadVideo(BadImage):
    """One film cannot be used. `reason` is one sentence for the table of skipped items."""


@dataclass(frozen=True)
class Film:
    """A film, or the part between two times in seconds: its file, whose frames are decoded as they are asked for.

    data: the file; or an array uint8 [T, H, W] or [T, H, W, 3] of frames, `rate` a second.
    end: None: to the end of the film. A film begins with the first of its tracks, be it sound.
    """

    data: bytes | np.ndarray
    start: float = 0.0
    end: float | None = None
    rate: float = ARRAY_RATE

    def frames(self, rate: float) -> Iterator[np.ndarray]:
        """Frames uint8 [H, W, 3], RGB, upright, `rate` a second: those that are shown at (k + ½) / rate seconds.

        So a film of 12, 25, 30, 50 or a varying number of frames a second gives the same number of them. Before the
        first frame of the film that one is shown, behind the last that one, as long as it lasts.

        Raises `BadVideo`: damaged, shorter than its part, longer than an hour, or too large. Memory: a frame.
        """
        start, k = Fraction(self.start), 0
        shown: np.ndarray | None = None
        for until, picture in _lasting(self._timed()):
            shown = picture
            while (time := start + (k + Fraction(1, 2)) / Fraction(rate)) < until - EARLY:
                if self.end is not None and time >= self.end:
                    return
                if time > start + Fraction(LONGEST):
                    raise BadVideo(f"longer than {LONGEST:,.0f} s: name parts of it, with columns start and end.")
                yield picture
                k += 1
            ends = until
        if shown is None:
            raise BadVideo("a film without a frame that can be read.")
        if self.end is not None and ends + Fraction(SLACK) < self.end:
            raise BadVideo(f"ends at {float(ends):.2f} s, before the end of its part, {self.end:.2f} s.")
        if self.end is not None:
            yield from (shown for _ in range(math.ceil((self.end - self.start) * rate - 0.5) - k))
        elif not k:
            if self.start:
                raise BadVideo(f"ends at {float(ends):.2f} s, before the start of its part, {self.start:.2f} s.")
            yield shown

    def _timed(self) -> Timed:
        if isinstance(self.data, np.ndarray):
            return _of_array(self.data, self.rate)
        return _of_file(self.data, self.start)

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return self.data.nbytes if isinstance(self.data, np.ndarray) else len(self.data)

    def milliseconds(self) -> int:
        """How long it is, as far as it says without being read."""
        if self.end is not None:
            return round(1000 * (self.end - self.start))
        if isinstance(self.data, np.ndarray):
            return round(1000 * len(self.data) / self.rate)
        container = open_film(self.data, BadVideo)
        with container:
            return round((container.duration or 0) / 1e3 - 1000 * self.start)


def decode(data: bytes, start: Any = None, end: Any = None) -> Film:
    """A film, or the part between two times in seconds, checked as far as its first frame.

    data: a container that PyAV opens (MP4, MOV, Matroska, WebM, AVI, MPEG, …), or a .npy file uint8 [T, H, W] or
    [T, H, W, 3] of frames, 25 a second.

    Raises `BadVideo`: no film, damaged, without a picture track, a frame too large.
    `UsageError`: PyAV is not installed.
    """
    first, last = part_times(start, end, LONGEST, BadVideo)
    film = Film(_array(data) if data.startswith(NUMPY) else data, first, last)
    next(film.frames(ARRAY_RATE))
    return film


def read(items: Sequence[Any]) -> list[Film]:
    """Films: as `decode` gives them, or arrays of frames (`Film`), 25 a second. Raises `BadVideo` for anything else."""
    return [item if isinstance(item, Film) else Film(_checked(item)) for item in items]


def probe() -> Film:
    """A fifth of a second."""
    side = np.arange(64, dtype=np.uint8)
    still = np.add.outer(side, 2 * side)
    return Film(np.stack([np.roll(still, 7 * k, axis=1) for k in range(5)]))


def _array(data: bytes) -> np.ndarray:
    try:
        return _checked(np.load(io.BytesIO(data), allow_pickle=False))
    except (ValueError, EOFError, OSError) as error:
        raise BadVideo(f"no array of frames ({said(error)})") from None


def _checked(item: Any) -> np.ndarray:
    frames = np.asarray(item.detach().cpu() if hasattr(item, "detach") else item)
    grey = frames.ndim == 3
    if frames.dtype != np.uint8 or not (grey or (frames.ndim == 4 and frames.shape[-1] == 3)) or not frames.size:
        kind = f"{list(frames.shape)} {frames.dtype}"
        raise BadVideo(f"frames are an array uint8 [T, H, W] or [T, H, W, 3], not {kind}.")
    return frames


def _lasting(timed: Timed) -> Iterator[tuple[Fraction, np.ndarray]]:
    """(until, frame): a frame lasts until the next appears; the last as it says, or as the one before it."""
    before: tuple[Fraction, Fraction, np.ndarray] | None = None
    usual = STILL
    for appears, lasts, picture in timed:
        if before is not None and appears > before[0]:
            usual = appears - before[0]
            yield appears, before[2]
        before = (appears if before is None else max(appears, before[0]), lasts, picture)
    if before is not None:
        yield before[0] + (before[1] or usual), before[2]


def _of_array(frames: np.ndarray, rate: float) -> Timed:
    for number, frame in enumerate(frames):
        picture = frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, axis=2)
        yield number / Fraction(rate), 1 / Fraction(rate), picture


def _of_file(data: bytes, start: float) -> Timed:
    """The frames of a file, from one that is shown at `start` on."""
    if container_of(data) is None:
        raise BadVideo("no film that can be read: MP4, MOV, Matroska, WebM, AVI, MPEG and Ogg are.")
    if importlib.util.find_spec("av") is None:
        raise UsageError(f"Video: {EXTRA}")
    container = open_film(data, BadVideo)
    with container:
        tracks = container.streams.video
        if not tracks:
            raise BadVideo("a film without a picture track.")
        _check(tracks[0].codec_context.width, tracks[0].codec_context.height)
        tracks[0].codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        yield from _decoded(container, tracks[0], start)


def _decoded(container: Any, track: Any, start: float) -> Timed:
    import av
    from av.video.reformatter import VideoReformatter

    to_rgb = VideoReformatter()  # of the film: `VideoFrame.to_ndarray` makes one of each frame, which takes longer
    zero, count = Fraction(beginning(container)).limit_denominator(10**6), 0
    first = appears = Fraction(0)
    try:
        if start > 1:
            with contextlib.suppress(av.error.FFmpegError):  # without an index it is read from the beginning
                container.seek(round((float(zero) + start - 1) * 1e6))
        for frame in container.decode(track):
            _check(frame.width, frame.height)
            appears = (frame.pts or 0) * frame.time_base - zero
            first, count = (first if count else appears), count + 1
            if count > 100 + MAX_RATE * (appears - first):
                raise BadVideo(f"more than {MAX_RATE} frames a second.")
            picture = to_rgb.reformat(frame, format="rgb24").to_ndarray()
            yield appears, (frame.duration or 0) * frame.time_base, np.rot90(picture, frame.rotation // 90)
    except (av.error.FFmpegError, ValueError) as error:
        raise BadVideo(f"damaged at {float(appears):.2f} s ({said(error)})") from None


def _check(width: int, height: int) -> None:
    """Refuse what no film has, before anything is made of that size."""
    if not 0 < width * height <= MAX_PIXELS:
        raise BadVideo(f"frames of {width:,} × {height:,} pixels; up to {MAX_PIXELS:,} are read.")


VIDEO = ModalitySpec(
    read=read,
    probe=probe,
    options=("fps", "frame", "size", "stem"),
    many=(),
    single="mean",
    tokens="states",
    padded=True,
    length=Film.milliseconds,
    held=True,
    decode=decode,
    columns=("video", "video_path", "video_file", "video_filepath", "film", "movie"),
    part=("start", "end"),
    about=("speaker",),
    endings=ENDINGS,
)
