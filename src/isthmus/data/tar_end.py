"""The end of a tar: two blocks of zeros, and nothing but zeros after them. Without it, part of the tar may be lost."""

from __future__ import annotations

import tarfile
from typing import BinaryIO

CHUNK = 2**20
MAX_PADDING = 2**30  # bytes: writers fill up to some kB


def check_end(file: BinaryIO, offset: int) -> None:
    """Whether the tar ends at byte `offset`, where its last member did.

    Raises `tarfile.ReadError` that says what is there instead: nothing, a damaged or zeroed header, or more members.
    """
    file.seek(offset)
    marker = file.read(2 * tarfile.BLOCKSIZE)
    if marker[: tarfile.BLOCKSIZE].strip(b"\0"):
        raise tarfile.ReadError("a damaged header")
    if marker.strip(b"\0"):
        raise tarfile.ReadError("a header of zeros")
    if len(marker) < 2 * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it is cut off: there is no end marker")
    for start in range(0, MAX_PADDING, CHUNK):
        chunk = file.read(CHUNK)
        if not chunk:
            return
        if chunk.strip(b"\0"):
            at = offset + len(marker) + start + len(chunk) - len(chunk.lstrip(b"\0"))
            raise tarfile.ReadError(f"its end marker comes before more of it, from byte {at:,}: tars put together?")
    raise tarfile.ReadError(f"more than {MAX_PADDING:,} bytes of zeros at its end")
