"""Text files, read in one way everywhere: UTF-8 with or without a byte-order mark, lines that end at LF or CRLF.

Python's `str.splitlines` also breaks at eight other characters, which occur in captions and names, so it is not used. A
line with white space alone is blank. Blank lines are ignored, except inside a list whose lines are identified by number
(`read_lines`).
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isthmus.errors import InputError

MAX_FILE = 1024**3  # bytes of a file that is read whole
MAX_LINE = 256 * 1024**2  # bytes of a line of a table, which may hold a picture in base64
WIDE = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}  # marks of encodings that are no UTF-8
BOM = b"\xef\xbb\xbf"


def read_text(path: str | os.PathLike[str], most: int = MAX_FILE) -> str:
    """A whole text file (`.gz`: unpacked), without its byte-order mark; line ends are left as they are.

    Raises `InputError`, naming the file and the byte, for one that cannot be read, is too large or no UTF-8.
    """
    try:
        with (gzip.open if str(path).endswith(".gz") else open)(path, "rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read as text ({error}).") from None
    if len(data) > most:
        raise InputError(f"{path}: more than {most:,} bytes, too many for a text that is read whole.")
    return decode_text(data, f"{path}")


def decode_text(data: bytes, where: str) -> str:
    """UTF-8 without its byte-order mark. Raises `InputError` that begins with `where`."""
    if data[:2] in WIDE:
        raise InputError(f"{where} is {WIDE[data[:2]]}, not UTF-8. Save it as UTF-8 (iconv -f UTF-16 -t UTF-8).")
    try:
        return data.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 ({error}). Save it as UTF-8 (iconv -f LATIN1 -t UTF-8).") from None


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
    with open(path, "rb") as file:
        for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            if len(raw) > MAX_LINE:
                raise InputError(f"{path}: line {number} has more than {MAX_LINE:,} bytes.")
            yield decode_text(raw, f"{path}: line {number}") if number == 1 else _decoded(raw, path, number)


def _decoded(raw: bytes, path: str | os.PathLike[str], number: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: line {number} is not UTF-8 ({error}). Save it as UTF-8.") from None


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
            raise InputError(f"{path}: line {number} cannot be read as JSON ({error}).") from None
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
        raise InputError(f"{path}: cannot be read as JSON ({error}).") from None
