"""Films: containers (MP4, Matroska, AVI, …) as PyAV opens them, told apart by their first bytes."""

from __future__ import annotations

import io
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


def said(error: Exception) -> str:
    """What a library said, as part of a sentence."""
    # without the number of FFmpeg's errors, and the object that libsndfile names
    message = getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)
    return (" ".join(message.split()) or type(error).__name__).rstrip(".") + "."
