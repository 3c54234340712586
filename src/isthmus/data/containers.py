"""Films: containers (MP4, Matroska, AVI, …) as PyAV opens them, told apart by their first bytes, and parts of them."""

from __future__ import annotations

import io
import math
from typing import Any, BinaryIO

from isthmus.data.images import BadImage

HEAD_BYTES = 1024  # bytes that tell what a file is
EXTRA = "a film or another container is read with pip install 'isthmus[video]'."


def container_of(data: bytes) -> str | None:
    """FFmpeg's name for the container in these bytes; None for anything else.

    Playlists and the like are not among them: they would have FFmpeg open further files.
    """
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mp4"
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "avi"
    starts = {b"\x1aE\xdf\xa3": "matroska", b"FLV\x01": "flv", b"\x00\x00\x01\xba": "mpeg", b"GIF8": "gif"}
    if data[:4] in starts:
        return starts[data[:4]]
    if data[:1] == b"G" and data[188:189] == b"G":
        return "mpegts"
    return "ogg" if data[:4] == b"OggS" else None


def open_film(data: bytes | BinaryIO, bad: type[BadImage]) -> Any:
    """The opened container (`av.container.InputContainer`). Raises `bad` for one that cannot be read.

    data: a file's bytes, or the opened file, which is read as it is decoded. Nothing beside it is opened.
    """
    try:
        import av
    except ImportError:
        raise bad(EXTRA) from None
    try:
        return av.open(io.BytesIO(data) if isinstance(data, bytes) else data, format=container_of(head_of(data)))
    except (av.error.FFmpegError, ValueError) as error:
        raise bad(f"a film that cannot be read ({said(error)})") from None


def head_of(data: bytes | BinaryIO) -> bytes:
    """The first bytes of a file, by which it is told; an opened one stands at its beginning afterwards."""
    if isinstance(data, bytes):
        return data[:HEAD_BYTES]
    data.seek(0)
    head = data.read(HEAD_BYTES)
    data.seek(0)
    return head


def beginning(container: Any) -> float:
    """The time in seconds at which a film begins: the first of its tracks."""
    return float(container.start_time or 0) / 1e6


def part_times(start: Any, end: Any, longest: float, bad: type[BadImage]) -> tuple[float, float | None]:
    """Start and end of a part in seconds, None for the end of the file. Raises `bad` for what is no part."""
    try:
        first, last = float(start or 0), None if end is None else float(end)
    except (TypeError, ValueError):
        raise bad(f"start={start!r}, end={end!r}: they are times in seconds.") from None
    if not (0 <= first < math.inf) or (last is not None and not first < last < math.inf):
        raise bad(f"start={start}, end={end}: a part begins at 0 s or later, and ends after it begins.")
    if last is not None and last - first > longest:
        raise bad(f"{last - first:,.0f} s are longer than the {longest:,.0f} s of one item.")
    return first, last


def said(error: Exception) -> str:
    """What a library said, as part of a sentence."""
    # without the number of FFmpeg's errors, and the object that libsndfile names
    message = getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)
    return (" ".join(message.split()) or type(error).__name__).rstrip(".") + "."
