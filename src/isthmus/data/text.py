"""Text files, read in one way everywhere: UTF-8 with or without a byte-order mark, lines that end at LF or CRLF.

Python's `str.splitlines` also breaks at eight other characters, which captions and names hold: it is used nowhere.
A line is blank where it holds white space alone. Blank lines count for nothing, except inside a list whose lines
belong to something by their number (`read_lines`). Packed files (.gz, .bz2, .zst) are unpacked as they are read.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isthmus.errors import BadFile, InputError
from isthmus.owned import regular

MAX_FILE = 1024**3  # bytes of a file that is read whole
MAX_LINE = 256 * 1024**2  # bytes of a line of a table, which may hold a picture in base64
FREE_UNPACKED = 2**22  # bytes that a packed file of any size may hold
MAX_UNPACKED = 50  # bytes for a byte of a packed file; captions are packed to a third or a tenth
WIDE = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}  # marks of encodings that are no UTF-8
BOM = b"\xef\xbb\xbf"


def _zstd(path: Path) -> Any:
    import pyarrow as pa

    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))


PACKED: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".zst": _zstd}


def bare_name(path: str | os.PathLike[str]) -> str:
    """A file's name in small letters, without the ending that says how it is packed."""
    name = os.path.basename(os.fspath(path)).lower()
    return name.removesuffix(packing(name) or "")


def packing(path: str | os.PathLike[str]) -> str | None:
    """The ending that says how a file is packed; None where it is not."""
    return next((ending for ending in PACKED if os.fspath(path).lower().endswith(ending)), None)


@contextmanager
def unpacked(path: str | os.PathLike[str]) -> Iterator[tuple[Any, int]]:
    """A text file that is open for reading bytes, and how many there may be. Only files: a pipe would not end.

    Raises `InputError` for what is no file, `BadFile` for one that cannot be read, also in its midst.
    """
    ending = packing(path)
    try:
        file = regular(path)
        most = FREE_UNPACKED + MAX_UNPACKED * file.stat().st_size if ending else 2**63
        with PACKED[ending](file) if ending else open(file, "rb") as opened:
            yield opened, most
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except InputError:
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise BadFile(f"{path}: cannot be read as text ({error}).") from None


def read_text(path: str | os.PathLike[str], most: int = MAX_FILE) -> str:
    """A whole text file, without its byte-order mark; line ends are left as they are.

    Raises `InputError`, naming the file and the byte, for one that cannot be read, is too large or no UTF-8.
    """
    with unpacked(path) as (file, bound):
        data = file.read(min(most, bound) + 1)
    if len(data) > bound:
        raise _bomb(path, bound)
    if len(data) > most:
        raise InputError(f"{path}: more than {most:,} bytes, too many for a text that is read whole.")
    return decode_text(data, f"{path}")


def _bomb(path: Any, bound: int) -> BadFile:
    return BadFile(f"{path}: unpacked, it has more than {bound:,} bytes, too many for so small a file. Unpack it.")


def decode_text(data: bytes, where: str) -> str:
    """UTF-8 without its byte-order mark. Raises `InputError` that begins with `where`."""
    if data[:2] in WIDE:
        raise BadFile(f"{where} is {WIDE[data[:2]]}, not UTF-8. Save it as UTF-8 (iconv -f UTF-16 -t UTF-8).")
    try:
        return data.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadFile(f"{where} is not UTF-8 ({error}). Save it as UTF-8 (iconv -f LATIN1 -t UTF-8).") from None


def split_lines(text: str) -> list[str]:
    """The lines of a text, ended by LF or CRLF; blank lines at the end are no lines."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """Lines identified by number: stripped; blank ones are kept in between and dropped at the end."""
    return [line.strip() for line in split_lines(read_text(path))]


def read_entries(path: str | os.PathLike[str]) -> list[str]:
    """Names, one a line: stripped, blank lines skipped."""
    return [line for line in read_lines(path) if line]


def iter_lines(path: str | os.PathLike[str]) -> Iterator[str]:
    """The lines of a file of any size, each with its line end; only one is in memory.

    Raises `InputError`, naming the line, for one that is longer than `MAX_LINE` or no UTF-8.
    """
    with unpacked(path) as (file, bound):
        longest, read = min(MAX_LINE, bound), 0
        for number, raw in enumerate(iter(lambda: file.readline(longest + 1), b""), 1):
            read += len(raw)
            if read > bound:
                raise _bomb(path, bound)
            if len(raw) > MAX_LINE:
                raise BadFile(f"{path}: line {number} has more than {MAX_LINE:,} bytes.")
            yield decode_text(raw, f"{path}: line {number}") if number == 1 else _decoded(raw, path, number)


def _decoded(raw: bytes, path: str | os.PathLike[str], number: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadFile(f"{path}: line {number} is not UTF-8 ({error}). Save it as UTF-8.") from None


def parse_json(text: str) -> Any:
    """JSON; a key that is twice in one object is a ValueError, because the intended value is unknown."""
    return json.loads(text, object_pairs_hook=_distinct)


def _distinct(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) < len(items):
        keys = [key for key, _ in items]
        raise ValueError(f"the name {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return found


def json_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of JSON Lines; blank lines are skipped. Raises `InputError` naming the line."""
    for number, line in enumerate(iter_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except (ValueError, RecursionError) as error:
            raise BadFile(f"{path}: line {number} cannot be read as JSON ({error}).") from None
        if not isinstance(record, dict):
            raise InputError(f"{path}: line {number} is not a JSON object, {{…}}.")
        yield number, record


def read_json_strictly(path: Path) -> Any:
    """A JSON file of a user, whole; as `files.read_json`, but no name may stand twice in an object."""
    try:
        return parse_json(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise BadFile(f"{path}: cannot be read as JSON ({error}).") from None
