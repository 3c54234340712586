"""Text files are read in one way by every reader: byte-order marks, line ends, blank lines, encodings."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bounded import cost
from isthmus.curation.balance import read_entries as balance_entries
from isthmus.data.labels import class_names
from isthmus.data.pairs import read_pairs
from isthmus.data.text import decode_text, json_lines, read_entries, read_lines, read_text
from isthmus.errors import InputError
from isthmus.evaluation.datasets.mmvp import read_mmvp
from isthmus.evaluation.longtext import read_longtext
from isthmus.metrics.zeroshot import load_templates
from isthmus.store.arrays import open_npy
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


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".GZ": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}


@pytest.mark.parametrize("ending", PACKERS)
def test_a_packed_text_is_read(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a.txt{ending}"
    file.write_bytes(PACKERS[ending]("\ufeffone\r\ntwo".encode()))
    assert read_text(file) == "one\r\ntwo"
    for damaged in (b"\x1f\x8b broken", PACKERS[ending](b"one\ntwo" * 99)[:-9]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"cannot be read as text"):
            read_text(file)


TABLES = {
    "csv": "image,caption\na.png,one\nb.png,two\n",
    "tsv": "image\tcaption\na.png\tone\nb.png\ttwo\n",
    "jsonl": '{"image": "a.png", "caption": "one"}\n{"image": "b.png", "caption": "two"}\n',
    "json": '[{"image": "a.png", "caption": "one"}, {"image": "b.png", "caption": "two"}]',
    "token": "a.png#0\tone\nb.png#0\ttwo\n",
}


@pytest.mark.parametrize("form", TABLES)
@pytest.mark.parametrize("ending", PACKERS)
def test_a_packed_table_is_the_table(tmp_path: Path, form: str, ending: str) -> None:
    (tmp_path / f"t.{form}").write_text(TABLES[form])
    (tmp_path / f"t.{form}{ending}").write_bytes(PACKERS[ending](TABLES[form].encode()))
    plain, packed = (read_pairs(tmp_path / f"t.{form}{one}") for one in ("", ending))
    assert plain.images.equals(packed.images) and plain.captions.equals(packed.captions)


@pytest.mark.parametrize("ending", PACKERS)
def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path: Path, ending: str) -> None:
    lines, line = tmp_path / f"lines.csv{ending}", tmp_path / f"line.csv{ending}"
    lines.write_bytes(PACKERS[ending](b"image,caption\na.png,one\n" + b"\n" * 30_000_000))
    line.write_bytes(PACKERS[ending](b"image,caption\n" + b"a" * 30_000_000))
    for file in (lines, line):
        spent = cost(lambda file=file: read_pairs(file))  # type: ignore[misc]
        assert "too many for so small a file" in spent.error and spent.mib < 200, spent
    assert "too many" in cost(lambda: read_text(line)).error


def test_of_several_texts_a_damaged_one_is_listed(tmp_path: Path) -> None:
    rows = "".join(f"{i}.png,{'some words ' * 9}{i}\n" for i in range(2000))
    (tmp_path / "a.csv").write_bytes(b"image,caption\nx.png,\xff\n")
    (tmp_path / "b.csv").write_text("image,caption\ny.png,one\n")
    packed = gzip.compress(f"image,caption\n{rows}".encode())
    (tmp_path / "c.csv.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "d.csv").write_text("image,caption\nz.png,two\n")
    read = read_pairs(f"{tmp_path}/*.csv*")
    assert [name for name, _ in read.skipped] == ["a.csv", "c.csv.gz"]
    ids = read.images["id"].to_pylist()
    assert ids[0] == "y.png" and ids[-1] == "z.png" and 2 < len(ids) < 2000
    captions = dict(zip(*(read.captions[name].to_pylist() for name in ("id", "caption")), strict=True))
    assert captions["z.png"] == "two" and captions["7.png"].endswith(" 7")
    with pytest.raises(InputError, match=r"no such file: .*z\.png"):  # the bytes of z are looked for under its name
        read.read_bytes(len(ids) - 1)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json", "t.txt", "t.parquet", "t.arrow", "t.tar", "t.csv.gz"])
def test_a_pipe_is_no_table_and_keeps_nobody_waiting(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for read in (read_pairs, read_text, read_entries, lambda path: next(json_lines(path))):
        spent = cost(lambda read=read: read(tmp_path / name))  # type: ignore[misc]
        assert "a pipe, not a file" in spent.error and spent.seconds < 5


def test_what_is_packed_otherwise_is_said(tmp_path: Path) -> None:
    for name, said in {
        "t.parquet.gz": "only text is read packed",
        "t.tar.gz": "compressed tar",
        "t.csv.xz": r"\.zst",
    }.items():
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(InputError, match=said):
            read_pairs(tmp_path / name)


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


@pytest.mark.parametrize("name", ["b.png", "b.txt", "b.tar", "b.parquet", "b.csv", "metadata.jsonl"])
def test_a_pipe_in_a_folder_is_listed(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_bytes(b"a picture, once it is read")
    os.mkfifo(tmp_path / name)
    read = read_pairs(tmp_path, captions="optional")
    assert read.images["id"].to_pylist() == ["a.png"] and read.skipped == [(name, "a pipe, not a file.")]


@pytest.mark.parametrize("form", ["csv", "jsonl", "tar", "parquet", "arrow"])
def test_a_pipe_among_several_files_is_listed(tmp_path: Path, form: str) -> None:
    rows = pa.table({"image": ["a.png"], "caption": ["one"]})
    if form == "tar":
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for ending in ("png", "txt"):
                member = tarfile.TarInfo(f"a.{ending}")
                member.size = 3
                tar.addfile(member, io.BytesIO(b"one"))
    elif form == "parquet":
        pq.write_table(rows, tmp_path / "a.parquet")
    elif form == "arrow":
        with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as out, pa.ipc.new_stream(out, rows.schema) as stream:
            stream.write_table(rows)
    else:
        (tmp_path / f"a.{form}").write_text(TABLES[form])
    os.mkfifo(tmp_path / f"b.{form}")
    read = read_pairs(f"{tmp_path}/*.{form}")
    assert read.captions["caption"].to_pylist()[0] == "one"
    ((name, reason),) = read.skipped
    assert name.startswith("b") and "a pipe, not a file" in reason


def test_a_pipe_is_no_array(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "image.npy")
    with pytest.raises(InputError, match="a pipe, not a file"):
        open_npy(tmp_path / "image.npy")
