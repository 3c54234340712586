"""WebDataset tars, as img2dataset and CLIP_benchmark write them, read in place after a pass over headers."""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from isthmus.data.columns import SPELLINGS
from isthmus.data.feature_pairs import SIDES
from isthmus.data.gathering import Gathered
from isthmus.data.images import EXTENSIONS, MAX_BYTES
from isthmus.data.records import MAX_NAME, Intake, Placed, encodable
from isthmus.data.sources import TarMembers
from isthmus.data.splits import SYNONYMS
from isthmus.data.tar_end import check_end
from isthmus.data.text import decode_text, parse_json, read_entries, read_lines
from isthmus.errors import BadFile, InputError
from isthmus.modality import Modality, others
from isthmus.owned import regular

MEMBER = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")  # WebDataset's rule: the first dot of a name ends the key
MAX_TEXT = 16 * 1024**2
MAX_HEADER = 1024**2  # of a long name or a pax header, which tarfile reads into memory
BLOCK = 512
TEXTS = ("txt", "caption", "text")  # endings of captions, the first that is there
SHOWN = 5  # remarks of one kind

TarSample = dict[str, tuple[int, int]]  # extension -> (offset, size) in bytes


def read_tars(shards: dict[str, Path], into: Gathered, classes: list[str] | None = None) -> None:
    """Pairs from uncompressed tars, given by shard name. Ids are `shard/key`.

    Captions come from `txt`, `caption` or `text` (one per line), otherwise from `caption` or `captions` in `json`,
    which may also hold `lang` and `group`; the label from `cls` (its name, where `classes` gives names); the split from
    the shard's folder if that is called train, val, test or the like. Links, devices, names that leave the archive,
    members that are there twice, too large or cut off go to `skipped`, and so do files that are not tars.
    """
    items = _TarItems(into)
    notes: list[str] = []
    for number, (shard, path) in enumerate(shards.items()):
        split = SYNONYMS.get(PurePosixPath(shard).parent.name.lower()) or into.reading.split
        try:
            with open(regular(path), "rb") as file:
                known = len(into.intake.skipped)
                samples = _samples(into.intake, shard, path, file)
                if not samples and len(into.intake.skipped) == known:
                    notes.append(f"{path}: holds no samples.")
                for key, sample in samples.items():
                    found = _add(items, f"{shard}/{key}", f"{path}: {key}", file, sample, split, classes, number)
                    extra = [name for name in sample if f".{name}" in EXTENSIONS][1:]
                    notes += [f"{path}: of {key}, {name} is not used." for name in extra if found]
        except (OSError, BadFile) as error:
            into.intake.skip(shard, f"{path} cannot be read ({error}).")
    into.notes += notes[:SHOWN]
    if len(notes) > SHOWN:
        into.notes.append(f"… and {len(notes) - SHOWN:,} remarks more of this kind.")
    items.finish(list(shards.values()))


class _TarItems:
    """The members that are items, by modality, as they are found; images first, or whatever the first sample has."""

    def __init__(self, into: Gathered) -> None:
        self.into = into
        self.endings = {SIDES[0]: EXTENSIONS, **{name: spec.endings for name, spec in others().items()}}
        self.first = {name: into.first_beside(name) for name in self.endings}
        self.members: dict[Modality, list[tuple[int, int, int]]] = {name: [] for name in self.endings}

    def of(self, sample: TarSample) -> dict[Modality, tuple[int, int]]:
        """Where the item of each modality is in a sample (offset, size), the first one of several."""
        found: dict[Modality, tuple[int, int]] = {}
        for name, endings in self.endings.items():
            extension = next((one for one in sample if f".{_last(one)}" in endings), None)
            if extension is not None:
                found[name] = sample[extension]
        return found

    def place(self, modality: Modality, number: int, where: tuple[int, int]) -> Placed:
        """Note an item of a further modality, in shard `number`."""
        self.members[modality].append((number, *where))
        return Placed(self.first[modality] + len(self.members[modality]) - 1)

    def finish(self, shards: list[Path]) -> None:
        first = self.into.intake.modality or SIDES[0]
        self.into.sources.append(TarMembers(shards, self.members.pop(first)))
        for name, members in self.members.items():
            if members:
                self.into.beside.setdefault(name, []).append(TarMembers(shards, members))


def _add(
    items: _TarItems, id: str, place: str, file: BinaryIO, sample: TarSample, split: Any, classes: Any, number: int
) -> bool:
    """Add one sample of shard `number` to the intake; whether it is used."""
    intake, found = items.into.intake, items.of(sample)
    try:
        fields = {"split": split} | _fields(file, sample, classes)
    except ValueError as error:
        intake.skip(id, str(error))
        return False
    first = intake.modality or next(iter(found), SIDES[0])
    if first not in found:
        intake.skip(id, f"no {first} among its members: {', '.join(sample)}.")
        return False
    intake.holds(first, place)
    placed = {name: items.place(name, number, where) for name, where in found.items() if name != first}
    source = items.into.first + len(items.members[first])
    used = intake.add(place, fields, default_id=id, source=source, beside=placed)
    if used:
        items.members[first].append((number, *found[first]))
    return used


def shards_of(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The tars in a folder by shard name: the path in the folder, without the ending."""
    found = [folder / name for name in names]
    _check_complete(found)
    return {tar.relative_to(folder).with_suffix("").as_posix(): tar for tar in found}


def find_files(pattern: str) -> tuple[list[Path], Path]:
    """The files that a pattern with `*`, `?`, `[ab]` and `{a,b}` or `{0..9}` means, and the folder they share.

    A name that exists as written is taken literally: folders may have brackets in their names. Raises `InputError`
    where there are none.
    """
    base, parts = Path(PurePosixPath(pattern).anchor), list(PurePosixPath(pattern).parts)
    parts = parts[1:] if base.parts else parts
    while parts and (base / parts[0]).exists():
        base /= parts.pop(0)
    found = []
    for expanded in expand_braces("/".join(parts)):
        literal = base / expanded
        names = [str(literal)] if literal.exists() else sorted(glob.glob(f"{glob.escape(str(base))}/{expanded}"))
        if not names:
            raise InputError(f"{literal}: no such file.")
        found += [Path(name) for name in names]
    return found, Path(os.path.commonpath([name.parent for name in found]))


def expand_braces(pattern: str) -> list[str]:
    """`"{08..10}.tar"` → `["08.tar", "09.tar", "10.tar"]`; `"{train,val}"` → both. Braces may be repeated."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if bounds:
        width = len(bounds[1])
        choices = [f"{number:0{width}d}" for number in range(int(bounds[1]), int(bounds[2]) + 1)]
    else:
        choices = match[1].split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [expanded for choice in choices for expanded in expand_braces(before + choice + after)]


def class_list(folder: Path, into: Gathered) -> list[str] | None:
    """The lines of CLIP_benchmark's `classnames.txt` in `folder` or above it."""
    for path in (folder / "classnames.txt", folder.parent / "classnames.txt"):
        if path.is_file():
            names = read_lines(path)
            repeated = sorted({name for name in names if names.count(name) > 1})
            into.notes += [f"{path}: {name!r} is there twice and counts as one class." for name in repeated]
            return names
    return None


def _check_complete(tars: list[Path]) -> None:
    """Compare with CLIP_benchmark's `nshards.txt`, so that a download that stopped half-way is noticed."""
    for folder in {tar.parent for tar in tars}:
        counts = folder / "nshards.txt"
        if counts.is_file():
            wanted, there = "".join(read_entries(counts)[:1]), sum(tar.parent == folder for tar in tars)
            if wanted.isdigit() and there < int(wanted):
                raise InputError(f"{counts} promises {wanted} tars, but {there} are there. Fetch the others.")


def _samples(intake: Intake, shard: str, path: Path, file: BinaryIO) -> dict[str, TarSample]:
    """The usable members of one tar by key and extension."""
    samples: dict[str, TarSample] = {}
    twice: dict[str, str] = {}
    for member in _members(intake, shard, path, file):
        name = re.sub(r"^(\./)+", "", member.name)
        if len(name) > MAX_NAME:
            intake.skip(f"{shard}/{name[:40]!r}…", f"its name has {len(name):,} characters, more than {MAX_NAME:,}.")
            continue
        match = MEMBER.fullmatch(name)
        if match is None or member.isdir():
            continue
        reason = _refusal(member, name, os.fstat(file.fileno()).st_size)
        if reason:
            intake.skip(f"{shard}/{match[1]}" if encodable(name) else f"{shard}/{name!r}", reason)
            continue
        key, extension = match[1], match[2].lower()
        if extension in samples.setdefault(key, {}):
            twice[key] = f"{name} is in {path} twice, and it is unknown which is right."
        samples[key][extension] = (member.offset_data, member.size)
    for key, reason in twice.items():
        intake.skip(f"{shard}/{key}", reason)
        del samples[key]
    return {key: sample for keys in map(_parted, samples.items()) for key, sample in keys}


def _parted(keyed: tuple[str, TarSample]) -> list[tuple[str, TarSample]]:
    """Split a sample of one WebDataset key whose names have more dots (`a.1.jpg`, `a.2.jpg`) into several."""
    key, sample = keyed
    images = [extension for extension in sample if f".{_last(extension)}" in EXTENSIONS]
    if len(images) < 2 or any("." not in extension for extension in images):
        return [keyed]
    parts: dict[str, TarSample] = {}
    for extension, where in sample.items():
        middle, _, last = extension.rpartition(".")
        parts.setdefault(f"{key}.{middle}" if middle else key, {})[last] = where
    return list(parts.items())


def _last(extension: str) -> str:
    return extension.rpartition(".")[2]


def _refusal(member: tarfile.TarInfo, name: str, end: int) -> str | None:
    """Why a member must not be read; None if it may."""
    parts = name.split("/")
    if not encodable(name):
        return "its name is not valid UTF-8."
    if name.startswith("/") or ".." in parts:
        return f"its name leaves the archive: {name}"
    if not member.isreg() or member.issparse():
        return f"{name} is not a plain file but a link, a device or sparse."
    if member.size > MAX_BYTES:
        return f"{name} has {member.size:,} bytes, more than the {MAX_BYTES:,} allowed."
    if member.offset_data + member.size > end:
        return f"{name} is cut off: the tar ends before it does."
    return None


class _Headers:
    """A tar for tarfile to read headers from; absurdly long headers are not read into memory."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self.file.read(size)


def _members(intake: Intake, shard: str, path: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Headers in order. A tar damaged on the way gives what comes before, and a line in `skipped`."""
    try:
        headers: Any = _Headers(file)
        archive = tarfile.open(fileobj=headers, mode="r:", encoding="utf-8")  # noqa: SIM115 (it owns nothing)
    except (tarfile.TarError, ValueError, EOFError) as error:
        intake.skip(shard, f"{path}: not an uncompressed tar ({error}). Use gunzip on a .tar.gz.")
        return
    position = -1
    try:
        for member in archive:
            if member.size < 0 or archive.offset <= position:  # a forged size would make tarfile loop
                raise tarfile.ReadError("a member of negative size")
            position = archive.offset
            yield member
        position = archive.offset
        check_end(file, position)
    except (tarfile.TarError, ValueError, IndexError, OverflowError, EOFError, RecursionError) as error:
        intake.skip(shard, f"{path} is damaged from byte {max(position, 0):,} on ({error}); the rest is lost.")


def _fields(file: BinaryIO, sample: TarSample, classes: list[str] | None) -> dict[str, Any]:
    """Captions, language, group and label of one sample. Raises `ValueError` with a reason."""
    fields: dict[str, Any] = {}
    by_last = {_last(extension): extension for extension in reversed(sample)}
    if "json" in by_last:
        fields = _json(_text(file, sample, by_last["json"]))
    written = next((by_last[name] for name in TEXTS if name in by_last), None)
    if written is not None:
        said = _text(file, sample, written).strip()
        whole = fields.pop("caption", None) == said  # then line breaks in it do not separate captions
        fields |= {"captions": [said] if whole else said}
    if "cls" in by_last:
        label = _text(file, sample, by_last["cls"]).strip()
        known = classes is not None and label.isdigit() and int(label) < len(classes)
        fields["label"] = classes[int(label)] if known else None if label == "-1" else label  # type: ignore[index]
    return fields


def _json(written: str) -> dict[str, Any]:
    try:
        record = parse_json(written)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its json cannot be read ({error}).") from None
    return json_fields(record)


def json_fields(record: Any) -> dict[str, Any]:
    """Captions, language and group in a sample's JSON: an object, or the captions alone. Raises `ValueError`."""
    if isinstance(record, str | list):
        return {"captions": [record] if isinstance(record, str) else record}
    if not isinstance(record, dict):
        raise ValueError("its json is not an object.")
    fields = {name: record[name] for name in ("lang", "group") if isinstance(record.get(name), str | int)}
    found = {name: record[name] for name in ("caption", "captions") if record.get(name) is not None}
    spelled = next((name for name in SPELLINGS["caption"] if isinstance(record.get(name), str)), None)
    return fields | (found or ({"caption": record[spelled]} if spelled else {}))


def _text(file: BinaryIO, sample: TarSample, extension: str) -> str:
    offset, size = sample[extension]
    if size > MAX_TEXT:
        raise ValueError(f"its {extension} has {size:,} bytes, more than the {MAX_TEXT:,} allowed.")
    file.seek(offset)
    return decode_text(file.read(size), f"its {extension}")
