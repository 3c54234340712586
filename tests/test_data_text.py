"""Text files are read in one way by every reader: byte-order marks, line ends, blank lines, encodings."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from isthmus.curation.balance import read_entries as balance_entries
from isthmus.data.labels import class_names
from isthmus.data.pairs import read_pairs
from isthmus.data.text import decode_text, json_lines, read_entries, read_lines, read_text
from isthmus.errors import InputError
from isthmus.evaluation.datasets.mmvp import read_mmvp
from isthmus.evaluation.longtext import read_longtext
from isthmus.metrics.zeroshot import load_templates
from isthmus.store.imports import _lines as array_lines

ODD = "one\x0btwo\x0cthree\x85four\u2028five\u2029six\x1cseven"  # at all of which str.splitlines breaks a line


def test_lines_end_at_lf_or_crlf_and_at_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes(("\ufeff" + ODD + "\r\n\r\n second \n\n \n").encode())
    assert read_lines(file) == [ODD, "", "second"]
    assert read_entries(file) == [ODD, "second"]


READERS = {
    "class names": class_names,
    "concepts and balance": balance_entries,
    "arrays": lambda path: [line for line in array_lines(path) if line],
    "templates": lambda path: [line.removesuffix(" {}") for line in load_templates(path)],
}


@pytest.mark.parametrize("reader", READERS)
def test_every_list_of_lines_is_read_alike(tmp_path: Path, reader: str) -> None:
    file = tmp_path / "list.txt"
    slot = " {}" if reader == "templates" else ""
    file.write_bytes(f"\ufeff{ODD}{slot}\r\n\r\nsecond{slot}\r\n".encode())
    assert READERS[reader](file) == [ODD, "second"]
    file.write_bytes("café".encode("latin-1"))
    with pytest.raises(InputError, match=r"list\.txt is not UTF-8"):
        READERS[reader](file)


def test_positions_survive_blank_lines_between(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("a\n\nc\n\n\n")
    assert array_lines(tmp_path / "ids.txt") == ["a", "", "c"]


def test_other_encodings_are_named() -> None:
    with pytest.raises(InputError, match=r"x is UTF-16, not UTF-8"):
        decode_text("text".encode("utf-16"), "x")
    with pytest.raises(InputError, match=r"x is not UTF-8"):
        decode_text(b"\xff", "x")


def test_a_packed_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("\ufeffone\r\ntwo".encode()))
    assert read_text(tmp_path / "a.txt.gz") == "one\r\ntwo"
    (tmp_path / "a.txt.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(InputError, match=r"cannot be read as text"):
        read_text(tmp_path / "a.txt.gz")


def test_json_lines_name_their_line_and_keep_separators_inside(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(
        "\ufeff" + json.dumps({"a": ODD}, ensure_ascii=False) + '\r\n\n{"a": 1, "a": 2}\n', encoding="utf-8"
    )
    rows = json_lines(file)
    assert next(rows) == (1, {"a": ODD})
    with pytest.raises(InputError, match=r"line 3 cannot be read as JSON .*'a' is there twice"):
        next(rows)


def test_docci_keeps_line_separators_in_a_description(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    row = {"example_id": "a", "split": "test", "image_file": "a.jpg", "description": ODD}
    text = "\ufeff" + json.dumps(row, ensure_ascii=False) + "\r\n"
    (tmp_path / "docci_descriptions.jsonlines").write_text(text, encoding="utf-8")
    assert read_longtext(tmp_path).captions["caption"].to_pylist() == [ODD]


def test_csv_cells_keep_their_line_breaks(tmp_path: Path) -> None:
    said = f"first\r\nsecond, {ODD}"
    with (tmp_path / "pairs.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([["image", "caption"], ["a.png", said], ["b.png", "x"]])
    assert read_pairs(tmp_path / "pairs.csv").captions["caption"].to_pylist() == [said, "x"]
    (tmp_path / "MLLM_VLM Images").mkdir()
    with (tmp_path / "Questions.csv").open("w", encoding="utf-8", newline="") as file:
        rows = [["Question ID", "Type", "Statement"], ["1", "t", said], ["2", "t", "x"]]
        csv.writer(file).writerows(rows)
    assert read_mmvp(tmp_path)["mmvp"][0].captions[0] == f"a photo of {said}"
