"""CSV and similar: a header line, then rows; columns separated by commas, tabs, semicolons or bars."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from isthmus.data.cells import is_inline
from isthmus.data.columns import SPELLINGS, TABLE_FIELDS, Columns
from isthmus.data.gathering import Gathered, GatheredRow
from isthmus.data.text import MAX_LINE, bare_name, iter_lines
from isthmus.errors import BadFile, InputError

MARKS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
KNOWN = {*TABLE_FIELDS, *(one for several in SPELLINGS.values() for one in several)}
FLICKR = re.compile(r"\s*(\S+)\s*\|\s*(\d)\s+(.*)", re.DOTALL)  # one line of Flickr30k's results.csv lacks a bar

csv.field_size_limit(MAX_LINE)  # a cell may be a picture in base64


def read_delimited(path: Path, into: Gathered) -> None:
    """A table with a header line; without one where it holds pictures in base64, or columns are given by number.

    The separator is recognised from the header. Every cell is text: an id `007` stays `007`; a line break inside quotes
    belongs to its cell.
    """
    reading = into.reading
    table = Delimited(path, reading.columns)
    if not table.names:
        raise InputError(f"{path}: the table is empty.")
    columns, remarks = into.find_columns(path, table.names, reading.columns or table.columns)
    into.notes += [*table.notes, *remarks]
    before = into.first
    records = ((number, into.fields(record, columns)) for number, record in table.records())
    into.rows(f"{path}: line", records, into.places(path))
    into.intake.skipped += table.skipped
    if into.first == before and not into.intake.skipped:
        raise InputError(f"{path}: the table is empty.")


class Delimited:
    """The header of a table, then its rows.

    names: of the columns; "1", "2", … where the table has no header line. columns: the column of each field, as far as
    known.
    """

    def __init__(self, path: Path, given: Columns | None = None) -> None:
        self.path, self.notes, self.columns = path, [], {}  # type: ignore[var-annotated]
        self.skipped: list[tuple[str, str]] = []
        self.lines = iter_lines(path)
        before, first = next(((n, line) for n, line in enumerate(self.lines) if line.strip()), (0, ""))
        usual = "\t" if bare_name(path).endswith((".tsv", ".tab")) else ","
        stated = re.fullmatch(r"sep=(.)\s*", first)  # Excel's own line
        first = next(self.lines, "") if stated else first
        self.before = before + bool(stated)  # lines that the rows are numbered after
        self.mark = stated[1] if stated else _mark(first, usual)
        if self.mark != usual:
            self.notes.append(f"{path}: its columns are separated by {MARKS.get(self.mark, repr(self.mark))}.")
        self.quoted = self.mark != "|"  # captions of Flickr30k hold quotes, and nothing is quoted there
        self.lines = chain([first], self.lines)
        self.reader = Verbatim(self.lines) if self.mark == "\t" and _verbatim(path) else self._reader()
        self.names = self._next() or []
        self.first = self._headless(given or {}) if self.names else []

    def _reader(self) -> Any:
        dialect: dict[str, Any] = {"delimiter": self.mark, "strict": True, "skipinitialspace": self.mark != "\t"}
        dialect["quoting"] = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        return csv.reader(self.lines, **dialect)

    def _headless(self, given: Columns) -> list[list[str]]:
        """The first row, if it is not a header; the columns are then numbered."""
        by_number = bool(given) and all(one.isdigit() for one in given.values())
        pictures = [number for number, cell in enumerate(self.names, 1) if is_inline(cell)]
        if not pictures and not (by_number and not {*given.values()} & {*self.names}):
            return []
        first, self.names = self.names, [str(number) for number in range(1, len(self.names) + 1)]
        if pictures and not by_number:
            self.columns = _around(pictures[0], len(first))
            columns = ", ".join(f"column {column} is the {field}" for field, column in self.columns.items())
            self.notes.append(f"{self.path}: no header line; {columns}; name others by number (--columns image=1,…).")
        return [first]

    def _next(self) -> list[str] | None:
        try:
            return next(self.reader, None)
        except csv.Error as error:
            line = self.before + self.reader.line_num + 1
            alone = "new-line character" in str(error)
            hint = " Its lines seem to end in CR alone, not LF: convert them." if alone else ""
            raise BadFile(f"{self.path}: line {line} or the next cannot be read as CSV ({error}).{hint}") from None

    def records(self) -> Iterator[tuple[int, GatheredRow]]:
        """(line number, cells by column) of every row."""
        for cells in self.first:
            yield 1 + self.before, dict(zip(self.names, cells, strict=True))
        while (cells := self._next()) is not None:  # type: ignore[assignment]
            number = self.before + self.reader.line_num
            if cells and len(cells) != len(self.names):
                cells = self._mended(number, cells)
            if cells:
                yield number, dict(zip(self.names, cells, strict=True))

    def _mended(self, number: int, cells: list[str]) -> list[str]:
        if not self.quoted:
            whole = FLICKR.fullmatch(self.mark.join(cells))
            if whole and len(self.names) == 3:
                return list(whole.groups())
            self.skipped.append((f"{self.path}: line {number}", f"{len(cells)} fields, the header {len(self.names)}."))
            return []
        example = f'"a red{self.mark if self.mark != chr(9) else "⇥"} ripe apple"'
        raise InputError(
            f"{self.path}: line {number} has {len(cells)} fields, the header {len(self.names)}: its columns are parted "
            f"by {MARKS.get(self.mark, repr(self.mark))}. A caption that holds one must be quoted: {example}."
        )


class Verbatim:
    """Rows of a tab-separated table, in which a quote is an ordinary character unless quotes enclose a whole cell."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines, self.line_num = lines, 0

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        line = next(self.lines)
        self.line_num += 1
        return (
            [_unquoted(cell) for cell in line.removesuffix("\n").removesuffix("\r").split("\t")] if line.strip() else []
        )


def _unquoted(cell: str) -> str:
    inside = cell[1:-1].replace('""', "")
    whole = len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inside
    return cell[1:-1].replace('""', '"') if whole else cell


def _verbatim(path: Path) -> bool:
    """Whether all lines of a tab-separated table have equally many tabs: then no cell has a quoted line break."""
    counts = {line.count("\t") for line in iter_lines(path) if line.strip() and not line.startswith("sep=")}
    return len(counts) == 1


def _mark(header: str, usual: str) -> str:
    """The separator with which most header names are known, and among equals the one with the most columns."""

    def judged(mark: str) -> tuple[int, int, bool]:
        try:
            names = next(csv.reader([header], delimiter=mark, skipinitialspace=True), [])
        except csv.Error:
            names = []
        return sum(name.strip().lower() in KNOWN for name in names), len(names), mark == usual

    if any(is_inline(cell.strip()) for cell in header.split("\t")):
        return "\t"
    return max(MARKS, key=judged)


def _around(picture: int, count: int) -> dict[str, str]:
    """Columns of a table without a header: the picture, a caption beside it and, from three columns on, an id first."""
    others = [number for number in range(1, count + 1) if number != picture]
    found = {"image": str(picture)}
    if len(others) >= 2:
        found |= {"id": str(others[0]), "caption": str(others[2] if len(others) > 3 else others[1])}
    elif others:
        found["caption"] = str(others[0])
    return found
