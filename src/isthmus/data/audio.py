"""The modality `audio`: recordings of any kind decoded to mono 16 kHz, safely, and no more of a file than asked for."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from isthmus.data.containers import beginning, container_of, head_of, open_film, part_times, said
from isthmus.data.images import BadImage
from isthmus.errors import UsageError
from isthmus.modality import ModalitySpec

RATE = 16_000  # samples a second, of every item
SHORTEST = 0.025  # seconds: one frame of the usual encoders
LONGEST = 3_600.0  # seconds of one item
RATES = (4_000, 384_000)  # of files
MAX_CHANNELS = 64
SILENT = 1e-4  # of full scale, -80 dB
SLACK = 0.1  # seconds by which a file may end before the `end` that its row names
BLOCK = 2**18  # values that are decoded at a time

ENDINGS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64")
FILMS = (".mp4", ".m4a", ".mov", ".mkv", ".webm", ".avi")  # read as audio where something names them
EXTRA = "Audio is read with pip install 'isthmus[audio]'."
NO_FILMS = (None, "ogg", "gif")  # what libsndfile reads, or nothing does

Blocks = Iterator[np.ndarray]  # float32 [n, channels]


class BadAudio(BadImage):
    """One recording cannot be used. `reason` is one sentence for the table of skipped items."""


def decode(data: bytes, start: Any = None, end: Any = None) -> np.ndarray:
    """A recording, or the part between two times in seconds, as float32 [samples], mono, 16,000 a second.

    data: a file as libsndfile reads it (WAV, FLAC, Ogg, MP3, AIFF, …), or a container with a sound track where PyAV is
    installed. Channels are averaged; 8 bits, 24 bits and floats are scaled to ±1; soxr resamples. Memory: that of the
    part, whatever the header claims.

    Raises `BadAudio`: damaged, truncated, silent, shorter than 25 ms, longer than an hour, or without a sound track.
    `UsageError`: soundfile or soxr is not installed.
    """
    first, last = part_times(start, end, LONGEST, BadAudio)
    rate, blocks = _opened(data, first)
    wanted = LONGEST if last is None else last - first
    wave, low, high = _resampled(rate, blocks, wanted)
    seconds = len(wave) / RATE
    if last is not None and seconds < wanted - SLACK:
        raise BadAudio(f"ends at {first + seconds:.2f} s, before the end of its part, {last:.2f} s.")
    if last is None and seconds >= LONGEST:
        raise BadAudio(f"longer than {LONGEST:,.0f} s: name parts of it, with columns start and end in seconds.")
    if seconds < SHORTEST:
        raise BadAudio(f"{seconds * 1000:.0f} ms of sound: less than the {SHORTEST * 1000:.0f} that can be encoded.")
    if (high - low) / 2 < SILENT:
        raise BadAudio("silence: nothing in it is louder than -80 dB of full scale.")
    return wave


def streamed(path: str | os.PathLike[str]) -> Blocks:
    """A recording of any length as float32 [n] pieces, mono, 16,000 a second; no file is held as a whole.

    Raises `BadAudio` for one that is damaged or has no sound, `UsageError` where soundfile or soxr is not installed.
    """
    with open(path, "rb") as file:
        rate, blocks = _opened(file, 0.0)
        stream = _resampler(rate)
        for block in blocks:
            mono = block.mean(axis=1, dtype=np.float32)
            if not np.isfinite(mono).all():
                raise BadAudio("some of its samples are not finite.")
            yield mono if stream is None else stream.resample_chunk(mono)
        if stream is not None:
            yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def read(items: Sequence[Any]) -> list[np.ndarray]:
    """Recordings as float32 [samples] at 16 kHz: arrays or tensors. Raises `BadAudio` for anything else."""
    found = []
    for item in items:
        wave = np.asarray(item.detach().cpu() if hasattr(item, "detach") else item)
        if wave.ndim != 1 or wave.dtype.kind != "f":
            kind = f"{list(wave.shape)} {wave.dtype}"
            raise BadAudio(f"a recording is an array of floats [samples] at 16 kHz, not {kind}.")
        if len(wave) < SHORTEST * RATE:
            raise BadAudio(f"{len(wave)} samples are less than the {SHORTEST * RATE:.0f} that can be encoded.")
        if not np.isfinite(wave).all():
            raise BadAudio("some of its samples are not finite.")
        found.append(np.ascontiguousarray(wave, np.float32))
    return found


def probe() -> np.ndarray:
    """Half a second of two tones."""
    time = np.arange(RATE // 2, dtype=np.float32) / RATE
    return (0.3 * np.sin(2 * np.pi * 220 * time) + 0.1 * np.sin(2 * np.pi * 1760 * time)).astype(np.float32)


def _opened(data: bytes | BinaryIO, start: float) -> tuple[int, Blocks]:
    """Samples a second of a file, in memory or opened, and what is in it from `start` on."""
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise UsageError(f"{EXTRA} ({error})") from None
    if container_of(head_of(data)) not in NO_FILMS:
        return _film(data, start)
    try:
        file = soundfile.SoundFile(io.BytesIO(data) if isinstance(data, bytes) else data)
    except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
        raise BadAudio(f"no sound that can be read ({said(error)})") from None
    _check(file.samplerate, file.channels)
    return file.samplerate, _sound(file, start)


def _check(rate: int, channels: int) -> None:
    """Refuse what no recording has, before anything is made of that size."""
    if not RATES[0] <= rate <= RATES[1]:
        raise BadAudio(f"{rate:,} samples a second; from {RATES[0]:,} to {RATES[1]:,} are read.")
    if not 1 <= channels <= MAX_CHANNELS:
        raise BadAudio(f"{channels} channels; up to {MAX_CHANNELS} are read.")


def _sound(file: Any, start: float) -> Blocks:
    import soundfile

    with file:
        claimed, at = file.frames, round(start * file.samplerate)
        if at and at >= claimed:
            raise BadAudio(f"ends at {claimed / file.samplerate:.2f} s, before the start of its part, {start:.2f} s.")
        try:
            file.seek(at)
            while len(block := file.read(max(1, BLOCK // file.channels), dtype="float32", always_2d=True)):
                at += len(block)
                yield block
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise BadAudio(f"damaged at {at / file.samplerate:.2f} s ({said(error)})") from None
        if file.format == "FLAC" and at < claimed:
            raise BadAudio(f"truncated: {at / file.samplerate:.2f} s of {claimed / file.samplerate:,.2f} are there.")


def _film(data: bytes | BinaryIO, start: float) -> tuple[int, Blocks]:
    container = open_film(data, BadAudio)
    tracks = container.streams.audio
    try:
        if not tracks or not tracks[0].rate:
            raise BadAudio("a film without a sound track.")
        _check(tracks[0].rate, tracks[0].codec_context.channels or 1)
    except BadAudio:
        container.close()
        raise
    return tracks[0].rate, _track(container, tracks[0], start)


def _track(container: Any, track: Any, start: float) -> Blocks:
    """The sound of a container from `start` on, counted from where the film begins: silence where its sound is late."""
    import av

    at, place = round(start * track.rate), 0
    if late := round(((track.start_time or 0) * float(track.time_base) - beginning(container)) * track.rate):
        place = min(max(0, late), round(LONGEST * track.rate))
        for begin in range(at, place, BLOCK):
            yield np.zeros((min(BLOCK, place - begin), 1), np.float32)
    to_floats = av.AudioResampler(format="fltp", layout=track.layout.name, rate=track.rate)
    try:
        for frame in container.decode(track):
            for flat in to_floats.resample(frame):
                block = flat.to_ndarray().T
                place += len(block)
                if place > at:
                    yield block[max(0, at - (place - len(block))) :]
    except (av.error.FFmpegError, ValueError) as error:
        raise BadAudio(f"damaged at {place / track.rate:.2f} s ({said(error)})") from None
    finally:
        container.close()


def _resampled(rate: int, blocks: Blocks, seconds: float) -> tuple[np.ndarray, float, float]:
    """(mono at 16 kHz, no longer than `seconds`; the least and the greatest value before resampling)."""
    stream = _resampler(rate)
    found, left, low, high = [], round(seconds * rate), np.inf, -np.inf
    for block in blocks:
        mono = block[:left].mean(axis=1, dtype=np.float32)
        if not np.isfinite(mono).all():
            raise BadAudio("some of its samples are not finite.")
        low, high = (min(low, mono.min()), max(high, mono.max())) if len(mono) else (low, high)
        left -= len(mono)
        found.append(mono if stream is None else stream.resample_chunk(mono))
        if left <= 0:
            break
    if stream is not None:
        found.append(stream.resample_chunk(np.zeros(0, np.float32), last=True))
    wave = np.concatenate(found) if found else np.zeros(0, np.float32)
    return wave, float(low), float(high)


def _resampler(rate: int) -> Any:
    """What resamples from so many samples a second to 16,000, piece by piece; None where they are 16,000."""
    try:
        import soxr
    except ImportError as error:
        raise UsageError(f"{EXTRA} ({error})") from None
    return soxr.ResampleStream(rate, RATE, 1, dtype="float32") if rate != RATE else None


AUDIO = ModalitySpec(
    read=read,
    probe=probe,
    options=("seconds",),
    many=("tokens",),
    single="mean",
    tokens="tokens",
    padded=True,
    length=len,
    decode=decode,
    columns=("audio", "audio_path", "audio_file", "audio_filepath", "wav", "wav_path", "speech"),
    part=("start", "end"),
    about=("speaker",),
    endings=ENDINGS,
)
