"""Checks rows one by one and builds the two tables of `Pairs`: images and captions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from isthmus.data import answers
from isthmus.data.cells import MAX_EXACT, as_captions, is_nan, plain
from isthmus.data.splits import normalise_split
from isthmus.errors import InputError
from isthmus.modality import Modality, others, table_of

CaptionRule = Literal["required", "optional"]

MAX_NAME = 4_096  # characters of an id, label, group, language or split
MAX_CAPTION = 100_000
MAX_CAPTIONS = 10_000  # of one image
FIELDS = ("id", "caption", "captions", "lang", "split", "label", "group", *answers.FIELDS)
IMAGES = pa.schema([(name, pa.string()) for name in ("id", "group", "split", "label")] + [("source", pa.int64())])
CAPTIONS = pa.schema([(name, pa.string()) for name in ("caption_id", "id", "caption", "lang")])
ANSWERS = "answers"  # a further column of the captions, where any is a question with answers (`isthmus.data.answers`)
BESIDE = pa.schema([("sample", pa.string()), *IMAGES, ("part", pa.string())])


class Placed(NamedTuple):
    """An item of a further modality in a row: its number in that modality's source, and which part of the file it is.

    known: identifies the item among rows of the sample (its path); None if unknown.
    """

    source: int
    part: str | None = None
    known: str | None = None


class Intake:
    """Collects images and their captions, joins rows of one image, and lists what it left out and why.

    Of pairs without images, items of another modality stand in their place (`modality`). Items of further ones are
    collected beside them.
    """

    def __init__(self, captions: CaptionRule = "required") -> None:
        self.captions = captions
        self.modality: Modality | None = None  # as the first table says it
        self.skipped: list[tuple[str, str]] = []
        self.joined = 0  # rows that gave captions to an image that was there already
        self._images: dict[str, list[Any]] = {name: [] for name in IMAGES.names}
        self._captions: dict[str, list[Any]] = {name: [] for name in CAPTIONS.names}
        self._seen: dict[str, tuple[str, int | None, int, str | None]] = {}  # place, row, captions written, image
        self._awaiting: dict[str, int] = {}  # images without a usable caption so far: their place in `skipped` says so
        self._parts: dict[str, str] = {}
        self._answers: dict[str, str] = {}  # by caption
        self._told: dict[str, dict[str, str]] = {}  # by column, what more is said of an item
        self._beside: dict[Modality, dict[str, list[Any]]] = {}
        self._placed: dict[tuple[Modality, str], list[str | None]] = {}  # what is known of the items of each sample

    def holds(self, modality: Modality, where: Any) -> None:
        """Note what the rows of a table are of; `InputError` where those of another one were of something else."""
        if self.modality not in (None, modality):
            raise InputError(
                f"{where}: its rows are of {table_of(modality)}, those before of {table_of(str(self.modality))}. "
                "Read them as two sets of pairs."
            )
        self.modality = modality

    def add(
        self,
        place: str,
        fields: Mapping[str, Any],
        *,
        default_id: str,
        source: int,
        image: str | None = None,
        part: str | None = None,
        beside: Mapping[Modality, Placed] | None = None,
    ) -> bool:
        """Add an image, or more captions of one; returns whether `source` belongs to a new image.

        `place` names it in errors ("pairs.csv, line 3"); `source` is its number in the source; `image` identifies
        the image among rows of one id (its path), None if unknown; `part` which part of its file it is. beside: the
        row's items of other modalities, with which it needs no caption.
        Raises `InputError` where the table is wrong as a whole (an id of two images, an unknown split, an id that
        is not text); a row that is merely unusable goes to `skipped`.
        """
        id = text(fields.get("id", default_id), place, "id")
        if id is None:
            raise InputError(f"{place}: the id is empty. Fill it in, or leave the column out.")
        if not encodable(id):
            self.skip(ascii(id), f"{place}: its id is not valid Unicode.")
            return False
        first, row, written, known = self._seen.get(id, (place, None, 0, image))
        if id in self._seen and (image is None or known != image):
            raise InputError(
                f"{place}: the id {id!r} is in {first} already. Ids must differ: put all "
                "captions of an image into one row, as a list `captions`, or give an `id` column."
            )
        again = id in self._seen
        self.joined += again
        captions, dropped = usable_captions(fields, written)
        count = written + len(captions) + len(dropped)
        if self.captions == "required" and not beside:
            self._say_dropped(id, captions, dropped, again, row)
        if self.captions == "optional" or captions or beside:
            if row is None:
                row = self._add_image(place, id, fields, source)
                self._add_told(place, id, fields)
            else:
                self._check_same(place, row, fields, first)
            self._add_captions(place, id, captions, fields.get("lang"), written)
            self._add_answers(place, id, captions, fields)
            self._add_beside(id, beside or {})
            if part is not None:
                self._parts[id] = part
        self._seen[id] = (first, row, count, image)
        return row is not None and self._images["source"][row] == source

    def _say_dropped(self, id: str, captions: Any, dropped: list[tuple[int, str]], again: bool, row: Any) -> None:
        """List the captions of a row that are left out; an image without any once, until another row has one."""
        if row is None and not captions:
            if not again:
                self._awaiting[id] = len(self.skipped)
                self.skip(id, "no caption." if not dropped else f"no caption: {dropped[0][1]}")
            return
        if id in self._awaiting:
            self.skipped[self._awaiting.pop(id)] = (self._seen[id][0], f"no caption for {id} in this row.")
        for k, reason in dropped:
            self.skip(f"{id}#{k}", reason)

    def skip(self, id: str, reason: str) -> None:
        """Leave an image (or a caption, by its caption id) out, and say why."""
        self.skipped.append((id, reason))

    def images_named(self) -> set[str]:
        """The paths of all images, as they were given."""
        return {image for _, _, _, image in self._seen.values() if image is not None}

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """The images and the captions collected so far."""
        images = pa.table(self._images, schema=IMAGES)
        if self._parts:
            images = images.append_column("part", pa.array(map(self._parts.get, self._images["id"]), pa.string()))
        for name, cells in self._told.items():
            images = images.append_column(name, pa.array(map(cells.get, self._images["id"]), pa.string()))
        captions = pa.table(self._captions, schema=CAPTIONS)
        if self._answers:
            answers = pa.array(map(self._answers.get, self._captions["caption_id"]), pa.string())
            captions = captions.append_column(ANSWERS, answers)
        return images, captions

    def beside(self) -> dict[Modality, pa.Table]:
        """The items of further modalities: as images, with id `sample#k`, k counting those of a sample, and `part`.

        Group, split and label are those of the sample.
        """
        row = {id: k for k, id in enumerate(self._images["id"])}
        for columns in self._beside.values():
            rows = [row[sample] for sample in columns["sample"]]
            columns |= {name: [self._images[name][k] for k in rows] for name in ("group", "split", "label")}
        return {modality: pa.table(columns, schema=BESIDE) for modality, columns in self._beside.items()}

    def _add_beside(self, id: str, placed: Mapping[Modality, Placed]) -> None:
        for modality, item in placed.items():
            known = self._placed.setdefault((modality, id), [])
            if item.known is not None and item.known in known:
                continue
            columns = self._beside.setdefault(modality, {name: [] for name in BESIDE.names})
            cells = {"sample": id, "id": f"{id}#{len(known)}", "source": item.source, "part": item.part}
            for name, cell in cells.items():
                columns[name].append(cell)
            known.append(item.known)

    def _add_image(self, place: str, id: str, fields: Mapping[str, Any], source: int) -> int:
        for name, value in zip(IMAGES.names, (id, *self._about(place, fields), source), strict=True):
            self._images[name].append(value)
        return len(self._images["id"]) - 1

    def _add_told(self, place: str, id: str, fields: Mapping[str, Any]) -> None:
        spec = others().get(self.modality or "")
        for name in () if spec is None else spec.about:
            if (value := text(fields.get(name), place, name)) is not None:
                self._told.setdefault(name, {})[id] = value

    def _about(self, place: str, fields: Mapping[str, Any]) -> tuple[str | None, str | None, str | None]:
        """Group, split and label of a row."""
        split = text(fields.get("split"), place, "split")
        try:
            split = split and normalise_split(split)
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        group, label = (text(fields.get(name), place, name) for name in ("group", "label"))
        return group, split, label

    def _check_same(self, place: str, row: int, fields: Mapping[str, Any], first: str) -> None:
        """Rows of one image must agree on its fields; a later row may fill in what is missing."""
        for name, value in zip(("group", "split", "label"), self._about(place, fields), strict=True):
            before = self._images[name][row]
            if before is None:
                self._images[name][row] = value
            elif value is not None and value != before:
                raise InputError(f"{place}: {name} is {value!r}, but {first}, of the same image, has {before!r}.")

    def _add_captions(self, place: str, id: str, captions: list[tuple[int, str]], lang: Any, written: int) -> None:
        lang = plain(lang)
        for k, caption in captions:
            if isinstance(lang, list | tuple) and k - written >= len(lang):
                raise InputError(f"{place}: {len(lang)} languages for {k - written + 1} captions or more.")
            value = text(lang[k - written] if isinstance(lang, list | tuple) else lang, place, "lang")
            for name, cell in zip(CAPTIONS.names, (f"{id}#{k}", id, caption, value), strict=True):
                self._captions[name].append(cell)

    def _add_answers(self, place: str, id: str, captions: list[tuple[int, str]], fields: Mapping[str, Any]) -> None:
        if (found := answers.read_answers(fields, place)) is None:
            return
        if len(captions) > 1:
            raise InputError(f"{place}: answers to {len(captions)} questions at once. Give each question its own row.")
        self._answers.update({f"{id}#{k}": found for k, _ in captions})


def usable_captions(fields: Mapping[str, Any], first: int = 0) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """((k, caption), …) and ((k, why it cannot be used), …), k counting the captions as they are written.

    `captions` is a list, or one text with a caption per line; `caption` is one text, or a list. Only the white space
    around a caption is removed. first: the k of the first.
    """
    written: Any = plain(fields.get("captions"))
    if written is None:
        written = as_captions(fields.get("caption"))
    elif isinstance(written, str | bytes):
        lines = written.count("\n" if isinstance(written, str) else b"\n")  # type: ignore[arg-type]
        if lines > MAX_CAPTIONS:
            return [], [(first, f"{lines:,} lines, more than the {MAX_CAPTIONS:,} captions of an image.")]
        listed = as_captions(written)
        one = listed[0] if len(listed) == 1 else None
        written = [line for line in one.split("\n") if line.strip()] if isinstance(one, str) else listed
    else:
        written = as_captions(written)
    if len(written) > MAX_CAPTIONS:
        return [], [(first, f"{len(written):,} captions, more than the {MAX_CAPTIONS:,} of an image.")]
    usable, dropped = [], []
    for k, caption in enumerate(written, first):
        reason = _unusable(caption)
        if reason is None:
            usable.append((k, caption.strip()))
        else:
            dropped.append((k, reason))
    return usable, dropped


def _unusable(caption: Any) -> str | None:
    if caption is None:
        return "the caption is missing."
    if isinstance(caption, bytes):
        return "the caption is bytes that are not UTF-8."
    if not isinstance(caption, str):
        return f"the caption is {type(caption).__name__}, not text."
    if not caption.strip():
        return "the caption is blank."
    if len(caption) > MAX_CAPTION:
        return f"the caption has {len(caption):,} characters, more than the {MAX_CAPTION:,} allowed."
    return None if encodable(caption) else "the caption is not valid Unicode."


def text(value: Any, place: str, name: str) -> str | None:
    """A short text field: text as it is, a whole number in digits, nothing (None, NaN, "") as None.

    A whole number may come as a float, as pandas makes of integers where one is missing; a boolean is no id.
    """
    value = plain(value)
    if value is None or (isinstance(value, str) and value == "") or is_nan(value):
        return None
    if isinstance(value, bytes):
        value = _decoded(value, place, name)
    if isinstance(value, list | tuple) and len(value) == 1:
        return text(value[0], place, name)
    if isinstance(value, float) and value.is_integer() and abs(value) < MAX_EXACT:
        return str(int(value))
    if isinstance(value, bool) and name != "id":
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise InputError(f"{place}: {name} is {value!r}, a {type(value).__name__}. Store it as text or an integer.")
    if len(value) > MAX_NAME:
        raise InputError(
            f"{place}: {name} has {len(value):,} characters, more than the {MAX_NAME:,} allowed: {value[:40]!r}…"
        )
    if name != "id" and not encodable(value):  # a row with such an id is left out
        raise InputError(f"{place}: {name} is {value!r}, which is not valid Unicode.")
    return value


def _decoded(value: bytes, place: str, name: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{place}: {name} is bytes that are not UTF-8: {value[:40]!r}.") from None


def encodable(value: str) -> bool:
    """Whether `value` can be written as UTF-8 (a file name or JSON may hold half a character)."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
