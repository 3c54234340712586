"""Intake of any table, checked one by one, become the two tables of `Pairs`: images and captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pyarrow as pa

from isthmus.data.splits import normalise_split
from isthmus.errors import InputError

Captions = Literal["required", "optional"]

MAX_NAME = 4_096  # characters of an id, label, group, language or split
MAX_CAPTION = 100_000
MAX_CAPTIONS = 10_000  # of one image
FIELDS = ("id", "caption", "captions", "lang", "split", "label", "group")
IMAGES = pa.schema([(name, pa.string()) for name in ("id", "group", "split", "label")] + [("source", pa.int64())])
CAPTIONS = pa.schema([(name, pa.string()) for name in ("caption_id", "id", "caption", "lang")])


class Intake:
    """Collects images and their captions, refuses repeated ids, and says what it left out and why."""

    def __init__(self, captions: Captions = "required") -> None:
        self.captions = captions
        self.skipped: list[tuple[str, str]] = []
        self._images: dict[str, list[Any]] = {name: [] for name in IMAGES.names}
        self._captions: dict[str, list[Any]] = {name: [] for name in CAPTIONS.names}
        self._seen: dict[str, str] = {}

    def add(self, place: str, fields: Mapping[str, Any], *, default_id: str, source: int) -> None:
        """One image. `place` names it in errors ("pairs.csv, line 3"); `source` is its number in the source.

        Raises `InputError` where the table is wrong as a whole (a repeated id, an unknown split, an id that
        is not text); a row that is merely unusable goes to `skipped`.
        """
        id = text(fields.get("id", default_id), place, "id")
        if id is None:
            raise InputError(f"{place}: the id is empty. Fill it in, or leave the column out.")
        if id in self._seen:
            raise InputError(
                f"{place}: the id {id!r} stands in {self._seen[id]} already. Ids must differ: put all "
                "captions of an image into one row, as a list `captions`, or give an `id` column."
            )
        self._seen[id] = place
        captions, dropped = usable_captions(fields)
        if self.captions == "required" and not captions:
            return self.skip(id, "no caption." if not dropped else f"no caption: {dropped[0][1]}")
        if self.captions == "required":
            for k, reason in dropped:
                self.skip(f"{id}#{k}", reason)
        self._add_image(place, id, fields, source)
        self._add_captions(place, id, captions, fields.get("lang"))

    def skip(self, id: str, reason: str) -> None:
        """Leave an image (or a caption, by its caption id) out, and say why."""
        self.skipped.append((id, reason))

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """The images and the captions collected so far."""
        return pa.table(self._images, schema=IMAGES), pa.table(self._captions, schema=CAPTIONS)

    def _add_image(self, place: str, id: str, fields: Mapping[str, Any], source: int) -> None:
        split = text(fields.get("split"), place, "split")
        try:
            split = split and normalise_split(split)
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        group, label = (text(fields.get(name), place, name) for name in ("group", "label"))
        for name, value in zip(IMAGES.names, (id, group, split, label, source), strict=True):
            self._images[name].append(value)

    def _add_captions(self, place: str, id: str, captions: list[tuple[int, str]], lang: Any) -> None:
        for k, caption in captions:
            if isinstance(lang, list) and k >= len(lang):
                raise InputError(f"{place}: {len(lang)} languages for {k + 1} captions or more.")
            value = text(lang[k] if isinstance(lang, list) else lang, place, "lang")
            for name, cell in zip(CAPTIONS.names, (f"{id}#{k}", id, caption, value), strict=True):
                self._captions[name].append(cell)


def usable_captions(fields: Mapping[str, Any]) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """((k, caption), …) and ((k, why it cannot be used), …), k counting the captions as they are written.

    `captions` is a list, or one text with a caption per line; `caption` is one text. Only the white space
    around a caption is removed.
    """
    written: Any = fields.get("captions")
    if written is None:
        written = [] if fields.get("caption") is None else [fields["caption"]]
    elif isinstance(written, str) and written.count("\n") > MAX_CAPTIONS:
        return [], [(0, f"{written.count(chr(10)):,} lines, more than the {MAX_CAPTIONS:,} captions of an image.")]
    elif isinstance(written, str):
        written = [line for line in written.split("\n") if line.strip()]
    elif not isinstance(written, list):
        written = [written]
    if len(written) > MAX_CAPTIONS:
        return [], [(0, f"{len(written):,} captions, more than the {MAX_CAPTIONS:,} of an image.")]
    usable, dropped = [], []
    for k, caption in enumerate(written):
        if caption is None:
            dropped.append((k, "the caption is missing."))
        elif not isinstance(caption, str):
            dropped.append((k, f"the caption is {type(caption).__name__}, not text."))
        elif not caption.strip():
            dropped.append((k, "the caption is blank."))
        elif len(caption) > MAX_CAPTION:
            dropped.append((k, f"the caption has {len(caption):,} characters, more than the {MAX_CAPTION:,} allowed."))
        elif not encodable(caption):
            dropped.append((k, "the caption is not valid Unicode."))
        else:
            usable.append((k, caption.strip()))
    return usable, dropped


def text(value: Any, place: str, name: str) -> str | None:
    """A short text field: text as it is, an integer in digits, nothing (None, NaN, "") as None."""
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, str):
        if len(value) > MAX_NAME:
            raise InputError(
                f"{place}: {name} has {len(value):,} characters, more than the {MAX_NAME:,} allowed: {value[:40]!r}…"
            )
        if not encodable(value):
            raise InputError(f"{place}: {name} is {value!r}, which is not valid Unicode.")
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise InputError(f"{place}: {name} is {value!r}, a {type(value).__name__}. Store it as text or an integer.")


def encodable(value: str) -> bool:
    """Whether `value` can be written as UTF-8 (a file name or JSON may hold half a character)."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
