"""Conversations about pictures, in the "messages" form or LLaVA's: each answer, with all that was said before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from isthmus.data.text import bare_name, json_lines
from isthmus.errors import InputError
from isthmus.files import read_json

ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}
LINES = (".jsonl", ".ndjson", ".jsonlines")
PICTURE = ("id", "image", "images")  # columns that name the picture, the first that fits


class SpokenTurn(NamedTuple):
    """An answer about a picture. turns: question, answer, question, …: what was said before. place: for messages."""

    picture: str
    turns: tuple[str, ...]
    answer: str
    place: str


def read_messages(path: str | Path, ids: Mapping[str, Any]) -> list[SpokenTurn]:
    """All answers of a JSON, JSON Lines or Parquet file, with `messages` or `conversations` in each row.

    ids: of the pictures there are. A row names its picture by `id`, or by `image` as a path; rows of other pictures are
    left out. A message is `{"role", "content"}` (the content a text, or a list of parts of which the texts count) or
    `{"from", "value"}`. What the system says is left out.
    Raises `InputError` naming the row.
    """
    found: list[SpokenTurn] = []
    for place, row in _rows(Path(path)):
        picture = _picture(row, ids)
        if picture is not None:
            said = _said(row.get("messages") or row.get("conversations"), place)
            found += [SpokenTurn(picture, tuple(said[:k]), said[k], place) for k in range(1, len(said), 2)]
    return found


def _picture(row: Mapping[str, Any], ids: Mapping[str, Any]) -> str | None:
    for name in PICTURE:
        value = row.get(name)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, dict):
            value = value.get("path")
        if value is not None and str(value) in ids:
            return str(value)
    return None


def _said(messages: Any, place: str) -> list[str]:
    """Question, answer, question, answer, …, the marks of pictures removed."""
    if not isinstance(messages, list) or not messages:
        raise InputError(f"{place}: has no list `messages` (or `conversations`).")
    said: list[str] = []
    for one in messages:
        role = ROLES.get(str(one.get("role") or one.get("from")) if isinstance(one, dict) else "")
        if role is None:
            raise InputError(f"{place}: a message whose role is none of {', '.join(ROLES)}: {str(one)[:60]!r}.")
        if role == "system":
            continue
        if role != ("user", "assistant")[len(said) % 2]:
            raise InputError(f"{place}: two messages of the {role} in a row, or the {role} begins.")
        text = _text(one.get("content", one.get("value")), place)
        if not text and role == "assistant":
            raise InputError(f"{place}: an answer is empty. Fill it in, or remove the row.")
        said.append(text)
    return said


def _text(content: Any, place: str) -> str:
    if isinstance(content, list):
        parts = [one.get("text") for one in content if isinstance(one, dict) and one.get("text")]
        content = "\n".join(map(str, parts))
    if not isinstance(content, str):
        raise InputError(f"{place}: the content of a message is no text: {str(content)[:60]!r}.")
    return content.replace("<image>", "").strip()


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    name = bare_name(path)
    if name.endswith(LINES):
        yield from ((f"{path}: line {line}", row) for line, row in json_lines(path))
    elif name.endswith(".parquet"):
        from isthmus.data.parquet import DAMAGE, ParquetTable

        try:
            table = ParquetTable(path)
            wanted = [one for one in (*PICTURE, "messages", "conversations") if one in table.schema.names]
            rows = [row for part in table.slices(wanted) for row in part.to_pylist()]
        except DAMAGE as error:
            raise InputError(f"{path}: cannot be read as Parquet ({error}).") from None
        yield from ((f"{path}: row {number}", row) for number, row in enumerate(rows))
    else:
        listed = read_json(path)
        if not isinstance(listed, list) or not all(isinstance(row, dict) for row in listed):
            raise InputError(f"{path}: not a list of conversations. JSON, JSON Lines and Parquet are read.")
        yield from ((f"{path}: row {number}", row) for number, row in enumerate(listed))
