"""What readers of public data sets share: finding an archive, reading its lists, and numbering its classes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from isthmus.data.images import EXTENSIONS
from isthmus.errors import InputError, did_you_mean
from isthmus.files import read_json

SetTask = Literal["zeroshot_classification", "zeroshot_retrieval"]
FEW = 64  # a folder with more entries holds pictures or classes; no archive is searched for in it


@dataclass(frozen=True)
class Listing:
    """One split of a set.

    images: a path each, or uint8 arrays [H, W] or [H, W, 3]. ids: of each image, unique over the set's splits.
    labels: the class of each image, counted from 0; classes: their names by number, which may repeat. For retrieval
    `captions` instead: those of each image. border: pixels to cut from each side of every image.
    """

    images: Sequence[Any]
    ids: Sequence[str]
    labels: Sequence[int] = ()
    classes: Sequence[str] = ()
    captions: Sequence[Sequence[str]] = ()
    border: int = 0


@dataclass(frozen=True)
class PublicSet:
    """A data set as its authors publish it.

    name: in results. archive: the files to download, for messages. folders: usual names of its folder. marks: paths of
    which any one identifies the archive's own folder. splits: those it has, the one that papers report first. read: the
    archive's folder and a split to a `Listing`. size: published images by split. checked: against what the layout and
    the order of classes were checked.
    """

    name: str
    archive: str
    marks: tuple[str, ...]
    read: Callable[[Path, str], Listing]
    size: Mapping[str, int]
    checked: str
    folders: tuple[str, ...] = ()
    task: SetTask = "zeroshot_classification"
    notes: str = ""
    splits: tuple[str, ...] = field(default=("test",))

    def root(self, path: Path) -> Path | None:
        """The archive's own folder: `path` itself, or a folder up to two levels below it."""
        return next((folder for folder in _nearby(path) if any((folder / mark).exists() for mark in self.marks)), None)

    def open(self, path: Path, split: str) -> Listing:
        """Raises `InputError`, naming the file, where the archive is incomplete or has no such split."""
        root = self.root(path)
        if root is None:
            raise InputError(f"{path}: no {' nor '.join(self.marks)}, as {self.archive} has them ({self.name}).")
        if split not in self.splits:
            raise InputError(f"{path}: {self.name} has the splits {', '.join(self.splits)}, but no {split!r}.")
        listing = self.read(root, split)
        if not len(listing.images):
            raise InputError(f"{root}: no picture of the split {split}; is {self.archive} extracted completely?")
        return listing

    def difference(self, split: str, found: int) -> list[str]:
        """A remark if the number of images differs from the published one."""
        published = self.size.get(split, found)
        if found == published:
            return []
        return [f"{found:,} images in the split {split}; {published:,} were published, and papers report on those."]


def _nearby(path: Path, depth: int = 2) -> Iterator[Path]:
    """`path` and the folders below it, the nearer first."""
    level = [path]
    for _ in range(depth + 1):
        yield from level
        level = [child for folder in level for child in _folders(folder)]


def _folders(folder: Path) -> list[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return []
    return [Path(e.path) for e in entries if e.is_dir() and not e.name.startswith(".")] if len(entries) <= FEW else []


def letters(name: str) -> str:
    """A name as it is compared with others: only letters, in lower case, and digits."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def lines(file: Path) -> list[str]:
    """The lines of a list that are not blank. Raises `InputError`."""
    try:
        found = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise InputError(f"{file}: is missing; is the archive extracted whole?") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as a list ({error}).") from None
    if not any(found):
        raise InputError(f"{file}: is empty.")
    return [line for line in found if line]


def columns(file: Path, count: int, *, last_with_blanks: bool = False) -> list[list[str]]:
    """The words of every line, `count` of them. Raises `InputError`, naming the line."""
    rows = []
    for number, line in enumerate(lines(file), start=1):
        row = line.split(maxsplit=count - 1 if last_with_blanks else -1)
        if len(row) != count:
            raise InputError(f"{file}, line {number}: expected {count} words, found {line!r}; another year's list?")
        rows.append(row)
    return rows


def json_of(file: Path) -> Any:
    """A JSON file of an archive."""
    if not file.is_file():
        raise InputError(f"{file}: is missing; is the archive extracted whole?")
    return read_json(file)


def matlab(file: Path, *names: str) -> list[Any]:
    """Variables of a `.mat` file of MATLAB 5 to 7.2, with dimensions of 1 left out. Raises `InputError`."""
    from scipy.io import loadmat

    if not file.is_file():
        raise InputError(f"{file}: is missing; is the archive extracted whole?")
    try:
        found = loadmat(file, squeeze_me=True, variable_names=names)
    except NotImplementedError:
        raise InputError(f"{file}: is MATLAB 7.3 (HDF5), but published as an older version; get it anew.") from None
    except Exception as error:  # scipy's readers raise many kinds of errors on damaged files
        raise InputError(f"{file}: cannot be read as a .mat file ({error}).") from None
    for name in names:
        if name not in found:
            raise InputError(f"{file}: holds no {name}; another year's list?")
    return [found[name] for name in names]


def number(word: str, below: int, place: str) -> int:
    """A class number counted from 1 in a list, counted from 0. Raises `InputError`."""
    if not word.isdecimal() or not 1 <= int(word) <= below:
        raise InputError(f"{place}: {word!r} is no class from 1 to {below}; another year's list?")
    return int(word) - 1


def position(name: str, names: Mapping[str, int], place: str) -> int:
    """The number of a class by its name. Raises `InputError`."""
    if name not in names:
        raise InputError(f"{place}: no class {name!r}; another year's list?{did_you_mean(name, names)}")
    return names[name]


def matched_names(raw: Sequence[str], known: Sequence[str], file: Path) -> list[str]:
    """For each of the archive's own names the one of `known` with the same letters. Raises `InputError`."""
    by_letters = {letters(name): name for name in known}
    for name in raw:
        if letters(name) not in by_letters:
            raise InputError(
                f"{file}: no class {name!r} is known; another year's list?{did_you_mean(name, list(known))}"
            )
    return [by_letters[letters(name)] for name in raw]


def listed(root: Path, names: Iterable[str], labels: Iterable[int], classes: Sequence[str], source: Path) -> Listing:
    """Files below `root`, named by the list `source`. Raises `InputError` for those that are not there."""
    ids, numbers = list(names), list(labels)
    missing = [name for name in ids if not (root / name).is_file()]
    if missing:
        raise InputError(
            f"{root / missing[0]}: is missing, {among(len(missing), len(ids))} pictures that {source} lists; is the "
            "archive extracted whole?"
        )
    return Listing([root / name for name in ids], ids, numbers, classes)


def among(missing: int, total: int) -> str:
    """How many more are missing, for a message that names the first one."""
    return f"one of the {total:,}" if missing == 1 else f"as are {missing - 1:,} more of the {total:,}"


def in_folders(root: Path, folders: Sequence[str], classes: Sequence[str]) -> Listing:
    """The pictures in a folder for each class, in the order of `classes`. Raises `InputError` for an empty one."""
    ids, labels = [], []
    for label, folder in enumerate(folders):
        names = pictures(root / folder)
        if not names:
            raise InputError(f"{root / folder}: no pictures; is the archive extracted whole?")
        ids += [f"{folder}/{name}" for name in names]
        labels += [label] * len(names)
    return Listing([root / id for id in ids], ids, labels, classes)


def pictures(folder: Path) -> list[str]:
    """The names of a folder's pictures, sorted; none where there is no such folder."""
    if not folder.is_dir():
        return []
    found = (entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(EXTENSIONS))
    return sorted(name for name in found if not name.startswith("."))


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is missing; is the archive extracted whole?")
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
