"""Tables as others write them: names of columns, types of cells, marks between columns, parts of a set."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from isthmus.data.cells import written_list
from isthmus.data.columns import find_columns, parse_columns
from isthmus.data.pairs import Pairs, pairs_from_lists, read_pairs
from isthmus.errors import InputError, UsageError


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


def shade(pairs: Pairs, row: int) -> int:
    return pairs.decode(row).getpixel((0, 0))[0]


def captions(pairs: Pairs) -> dict[str, str]:
    return dict(zip(pairs.captions["caption_id"].to_pylist(), pairs.captions["caption"].to_pylist(), strict=True))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """a.png and b.png, of shades 1 and 2."""
    for name, value in (("a.png", 1), ("b.png", 2)):
        (tmp_path / name).write_bytes(png(value))
    return tmp_path


SPELLINGS = [
    ("filepath", "title"),
    ("URL", "TEXT"),
    ("image_path", "sentence"),
    ("file_name", "text"),
    ("Image", " raw"),
]


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json", "parquet", "arrow", "frame"])
@pytest.mark.parametrize("names", SPELLINGS)
def test_usual_spellings_are_recognised_and_said(images: Path, form: str, names: tuple[str, str]) -> None:
    rows = [{names[0]: "a.png", names[1]: "of a"}, {names[0]: "b.png", names[1]: "of b"}]
    pairs = read_pairs(_written(images, form, rows), images=images if form == "frame" else None)
    assert captions(pairs) == {"a.png#0": "of a", "b.png#0": "of b"}
    assert [shade(pairs, 0), shade(pairs, 1)] == [1, 2]
    assert any(repr(names[0].strip()) in note and "as image" in note for note in pairs.notes)


def _written(folder: Path, form: str, rows: list[dict]) -> object:
    path = folder / f"t.{form}"
    table = pa.Table.from_pylist(rows)
    if form == "parquet":
        pq.write_table(table, path)
    elif form == "arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    elif form == "json":
        path.write_text(json.dumps(rows))
    elif form == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif form == "frame":
        return pd.DataFrame(rows)
    else:
        mark = {"csv": ",", "tsv": "\t"}[form]
        path.write_text("\n".join(mark.join(map(str, row)) for row in [rows[0].keys(), *(r.values() for r in rows)]))
    return path


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "frame"])
def test_columns_that_are_named_win(images: Path, form: str) -> None:
    rows = [{"image": "b.png", "where": "a.png", "caption": "wrong", "said": "right", "kind": "cat"}]
    columns = "image=where, caption=said,label=kind"
    pairs = read_pairs(_written(images, form, rows), columns=columns, images=images)
    assert captions(pairs) == {"a.png#0": "right"}
    assert pairs.images["label"].to_pylist() == ["cat"]


def test_wrong_columns_are_refused() -> None:
    with pytest.raises(InputError, match=r"no column 'titel' for caption. Did you mean 'title'"):
        find_columns("t.csv", ["image", "title"], "required", {"caption": "titel"})
    with pytest.raises(UsageError, match=r"no field 'text'. Did you mean 'caption'"):
        parse_columns("text=title")
    with pytest.raises(UsageError, match=r"write FIELD=COLUMN"):
        parse_columns("caption")
    with pytest.raises(InputError, match=r"column 'caption' .* is there twice"):
        find_columns("t.csv", ["image", "caption", "caption"], "required")


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl", "frame"])
def test_a_row_per_caption_is_joined_by_image(images: Path, form: str) -> None:
    rows = [
        {"image": "a.png", "caption": "one", "lang": "en"},
        {"image": "b.png", "caption": "other", "lang": "en"},
        {"image": "a.png", "caption": "zwei", "lang": "de"},
    ]
    pairs = read_pairs(_written(images, form, rows), images=images)
    assert captions(pairs) == {"a.png#0": "one", "b.png#0": "other", "a.png#1": "zwei"}
    assert pairs.captions["lang"].to_pylist() == ["en", "en", "de"]
    assert [shade(pairs, row) for row in range(len(pairs))] == [1, 2]
    assert any("1 rows gave further captions" in note for note in pairs.notes)


def test_an_image_without_caption_in_its_first_row_is_kept(images: Path) -> None:
    (images / "t.csv").write_text("image,caption\na.png,\nb.png,of b\na.png,of a\n")
    pairs = read_pairs(images / "t.csv")
    assert set(captions(pairs).values()) == {"of a", "of b"}
    assert {id: shade(pairs, row) for row, id in enumerate(pairs.images["id"].to_pylist())} == {"a.png": 1, "b.png": 2}
    assert pairs.skipped == [(f"{images / 't.csv'}: line 2", "no caption for a.png in this row.")]


LISTS = {
    "python": "['a red', \"b's\"]",
    "json": '["a red", "b\'s"]',
    "numpy": "['a red' \"b's\"]",
    "array": "array(['a red', \"b's\"], dtype=object)",
    "objects": '[{"raw": "a red", "tokens": ["a"]}, {"raw": "b\'s"}]',
}


@pytest.mark.parametrize("written", LISTS)
def test_lists_that_were_written_out_are_lists(written: str) -> None:
    assert written_list(LISTS[written]) == ["a red", "b's"]


@pytest.mark.parametrize("text", ["[a red square]", "(a cat)", "a cat [sic]", "[]", "[1, 2]", "['a' and 'b']"])
def test_texts_with_brackets_stay_texts(text: str) -> None:
    assert written_list(text) is None


CAPTION_CELLS = {
    "binary": pa.array([b"caf\xc3\xa9", b"x"], pa.binary()),
    "large binary": pa.array([b"caf\xc3\xa9", b"x"], pa.large_binary()),
    "large": pa.array(["café", "x"], pa.large_string()),
    "view": pa.array(["café", "x"], pa.string_view()),
    "dictionary": pa.array(["café", "x"]).dictionary_encode(),
    "list": pa.array([["café"], ["x"]]),
    "list of binary": pa.array([[b"caf\xc3\xa9"], [b"x"]]),
    "objects": pa.array([[{"raw": "café", "id": 1}], [{"raw": "x", "id": 2}]]),
    "object of lists": pa.array([{"raw": ["café"]}, {"raw": ["x"]}]),
}


@pytest.mark.parametrize("kind", CAPTION_CELLS)
@pytest.mark.parametrize("name", ["caption", "captions"])
def test_captions_of_every_type_of_column(images: Path, kind: str, name: str) -> None:
    pq.write_table(pa.table({"image": ["a.png", "b.png"], name: CAPTION_CELLS[kind]}), images / "t.parquet")
    assert captions(read_pairs(images / "t.parquet")) == {"a.png#0": "café", "b.png#0": "x"}


PATHS = {
    "binary": pa.array([b"a.png", b"b.png"], pa.binary()),
    "dictionary": pa.array(["a.png", "b.png"]).dictionary_encode(),
    "view": pa.array(["a.png", "b.png"], pa.string_view()),
    "large": pa.array(["a.png", "b.png"], pa.large_string()),
}


@pytest.mark.parametrize("kind", PATHS)
def test_paths_of_every_type_of_column(images: Path, kind: str) -> None:
    pq.write_table(pa.table({"image": PATHS[kind], "caption": ["x", "y"]}), images / "t.parquet")
    pairs = read_pairs(images / "t.parquet")
    assert pairs.images["id"].to_pylist() == ["a.png", "b.png"]
    assert [shade(pairs, 0), shade(pairs, 1)] == [1, 2]


BYTES = {
    "binary": pa.array([png(1), png(2)], pa.binary()),
    "large": pa.array([png(1), png(2)], pa.large_binary()),
    "view": pa.array([png(1), png(2)], pa.binary_view()),
    "struct": pa.array([{"bytes": png(1), "path": None}, {"bytes": png(2), "path": "x"}]),
    "one in a list": pa.array([[{"bytes": png(1), "path": None}], [{"bytes": png(2), "path": None}]]),
    "numbers": pa.array([list(png(1)), list(png(2))], pa.list_(pa.uint8())),
    "base64": pa.array([base64.b64encode(png(k)).decode() for k in (1, 2)]),
    "data URI": pa.array(["data:image/png;base64," + base64.b64encode(png(k)).decode() for k in (1, 2)]),
}


@pytest.mark.parametrize("kind", BYTES)
def test_pictures_of_every_type_of_column(tmp_path: Path, kind: str) -> None:
    pq.write_table(pa.table({"image": BYTES[kind], "caption": ["x", "y"]}), tmp_path / "t.parquet")
    pairs = read_pairs(tmp_path / "t.parquet")
    assert pairs.images["id"].to_pylist() == ["0", "1"]
    assert [shade(pairs, 0), shade(pairs, 1)] == [1, 2]


def test_whole_floats_are_ids_and_labels(images: Path) -> None:
    columns = {"image": ["a.png", "b.png"], "caption": ["x", "y"], "id": [1.0, 2.0], "label": [3.0, None]}
    pq.write_table(pa.table(columns), images / "t.parquet")
    pairs = read_pairs(images / "t.parquet")
    assert pairs.images["id"].to_pylist() == ["1", "2"]
    assert pairs.images["label"].to_pylist() == ["3", None]
    pq.write_table(pa.table(columns | {"id": [2.0**60, 2.0**60 + 256]}), images / "t.parquet")
    with pytest.raises(InputError, match=r"a float. Store it as text"):
        read_pairs(images / "t.parquet")


def test_minus_one_of_a_class_label_is_none(tmp_path: Path) -> None:
    names = {"info": {"features": {"fine_label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": [png(1), png(2)], "caption": ["x", "y"], "fine_label": [-1, 1]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(names)}), tmp_path / "t.parquet")
    assert read_pairs(tmp_path / "t.parquet").images["label"].to_pylist() == [None, "dog"]


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_other_marks_between_columns_are_seen(images: Path, mark: str) -> None:
    (images / "t.csv").write_text(f"image{mark}caption\na.png{mark}red, ripe\nb.png{mark}x\n")
    pairs = read_pairs(images / "t.csv")
    assert captions(pairs) == {"a.png#0": "red, ripe", "b.png#0": "x"}
    assert any("separated by" in note for note in pairs.notes)


def test_a_base64_tsv_needs_no_header(tmp_path: Path) -> None:
    cells = [base64.b64encode(png(k)).decode() for k in (1, 2)]
    (tmp_path / "t.tsv").write_text(f"7\t{cells[0]}\tone\n9\t{cells[1]}\ttwo\n")
    pairs = read_pairs(tmp_path / "t.tsv")
    assert captions(pairs) == {"7#0": "one", "9#0": "two"}
    assert [shade(pairs, 0), shade(pairs, 1)] == [1, 2]
    (tmp_path / "u.tsv").write_text(f"7\tone\tcar\t{cells[0]}\n")
    pairs = read_pairs(tmp_path / "u.tsv", columns="image=4,caption=2,id=1")
    assert (captions(pairs), shade(pairs, 0)) == ({"7#0": "one"}, 1)


def test_parts_of_a_parquet_set_are_all_read_and_checked(tmp_path: Path) -> None:
    for number in range(2):
        table = pa.table({"image": [png(2 * number), png(2 * number + 1)], "caption": ["x", "y"]})
        pq.write_table(table, tmp_path / f"train-0000{number}-of-00002.parquet")
    pq.write_table(pa.table({"image": [png(9)], "caption": ["z"]}), tmp_path / "validation-00000-of-00001.parquet")
    for data in (tmp_path, f"{tmp_path}/*.parquet", f"{tmp_path}/{{train,validation}}-*.parquet"):
        pairs = read_pairs(data)
        assert [shade(pairs, row) for row in range(5)] == [0, 1, 2, 3, 9]
        assert pairs.images["split"].to_pylist() == ["train"] * 4 + ["val"]
        assert pairs.images["id"][3].as_py() == "train-00001-of-00002/1"
    (tmp_path / "train-00001-of-00002.parquet").write_bytes(b"PAR1 half of it")
    pairs = read_pairs(tmp_path)
    assert [shade(pairs, row) for row in range(3)] == [0, 1, 9]
    assert pairs.skipped[0][0] == "train-00001-of-00002.parquet"
    pq.write_table(pa.table({"image": [png(1)], "words": ["x"]}), tmp_path / "train-00001-of-00002.parquet")
    with pytest.raises(InputError, match=r"train-00001-of-00002\.parquet: no column `caption`"):
        read_pairs(tmp_path)


def test_lines_are_numbered_as_they_stand_in_the_file(images: Path) -> None:
    (images / "t.csv").write_text("\n\nsep=;\nimage;caption\na.png;x\nb.png;y;z\n")
    with pytest.raises(InputError, match=r"line 6 has 3 fields"):
        read_pairs(images / "t.csv")


def test_urls_are_not_fetched_and_it_is_said_what_can(images: Path) -> None:
    (images / "t.csv").write_text("url,text\nhttps://example.org/a.png,x\na.png,y\n")
    pairs = read_pairs(images / "t.csv")
    assert captions(pairs) == {"a.png#0": "y"}
    assert "img2dataset" in pairs.skipped[0][1]


def test_lists_take_numpy_captions_and_ids(images: Path) -> None:
    pairs = pairs_from_lists(
        [images / "a.png", images / "b.png"],
        [np.array(["one", "two"], object), np.array(["three"])],
        ids=list(np.array([5, 6])),
    )
    assert captions(pairs) == {"5#0": "one", "5#1": "two", "6#0": "three"}


def test_a_frame_may_hold_pictures(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"image": [Image.new("RGB", (3, 3), (7, 7, 7)), png(8)], "caption": ["x", np.array(["y", "z"])]}
    )
    pairs = read_pairs(frame)
    assert [shade(pairs, 0), shade(pairs, 1)] == [7, 8]
    assert captions(pairs) == {"0#0": "x", "1#0": "y", "1#1": "z"}


def test_a_row_with_half_a_character_for_an_id_is_left_out(images: Path) -> None:
    (images / "t.jsonl").write_text(
        '{"image": "a.png", "caption": "x", "id": "\\ud83d"}\n{"image": "b.png", "caption": "y"}'
    )
    pairs = read_pairs(images / "t.jsonl")
    assert captions(pairs) == {"b.png#0": "y"}
    assert "not valid Unicode" in pairs.skipped[0][1]


def test_quotes_in_a_table_with_tabs_are_characters(images: Path) -> None:
    (images / "t.tsv").write_text('image\tcaption\na.png\t"so it began, 5" wide\nb.png\t"whole, ""quoted"""\n')
    assert list(captions(read_pairs(images / "t.tsv")).values()) == ['"so it began, 5" wide', 'whole, "quoted"']
    (images / "t.tsv").write_text('image\tcaption\na.png\t"two\nlines!"\n')
    assert list(captions(read_pairs(images / "t.tsv")).values()) == ["two\nlines!"]


def test_a_dataset_in_memory_is_a_table(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    kinds = {"image": datasets.Image(), "text": datasets.Value("string")}
    features = datasets.Features(**kinds, label=datasets.ClassLabel(names=["cat", "dog"]))
    rows = {"image": [Image.new("RGB", (2, 2), (k, k, k)) for k in (5, 6)], "text": ["a", "b"], "label": [1, 0]}
    pairs = read_pairs(datasets.Dataset.from_dict(rows, features=features).select([1]))
    assert (captions(pairs), shade(pairs, 0)) == ({"0#0": "b"}, 6)
    assert pairs.images["label"].to_pylist() == ["cat"]


def test_missing_values_of_pandas_are_none(images: Path) -> None:
    columns = {"image": ["a.png", pd.NA, "b.png"], "caption": ["x", "y", pd.NA], "label": [1, None, None]}
    frame = pd.DataFrame(columns).astype({"label": "Int64"})
    pairs = read_pairs(frame, images=images)
    assert captions(pairs) == {"a.png#0": "x"}
    assert pairs.images["label"].to_pylist() == ["1"]
    assert [id for id, _ in pairs.skipped] == ["table: row 1", "b.png"]


def test_a_frame_may_hold_arrays(tmp_path: Path) -> None:
    frame = pd.DataFrame({"image": [np.full((2, 2, 3), 7, np.uint8), np.full((2, 2), 9, np.uint8)], "text": ["x", "y"]})
    pairs = read_pairs(frame)
    assert [shade(pairs, 0), shade(pairs, 1)] == [7, 9]


def test_img2dataset_parquet(tmp_path: Path) -> None:
    columns = {"url": ["http://x"] * 2, "caption": ["x", "y"], "key": ["000000001", "000000002"]}
    pq.write_table(
        pa.table({**columns, "status": ["success"] * 2, "jpg": [png(1), png(2)]}), tmp_path / "00000.parquet"
    )
    pairs = read_pairs(tmp_path)
    assert captions(pairs) == {"000000001#0": "x", "000000002#0": "y"}
    assert [shade(pairs, 0), shade(pairs, 1)] == [1, 2]
