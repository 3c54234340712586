"""The files of an index and `index.json`, which names them: writing it is the commit, whatever it does not name is left
over from a killed run.

Everything else is written once under a new name and never changed: segments (`isthmus.index.segments`), the table of
items and the numbers of rows that were removed. So a reader that has an index open keeps what it opened.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from isthmus.errors import InputError
from isthmus.files import file_digest, read_sealed, tidy, write_sealed, writing
from isthmus.metrics.absence import NullBest
from isthmus.version import __version__

FORMAT = "isthmus-index/1"
INDEX_JSON, SEGMENTS, WORK = "index.json", "segments", "work"
MADE_BY = "made-by.json"  # of the work: which model
_NAME = re.compile(r"items-[0-9a-f]+\.arrow|removed-[0-9a-f]+\.npy|(segments/segment|text)-[0-9a-f]+/[a-z]+\.[a-z]+")
_NEEDED = {"model": dict, "width": int, "segments": list, "items": dict, "sources": list}


@dataclass
class KeptFile:
    """A file of an index by its path in it: its size in bytes and its digest."""

    name: str
    bytes: int
    digest: str

    @classmethod
    def of(cls, root: Path, path: Path) -> KeptFile:
        """A file as it lies there now."""
        return cls(path.relative_to(root).as_posix(), path.stat().st_size, file_digest(path))

    def check(self, root: Path, *, deep: bool = False) -> Path:
        """Its path. Raises `InputError` if it is missing or of another size; deep: or if its digest differs."""
        path = root / self.name
        size = path.stat().st_size if path.is_file() and not path.is_symlink() else None
        if size != self.bytes or (deep and file_digest(path) != self.digest):
            raise InputError(
                f"{path}: missing, damaged or changed since isthmus wrote it. Restore it from a copy, or build the "
                "index again with `isthmus index`."
            )
        return path


@dataclass
class SegmentRecord:
    """A segment: its name, its rows and its files by what they hold.

    candidates: how it is searched, where that is not exactly, and what that finds (`isthmus.index.candidates`).
    """

    name: str
    rows: int
    files: dict[str, KeptFile]
    candidates: dict[str, Any] | None = None

    @classmethod
    def read(cls, told: dict[str, Any]) -> SegmentRecord:
        files = {name: KeptFile(**one) for name, one in told["files"].items()}
        return cls(told["name"], told["rows"], files, told.get("candidates"))


@dataclass
class IndexRecord:
    """What `index.json` says.

    model: path or URI, fingerprint. width: d. sources: what was indexed, by name. null: of texts that nothing fits.
    text: the model's text side as a graph (`isthmus.index.text_graph`), where there is one.
    """

    model: dict[str, str]
    width: int
    segments: list[SegmentRecord] = field(default_factory=list)
    items: KeptFile | None = None
    removed: KeptFile | None = None
    sources: list[str] = field(default_factory=list)
    null: NullBest | None = None
    text: dict[str, KeptFile] | None = None

    @property
    def rows(self) -> int:
        """Of all segments, removed ones too."""
        return sum(segment.rows for segment in self.segments)

    def files(self) -> list[KeptFile]:
        """All that belongs to the index."""
        found = [one for segment in self.segments for one in segment.files.values()]
        found += (self.text or {}).values()
        return found + [one for one in (self.items, self.removed) if one is not None]


def is_index(path: Any) -> bool:
    """Whether `path` is the folder of an index, also of one whose first run is unfinished: opening it says so."""
    return isinstance(path, str | Path) and any(
        (Path(path) / name).is_file() for name in (INDEX_JSON, f"{WORK}/{MADE_BY}")
    )


def read_record(root: Path) -> IndexRecord:
    """`index.json`, its seal, format and fields checked. Raises `InputError`."""
    path = root / INDEX_JSON
    if not path.is_file():
        unfinished = (root / WORK).is_dir()
        remedy = "run the same `isthmus index` again to finish it" if unfinished else "`isthmus index` makes one"
        raise InputError(f"{root}: {'an unfinished index' if unfinished else f'no index (no {INDEX_JSON})'}; {remedy}.")
    told = read_sealed(path)
    found = told.get("format") if isinstance(told, dict) else None
    if found != FORMAT:
        raise InputError(f"{path}: format {found!r}, this version of isthmus reads {FORMAT!r}.")
    wrong = [name for name, kind in _NEEDED.items() if not isinstance(told.get(name), kind)]
    if wrong:
        raise InputError(f"{path}: {', '.join(wrong)} missing or malformed; the file was changed by hand.")
    try:
        record = IndexRecord(
            told["model"],
            told["width"],
            [SegmentRecord.read(one) for one in told["segments"]],
            KeptFile(**told["items"]),
            KeptFile(**told["removed"]) if told.get("removed") else None,
            told["sources"],
            NullBest(**told["null"]) if told.get("null") else None,
            {what: KeptFile(**one) for what, one in told["text"].items()} if told.get("text") else None,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: malformed ({error!r}); the file was changed by hand.") from None
    for file in record.files():
        if not isinstance(file.name, str) or not _NAME.fullmatch(file.name):
            raise InputError(f"{path}: names {file.name!r}, which is no file of an index.")
    return record


def commit_record(root: Path, record: IndexRecord) -> None:
    """Write `index.json`, and remove what neither it nor an unfinished run needs."""
    write_sealed(root / INDEX_JSON, {"format": FORMAT, "isthmus": __version__, **asdict(record)})
    sweep(root, record)


def sweep(root: Path, record: IndexRecord | None) -> None:
    """Remove the leftovers of killed runs: files and segments that `index.json` does not name, but for the work."""
    tidy(root, "**/")
    kept = {one.name for one in record.files()} if record else set()
    named = {Path(one.name).parent.name for one in record.files()} if record else set()
    with writing(root):
        for path in [*root.glob("items-*.arrow"), *root.glob("removed-*.npy")]:
            if path.name not in kept:
                path.unlink(missing_ok=True)
        for path in [*(root / SEGMENTS).glob("segment-*"), *root.glob(f"text-{'[0-9a-f]' * 16}")]:
            if path.name not in named:
                shutil.rmtree(path)
