"""Which column of a table is which: names given by the user, our own, or spellings that others use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from isthmus.data import answers
from isthmus.data.records import FIELDS, CaptionRule
from isthmus.errors import InputError, UsageError, did_you_mean
from isthmus.modality import others

# By field, the best first; case and surrounding spaces do not count.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "image": (
        *("filepath", "file_path", "image_path", "img_path", "image_file", "file_name", "filename", "image_name"),
        *("img", "images", "picture", "photo", "path", "file", "jpg", "jpeg", "png", "webp", "image_bytes"),
        *("image_base64", "base64", "url", "image_url", "img_url"),
    ),
    "captions": ("sentences", "texts", "comments", "descriptions", "caption_list"),
    "caption": (
        *("title", "text", "txt", "sentence", "comment", "raw", "description", "alt_text", "alt", "top_caption"),
        *("caption_text", "image_caption", "en_caption", "question"),
    ),
    "id": ("uid", "sample_id", "key"),
    "label": ("labels", "class", "class_name", "category", "cls", "class_label", "fine_label"),
    "split": ("subset",),
    "lang": ("language",),
}
QUESTION = "question"  # a column of captions that are questions, beside which answers are read
TABLE_FIELDS = ("image", *FIELDS)
Columns = Mapping[str, str]


def parse_columns(given: str | Columns | None) -> dict[str, str]:
    """`"image=filepath,caption=title"`, or such a mapping, as field → column. Raises `UsageError`."""
    if given is None:
        return {}
    if isinstance(given, str):
        parts = [part.partition("=") for part in given.split(",") if part.strip()]
        if not parts or not all(equals and column.strip() for _, equals, column in parts):
            raise UsageError(f"--columns {given!r}: write FIELD=COLUMN,…, as in image=filepath,caption=title.")
        given = {field.strip(): column.strip() for field, _, column in parts}
    known = table_fields()
    for field in given:
        if field not in known:
            raise UsageError(f"--columns: no field {field!r}.{did_you_mean(field, known)}")
    return {field: str(column) for field, column in given.items()}


def table_fields() -> tuple[str, ...]:
    """What a column can be: ours, items of other packages' modalities, and what says which part of a file they are."""
    beside = others()
    parts = [part for spec in beside.values() for part in (*spec.part, *spec.about)]
    return tuple(dict.fromkeys([*TABLE_FIELDS, *beside, *parts]))


def find_columns(
    where: Any, names: Sequence[str], captions: CaptionRule, given: Columns | None = None
) -> tuple[dict[str, str], list[str]]:
    """(column of each field, remarks) of a table with columns `names`. Items of every registered modality are a field.

    Raises `InputError` for a named column that is missing, a column that is there twice, or a required one that is
    missing.
    """
    given = given or {}
    for field, column in given.items():
        if column not in names:
            raise InputError(f"{where}: no column {column!r} for {field}.{did_you_mean(column, map(str, names))}")
    own = (*TABLE_FIELDS, *others())
    found = dict(given) | {name: name for name in own if name in names and name not in given}
    guessed = _by_spelling(names, found)
    found |= guessed
    if str(found.get("caption", "")).strip().lower() != QUESTION:  # `answers` of another table may be anything
        found = {field: column for field, column in found.items() if field in given or field not in answers.FIELDS}
    beside = {name: spec for name, spec in others().items() if name in found}
    further = {part for spec in beside.values() for part in (*spec.part, *spec.about)}
    found |= {part: part for part in names if part in further and part not in found}
    for field, column in found.items():
        if Counter(names)[column] > 1:
            raise InputError(f"{where}: the column {column!r} ({field}) is there twice. Rename or remove one.")
    _check(where, names, found, list(beside), captions)
    remarks = []
    if guessed:
        read = ", ".join(f"{column!r} as {field}" for field, column in guessed.items())
        remarks.append(f"{where}: reads column {read}; name others with --columns (columns=).")
    unused = [str(name) for name in names if name not in found.values()]
    if unused:
        remarks.append(f"{where}: columns not used: {', '.join(unused)}.")
    return found, remarks


def _by_spelling(names: Sequence[str], found: Mapping[str, str]) -> dict[str, str]:
    """Columns for the remaining fields, found by other usual spellings."""
    by_letters = {str(name).strip().strip("\ufeff").lower(): name for name in reversed(names)}
    taken = set(found.values())
    guessed: dict[str, str] = {}
    beside = {name: spec.columns for name, spec in others().items()}
    spellings = {**beside, **SPELLINGS}
    for field in (*beside, "image", "captions", "caption", "id", "label", "split", "lang", "group"):
        there = {field} & {*found}
        if field.startswith("caption"):
            there = {"caption", "captions"} & {*found, *guessed}
        elif field == "image":
            there |= {*beside} & {*found, *guessed}  # a `path` beside `audio` is hardly that of an image
        for spelling in () if there else (field, *spellings.get(field, ())):
            column = by_letters.get(spelling)
            if column is not None and column not in taken:
                guessed[field] = column
                taken.add(column)
                break
    return guessed


def _check(
    where: Any, names: Sequence[str], found: Mapping[str, str], beside: Sequence[str], captions: CaptionRule
) -> None:
    """Raise `InputError` where a row has nothing that could be a pair; beside: the modalities found, but images."""
    listed = [str(name) for name in names]
    if "image" not in found and not beside:
        raise InputError(
            f"{where}: no column `image`.{did_you_mean('image', listed)} Name it with --columns image=NAME."
        )
    several = len(beside) + ("image" in found) > 1  # pairs without texts
    if captions == "required" and not several and not {"caption", "captions"} & set(found):
        raise InputError(
            f"{where}: no column `caption` or `captions`.{did_you_mean('caption', listed)} Name it with --columns "
            "caption=NAME."
        )
