"""Questions about composition, and what the readers of such data sets share.

Every reader takes the folder as its authors publish it and returns, per data set in it, a list of `Question`. An
image is read only when it is needed; one that is missing shows then.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from isthmus.data.images import EXTENSIONS, BadImage, decode
from isthmus.data.sources import ImageSource, Items
from isthmus.data.text import iter_lines, json_lines
from isthmus.errors import InputError
from isthmus.files import read_json

Box = tuple[int, int, int, int]
NONE = ""  # the category of a question that belongs to none


@dataclass(frozen=True)
class QuestionImage:
    """Image `index` of `source`; `box` (left, top, width, height in pixels) is the part of it that is shown."""

    source: ImageSource
    index: int
    box: Box | None = None

    def read(self) -> bytes:
        """The file of the whole image. Raises `BadImage`."""
        return self.source.read(self.index)

    def load(self, data: bytes | None = None) -> Image.Image:
        """The picture as 8-bit RGB; data: what `read` gave, if it was called. Raises `BadImage`."""
        image = decode(self.read() if data is None else data)
        if self.box is None:
            return image
        left, top, width, height = self.box
        right, bottom = min(left + width, image.width), min(top + height, image.height)
        if right <= max(left, 0) or bottom <= max(top, 0):
            raise BadImage(f"its box {self.box} lies outside of {image.width} × {image.height} pixels.")
        return image.crop((max(left, 0), max(top, 0), right, bottom))


@dataclass(frozen=True)
class Question:
    """Which caption belongs to which image?

    One image: `captions[0]` describes it, the others do not. Two images: `captions[i]` describes `images[i]` alone.
    category: the subject of the question, or `NONE`. group: of the questions that share pictures, the unit of the
    bootstrap. within: (kind, id) of the sets this question is part of; a set is answered where all of its questions
    are.
    """

    id: str
    images: tuple[QuestionImage, ...]
    captions: tuple[str, ...]
    category: str
    group: str
    within: tuple[tuple[str, str], ...] = ()


Questions = dict[str, list[Question]]  # by data set


class Files:
    """Image files of a set; a picture that several questions use is one object."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._paths: list[Path] = []
        self._index: dict[str, int] = {}
        self._source = Items(self._paths)

    def picture(self, name: str, box: Box | None = None) -> QuestionImage:
        if name not in self._index:
            self._index[name] = len(self._paths)
            self._paths.append(self.folder / name)
        return QuestionImage(self._source, self._index[name], box)


def choice(
    files: Files, row: Mapping[str, Any], keys: Sequence[str], place: str, category: str, box: Box | None = None
) -> Question:
    """The question in a row with one image (the first key), the right caption and wrong ones."""
    name, *captions = texts(row, keys, place)
    return Question(place, (files.picture(name, box),), tuple(captions), category, name)


def options(files: Files, row: Mapping[str, Any], image: str, place: str, category: str) -> Question:
    """The question in a row with one image and `caption_options`, the right one first."""
    (name,) = texts(row, (image,), place)
    captions = row.get("caption_options")
    if not isinstance(captions, list) or len(captions) < 2 or not all(isinstance(c, str) and c for c in captions):
        raise InputError(f"{place}: caption_options holds no two captions or more, the right one first.")
    return Question(place, (files.picture(name),), tuple(captions), category, name)


def both(row: Mapping[str, Any], keys: Sequence[str], place: str, what: str) -> tuple[Any, ...]:
    """The values of two keys; `InputError` where one is missing or empty."""
    missing = [key for key in keys if not row.get(key)]
    if missing:
        raise InputError(
            f"{place}: no {' nor '.join(missing)}: an example has two {what}. Complete the row or remove it."
        )
    return tuple(row[key] for key in keys)


def texts(row: Mapping[str, Any], keys: Sequence[str], place: str) -> list[str]:
    """The values of `keys`, texts all of them; `InputError` where one is not."""
    for key in keys:
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise InputError(f"{place}: {key!r} is missing or is not text.")
    return [row[key] for key in keys]


def json_rows(file: Path, kind: type = dict) -> list[Any]:
    """A JSON file that is a list of `kind`."""
    rows = read_json(file)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, kind) for row in rows):
        raise InputError(f"{file}: expected a JSON list of {'objects' if kind is dict else 'lists'}.")
    return rows


def json_objects(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file."""
    return (row for _, row in json_lines(file))


def csv_rows(file: Path, columns: Iterable[str]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file, all of `columns` filled in."""
    reader = csv.DictReader(iter_lines(file), strict=True)
    for column in columns:
        if column not in (reader.fieldnames or ()):
            raise InputError(f"{file}: no column {column!r}; its columns are {', '.join(reader.fieldnames or ())}.")
    for row in reader:
        if any(not row[column] for column in columns):
            raise InputError(f"{file}: line {reader.line_num}: {', '.join(columns)} must all be filled in.")
        yield row


def find_file(root: Path, names: Sequence[str], what: str) -> Path:
    """`root` if it is a file, else the first of `names` in it; `what` it is, for messages."""
    if root.is_file():
        return root
    for name in names:
        if (root / name).is_file():
            return root / name
    raise InputError(f"{root}: no {' nor '.join(names)} ({what}).")


def image_folder(root: Path, given: str | Path | None, names: Sequence[str]) -> Path:
    """The folder of images: the one given, else the first of `names` that exists."""
    for folder in [Path(given)] if given is not None else [root / name for name in names]:
        if folder.is_dir():
            return folder
    looked = str(given) if given is not None else f"{root}: no {' nor '.join(f'{name}/' for name in names)}"
    zipped = " Unpack images.zip." if (root / "images.zip").is_file() else ""
    raise InputError(f"{looked} with the images.{zipped} Name their folder with --images.")


def with_ending(folder: Path, name: str) -> str:
    """`name` with the ending its file has in `folder`; `.png`, the original's, where there is none."""
    if name.lower().endswith(EXTENSIONS):
        return name
    return name + next((ending for ending in (".png", *EXTENSIONS) if (folder / (name + ending)).is_file()), ".png")
