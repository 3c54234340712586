"""Captions in plain text: the token files of Flickr8k and Flickr30k, and tables that are called `.txt`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from isthmus.data.delimited import Delimited, read_delimited
from isthmus.data.gathering import Gathered, GatheredRow
from isthmus.data.text import iter_lines
from isthmus.errors import InputError

TOKEN = re.compile(r"([^\t]+\.\w+)#(\d+)\t(.*)")  # 1000092795.jpg#0<TAB>Two young guys …


def read_text_table(path: Path, into: Gathered) -> None:
    """A token file, or a table such as Flickr8k's `captions.txt`. Raises `InputError` for any other text."""
    first = next((line for line in iter_lines(path) if line.strip()), "")
    if TOKEN.fullmatch(first.rstrip("\r\n")):
        into.rows(f"{path}: line", _tokens(path, into), into.places(path, by_name=True))
    elif len(Delimited(path, into.reading.columns).names) > 1:
        read_delimited(path, into)
    else:
        raise InputError(f"{path}: not a table of pairs: no header line with image and caption, nor NAME#0 and a tab.")


def _tokens(path: Path, into: Gathered) -> Iterator[tuple[int, GatheredRow]]:
    for number, line in enumerate(iter_lines(path), 1):
        if not line.strip():
            continue
        match = TOKEN.fullmatch(line.rstrip("\r\n"))
        if match is None:
            raise InputError(f"{path}: line {number} is not NAME#NUMBER, a tab and a caption.")
        yield number, into.fields({"image": match[1], "caption": match[3]}, {"image": "image", "caption": "caption"})
