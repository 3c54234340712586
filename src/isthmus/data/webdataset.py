"""WebDataset tars, as img2dataset and CLIP_benchmark write them, read in place after a pass over headers."""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from isthmus.data.images import EXTENSIONS, MAX_BYTES
from isthmus.data.records import MAX_NAME, Captions, Intake, encodable
from isthmus.data.sources import TarMembers
from isthmus.data.splits import SYNONYMS
from isthmus.data.tar_end import check_end
from isthmus.errors import InputError

MEMBER = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")  # WebDataset's rule: the first dot of a name ends the key
MAX_TEXT = 16 * 1024**2
MAX_HEADER = 1024**2  # of a long name or a pax header, which tarfile reads into memory
BLOCK = 512

Sample = dict[str, tuple[int, int]]  # extension -> (offset, size) in bytes


def read_tars(
    shards: dict[str, Path], captions: Captions, classes: list[str] | None = None
) -> tuple[Intake, TarMembers, list[str]]:
    """Pairs from uncompressed tars, given by shard name. Ids are `shard/key`.

    Captions come from `txt` (one per line), else from `caption` or `captions` in `json`, which may also hold
    `lang` and `group`; the label from `cls` (its name, where `classes` gives names); the split from the
    shard's folder if that is called train, val, test or the like. Links, devices, names that leave the
    archive and members that are too large or cut off go to `skipped`.
    """
    intake, notes = Intake(captions), []
    members: list[tuple[int, int, int]] = []
    for number, (shard, path) in enumerate(shards.items()):
        split = SYNONYMS.get(PurePosixPath(shard).parent.name.lower())
        with open(path, "rb") as file:
            for key, sample in _samples(intake, shard, path, file).items():
                images = [extension for extension in sample if f".{extension}" in EXTENSIONS]
                try:
                    fields = {"split": split} | _fields(file, sample, classes)
                except ValueError as error:
                    intake.skip(f"{shard}/{key}", str(error))
                    continue
                if not images:
                    intake.skip(f"{shard}/{key}", f"no image among its members: {', '.join(sample)}.")
                    continue
                intake.add(f"{path}: {key}", fields, default_id=f"{shard}/{key}", source=len(members))
                members.append((number, *sample[images[0]]))
                notes += [f"{path}: of {key}, {name} is not used." for name in images[1:]]
    return intake, TarMembers(list(shards.values()), members), notes


def find_shards(path: str) -> dict[str, Path]:
    """Tars by name: of one file, of a folder and its subfolders, or of a pattern such as `{000..012}.tar`."""
    here = Path(path)
    if here.is_file():
        return {here.stem: here}
    if here.is_dir():
        found, root = sorted([*here.glob("*.tar"), *here.glob("*/*.tar")]), here
        _check_complete(found)
    else:
        found = [Path(name) for pattern in expand_braces(path) for name in sorted(_existing(pattern))]
        root = Path(os.path.commonpath([name.parent for name in found])) if found else here
    return {tar.relative_to(root).with_suffix("").as_posix(): tar for tar in found}


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


def class_list(folder: Path) -> tuple[list[str] | None, list[str]]:
    """The lines of CLIP_benchmark's `classnames.txt` in `folder` or above it, and remarks on them."""
    for path in (folder / "classnames.txt", folder.parent / "classnames.txt"):
        if path.is_file():
            names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
            repeated = sorted({name for name in names if names.count(name) > 1})
            return names, [f"{path}: {name!r} stands there twice and counts as one class." for name in repeated]
    return None, []


def _existing(pattern: str) -> list[str]:
    names = glob.glob(pattern)
    if not names:
        raise InputError(f"{pattern}: no such file.")
    return names


def _check_complete(tars: list[Path]) -> None:
    """Compare with CLIP_benchmark's `nshards.txt`, so that a download that stopped half-way is noticed."""
    for folder in {tar.parent for tar in tars}:
        counts = folder / "nshards.txt"
        if counts.is_file():
            wanted, there = counts.read_text().strip(), sum(tar.parent == folder for tar in tars)
            if wanted.isdigit() and there < int(wanted):
                raise InputError(f"{counts} promises {wanted} tars, but {there} are there. Fetch the others.")


def _samples(intake: Intake, shard: str, path: Path, file: BinaryIO) -> dict[str, Sample]:
    """The usable members of one tar by key and extension."""
    samples: dict[str, Sample] = {}
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
            raise InputError(f"{path}: {name} stands there twice; which of the two is meant is not known.")
        samples[key][extension] = (member.offset_data, member.size)
    return samples


def _refusal(member: tarfile.TarInfo, name: str, end: int) -> str | None:
    """Why a member must not be read, if so."""
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
    """A tar as tarfile reads it for its headers: none is read into memory that says it is absurdly long."""

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
        raise InputError(f"{path}: not an uncompressed tar ({error}). Use gunzip on a .tar.gz.") from None
    position = -1
    try:
        for member in archive:
            if member.size < 0 or archive.offset <= position:  # a forged size would send tarfile in circles
                raise tarfile.ReadError("a member of negative size")
            position = archive.offset
            yield member
        position = archive.offset
        check_end(file, position)
    except (tarfile.TarError, ValueError, IndexError, OverflowError, EOFError, RecursionError) as error:
        intake.skip(shard, f"{path} is damaged from byte {max(position, 0):,} on ({error}); the rest is lost.")


def _fields(file: BinaryIO, sample: Sample, classes: list[str] | None) -> dict[str, Any]:
    """Captions, language, group and label of one sample. Raises `ValueError` with a reason."""
    fields: dict[str, Any] = {}
    if "json" in sample:
        fields = _json_fields(_text(file, sample, "json"))
    if "txt" in sample:
        written = _text(file, sample, "txt").strip()
        whole = fields.pop("caption", None) == written  # then line breaks in it do not part captions
        fields |= {"captions": [written] if whole else written}
    if "cls" in sample:
        label = _text(file, sample, "cls").strip()
        known = classes is not None and label.isdigit() and int(label) < len(classes)
        fields["label"] = classes[int(label)] if known else label  # type: ignore[index]
    return fields


def _json_fields(written: str) -> dict[str, Any]:
    try:
        record = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its json cannot be read ({error}).") from None
    if not isinstance(record, dict):
        raise ValueError("its json is not an object.")
    fields = {name: record[name] for name in ("lang", "group") if isinstance(record.get(name), str | int)}
    return fields | {name: record[name] for name in ("caption", "captions") if name in record}


def _text(file: BinaryIO, sample: Sample, extension: str) -> str:
    offset, size = sample[extension]
    if size > MAX_TEXT:
        raise ValueError(f"its {extension} has {size:,} bytes, more than the {MAX_TEXT:,} allowed.")
    file.seek(offset)
    try:
        return file.read(size).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"its {extension} is not UTF-8.") from None
