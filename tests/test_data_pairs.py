"""Every form of input becomes the same two tables; every bad one is named with its file and row."""

from __future__ import annotations

import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from isthmus.data.images import BadImage
from isthmus.data.pairs import Pairs, pairs_from_lists, read_pairs
from isthmus.data.sources import FileColumn
from isthmus.errors import InputError


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2), (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


def shade(pairs: Pairs, row: int) -> int:
    return pairs.decode(row).getpixel((0, 0))[0]


def ids(pairs: Pairs) -> list[str]:
    return pairs.images["id"].to_pylist()


def captions(pairs: Pairs) -> dict[str, str]:
    return dict(zip(pairs.captions["caption_id"].to_pylist(), pairs.captions["caption"].to_pylist(), strict=True))


def parquet(path: Path, columns: dict, **options) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """a.png and sub/b.png, of shades 1 and 2."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "sub" / "b.png").write_bytes(png(2))
    return tmp_path


TABLE = [
    {"image": "a.png", "caption": "one", "split": "validation", "label": "x", "group": "g", "lang": "en"},
    {"image": "sub/b.png", "caption": "two", "split": "TRAIN", "label": "", "group": "", "lang": ""},
]


def write_table(folder: Path, form: str) -> Path:
    path = folder / f"pairs.{form}"
    if form == "parquet":
        return parquet(path, {name: [row[name] for row in TABLE] for name in TABLE[0]})
    if form == "jsonl":
        path.write_text("\n".join(map(json.dumps, TABLE)) + "\n")
        return path
    mark = "\t" if form == "tsv" else ","
    lines = [mark.join(TABLE[0]), *(mark.join(row.values()) for row in TABLE)]
    path.write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["parquet", "csv", "tsv", "jsonl"])
def test_tables_of_paths(images: Path, form: str) -> None:
    pairs = read_pairs(write_table(images, form))
    assert pairs.images.drop(["source"]).to_pylist() == [
        {"id": "a.png", "group": "g", "split": "val", "label": "x"},
        {"id": "sub/b.png", "group": None, "split": "train", "label": None},
    ]
    assert pairs.captions.to_pylist() == [
        {"caption_id": "a.png#0", "id": "a.png", "caption": "one", "lang": "en"},
        {"caption_id": "sub/b.png#0", "id": "sub/b.png", "caption": "two", "lang": None},
    ]
    assert [shade(pairs, 0), shade(pairs, 1)] == [1, 2]
    assert pairs.skipped == []


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), "struct"])
def test_parquet_of_bytes_has_row_numbers_as_ids(tmp_path: Path, kind: pa.DataType | str) -> None:
    cells = [png(7), png(8)]
    column = [{"bytes": cell, "path": None} for cell in cells] if kind == "struct" else pa.array(cells, kind)
    pairs = read_pairs(parquet(tmp_path / "p.parquet", {"image": column, "caption": ["a", "b"]}))
    assert ids(pairs) == ["0", "1"]
    assert [shade(pairs, 0), shade(pairs, 1)] == [7, 8]


def test_struct_may_hold_a_path_instead_of_bytes(images: Path) -> None:
    column = [{"bytes": png(9), "path": "gone.png"}, {"bytes": None, "path": "sub/b.png"}, None]
    path = parquet(images / "p.parquet", {"image": column, "caption": ["a", "b", "c"]})
    pairs = read_pairs(path)
    assert [shade(pairs, 0), shade(pairs, 1)] == [9, 2]
    with pytest.raises(BadImage, match="no image in this row"):
        pairs.read_bytes(2)


def test_row_groups_are_read_as_they_are_needed(tmp_path: Path) -> None:
    count = 40
    columns = {"image": [png(k) for k in range(count)], "caption": [f"c{k}" for k in range(count)]}
    pairs = read_pairs(parquet(tmp_path / "p.parquet", columns, row_group_size=3))
    assert isinstance(pairs.reader, FileColumn)
    assert not pairs.reader.kept
    order = np.random.default_rng(0).permutation(count).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda row: shade(pairs, row), order)) == order
    assert len(pairs.reader.kept) <= FileColumn.KEPT


def test_ids_stay_text(images: Path) -> None:
    (images / "t.csv").write_text("id,image,caption\n007,a.png,x\n1e3,sub/b.png,y\n")
    assert ids(read_pairs(images / "t.csv")) == ["007", "1e3"]
    big = [2**63 - 1, 2**53 + 1]
    path = parquet(images / "t.parquet", {"id": big, "image": ["a.png"] * 2, "caption": ["x"] * 2})
    assert ids(read_pairs(path)) == ["9223372036854775807", "9007199254740993"]
    (images / "t.jsonl").write_text('{"id": 123456789012345678901234567890, "image": "a.png", "caption": "x"}')
    assert ids(read_pairs(images / "t.jsonl")) == ["123456789012345678901234567890"]


def test_several_captions_keep_their_place_when_one_is_dropped(images: Path) -> None:
    rows = [
        {"image": "a.png", "captions": ["first", "  ", None, 5, " last "]},
        {"image": "sub/b.png", "captions": "line one\n\nline two\r\n", "lang": ["en", "de"]},
    ]
    (images / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs = read_pairs(images / "t.jsonl")
    assert captions(pairs) == {
        "a.png#0": "first",
        "a.png#4": "last",
        "sub/b.png#0": "line one",
        "sub/b.png#1": "line two",
    }
    assert pairs.captions["lang"].to_pylist() == [None, None, "en", "de"]
    assert pairs.skipped == [
        ("a.png#1", "the caption is blank."),
        ("a.png#2", "the caption is missing."),
        ("a.png#3", "the caption is int, not text."),
    ]


def test_bad_rows_never_move_another_images_caption(images: Path) -> None:
    rows = [
        {"id": "none", "image": "a.png"},
        {"id": "gone", "image": "missing.png", "caption": "of the missing one"},
        {"id": "pathless", "image": None, "caption": "nothing"},
        {"id": "b", "image": "sub/b.png", "caption": "of b"},
        {"id": "broken", "image": "broken.png", "caption": "of the broken one"},
        {"id": "a", "image": "a.png", "caption": "of a"},
    ]
    (images / "broken.png").write_bytes(png(3)[:45])
    (images / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs = read_pairs(images / "t.jsonl")
    assert pairs.skipped == [("none", "no caption."), ("pathless", "no image in this row.")]
    assert captions(pairs) == {
        "gone#0": "of the missing one",
        "b#0": "of b",
        "broken#0": "of the broken one",
        "a#0": "of a",
    }
    shades = {}
    for row, id in enumerate(ids(pairs)):
        try:
            shades[id] = shade(pairs, row)
        except BadImage as error:
            shades[id] = error.reason.split(":")[0]
    assert shades == {"gone": "no such file", "b": 2, "broken": "damaged image", "a": 1}


def test_folder_of_images_with_captions_beside_them(images: Path) -> None:
    (images / "a.txt").write_text("one\ntwo\n")
    (images / ".hidden.png").write_bytes(png(9))
    pairs = read_pairs(images)
    assert captions(pairs) == {"a.png#0": "one", "a.png#1": "two"}
    assert pairs.skipped == [("sub/b.png", "no caption.")]


def test_folder_without_captions_serves_search(images: Path) -> None:
    pairs = read_pairs(images, captions="optional")
    assert ids(pairs) == ["a.png", "sub/b.png"]
    assert len(pairs.captions) == 0
    assert shade(pairs, 1) == 2
    with pytest.raises(InputError, match=r"first problem: a\.png: no caption"):
        read_pairs(images)


def test_paths_may_be_absolute_or_lead_upwards(images: Path) -> None:
    table = images / "sub" / "t.csv"
    table.write_text(f"image,caption\n../a.png,up\n{images / 'a.png'},absolute\n")
    pairs = read_pairs(table)
    assert ids(pairs) == ["../a.png", str(images / "a.png")]
    assert [shade(pairs, 0), shade(pairs, 1)] == [1, 1]


def test_a_pipe_or_a_folder_is_not_an_image(images: Path) -> None:
    os.mkfifo(images / "pipe.png")
    (images / "t.csv").write_text("image,caption\npipe.png,x\nsub,y\n/dev/zero,z\n")
    pairs = read_pairs(images / "t.csv")
    for row in range(3):
        with pytest.raises(BadImage, match="not a regular file"):
            pairs.read_bytes(row)


def test_huggingface_labels_get_their_names(tmp_path: Path) -> None:
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = pa.table({"image": [png(1), png(2)], "caption": ["a", "b"], "label": [1, 0]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "t.parquet")
    assert read_pairs(tmp_path / "t.parquet").images["label"].to_pylist() == ["dog", "cat"]


def save_dataset(folder: Path, shades: list[int]) -> None:
    """The files of `Dataset.save_to_disk`: one Arrow stream and state.json."""
    folder.mkdir(parents=True)
    column = [{"bytes": png(value), "path": None} for value in shades]
    table = pa.table({"image": column, "caption": [f"shade {value}" for value in shades]})
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def test_saved_dataset(tmp_path: Path) -> None:
    save_dataset(tmp_path / "one", [3, 4, 5])
    pairs = read_pairs(tmp_path / "one")
    assert captions(pairs) == {"0#0": "shade 3", "1#0": "shade 4", "2#0": "shade 5"}
    assert [shade(pairs, row) for row in range(3)] == [3, 4, 5]


def test_saved_dataset_dict_gives_splits(tmp_path: Path) -> None:
    for name, shades in (("train", [1, 2, 3]), ("validation", [4])):
        save_dataset(tmp_path / name, shades)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    pairs = read_pairs(tmp_path)
    assert pairs.images["split"].to_pylist() == ["train"] * 3 + ["val"]
    val = read_pairs(tmp_path, split="validation")
    assert ids(val) == ["3"]
    assert shade(val, 0) == 4


def test_what_the_datasets_library_saves_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        image=datasets.Image(),
        caption=datasets.Value("string"),
        label=datasets.ClassLabel(names=["cat", "dog"]),
    )
    rows = {
        "image": [Image.new("RGB", (2, 2), (k, k, k)) for k in (5, 6)],
        "caption": ["a", "b"],
        "label": [0, 1],
    }
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))
    pairs = read_pairs(tmp_path / "set")
    assert [shade(pairs, 0), shade(pairs, 1)] == [5, 6]
    assert pairs.images["label"].to_pylist() == ["cat", "dog"]


def test_lists_of_anything(images: Path) -> None:
    array = np.full((2, 2, 3), 11, dtype=np.uint8)
    things = [images / "a.png", str(images / "sub/b.png"), png(5), Image.new("L", (2, 2), 6), array]
    pairs = pairs_from_lists(things, ["p", ["q", "r"], "s", "t", "u"])
    assert [shade(pairs, row) for row in range(5)] == [1, 2, 5, 6, 11]
    assert ids(pairs) == [str(images / "a.png"), str(images / "sub/b.png"), "2", "3", "4"]
    assert captions(pairs)[f"{images}/sub/b.png#1"] == "r"
    assert len(pairs_from_lists(things).captions) == 0


def test_lists_that_do_not_match_are_refused() -> None:
    with pytest.raises(InputError, match="3 images but 2 captions"):
        pairs_from_lists([png(1)] * 3, ["a", "b"])
    with pytest.raises(InputError, match="1 images but 2 ids"):
        pairs_from_lists([png(1)], ["a"], ids=["1", "2"])


def test_wrong_objects_in_a_list_are_bad_images() -> None:
    for thing in (np.zeros((2, 2)), np.zeros((2, 2, 5), np.uint8), None, b""):
        with pytest.raises(BadImage):
            pairs_from_lists([thing], ["x"]).read_bytes(0)


def test_subset_and_filter_keep_captions_and_images_together(images: Path) -> None:
    pairs = read_pairs(write_table(images, "parquet"))
    last = pairs.subset(["sub/b.png"])
    assert (len(last), captions(last), shade(last, 0)) == (1, {"sub/b.png#0": "two"}, 2)
    assert ids(pairs.filter(split="dev")) == ["a.png"]
    assert ids(pairs.subset(["sub/b.png", "a.png"])) == ["a.png", "sub/b.png"]
    with pytest.raises(InputError, match="lacks 1 of these ids, the first is 'nope'"):
        pairs.subset(["a.png", "nope"])
    with pytest.raises(InputError, match="no image of split 'test'; splits are: train, val"):
        pairs.filter(split="test")


def test_columns_that_are_not_used_are_noted(tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", {"image": [png(1)], "caption": ["a"], "url": ["u"], "sha": ["s"]})
    assert read_pairs(path).notes == [f"{path}: columns not used: url, sha."]


def broken_parquet(path: Path) -> None:
    parquet(path, {"image": ["a.png"], "caption": ["x"]})
    path.write_bytes(path.read_bytes()[:-20])


BAD_TABLES = {
    "missing.csv": (None, r"missing\.csv: no such file or folder"),
    "table.xyz": ("image,caption\n", r"table\.xyz: not a table of pairs.*\.parquet, \.csv"),
    "prose.txt": ("once upon a time\n", r"prose\.txt: not a table of pairs: no header line"),
    "empty.csv": ("", "the table is empty"),
    "header.csv": ("image,caption\n", "the table is empty"),
    "empty.jsonl": ("\n\n", "the table is empty"),
    "typo.csv": ("image,captoin\na.png,x\n", r"no column `caption` or `captions`\. Did you mean 'captoin'"),
    "path.csv": ("imag,caption\na.png,x\n", r"no column `image`\. Did you mean 'imag'"),
    "path.jsonl": ('{"pictogram": "a.png", "caption": "x"}\n', "no column `image`"),
    "fields.csv": ("image,caption\na.png,x\nb.png,red, ripe\n", "line 3 has 3 fields, the header 2"),
    "quote.csv": ('image,caption\na.png,x\nb.png,"red\n', "line 4 or the next cannot be read as CSV"),
    "latin.csv": ("image,caption\na.png,caf\xe9\n".encode("latin-1"), "line 2 is not UTF-8"),
    "zero.csv": (b"image,caption\na.png,x\0\n", "repeat|cannot be read|no usable|line"),
    "repeat.csv": (
        "id,image,caption\n1,a.png,x\n2,b.png,y\n1,c.png,z\n",
        r"repeat\.csv: line 4: the id '1' is in .*line 2 already",
    ),
    "twice.csv": ("id,image,caption\n1,a.png,x\n1,b.png,y\n", "all captions of an image into one row"),
    "differ.csv": ("image,caption,label\na.png,x,cat\na.png,y,dog\n", "label is 'dog', but .* has 'cat'"),
    "same.csv": ("image,caption,caption\na.png,x,y\n", "column 'caption' .* is there twice"),
    "same.jsonl": ('{"image": "a.png", "caption": "x", "caption": "y"}', "the name 'caption' is there twice"),
    "wide.csv": ("image,caption\na.png,x\n".encode("utf-16"), "is UTF-16, not UTF-8"),
    "cr.csv": ("image,caption\ra.png,x\r", "CR alone"),
    "semicolon.csv": ("image;caption\na.png;x;y\n", "parted by semicolons"),
    "url.csv": ("image,caption\nhttps://x.org/a.png,x\n", "fetch them with img2dataset"),
    "blank.csv": ("image,caption\na.png,\nb.png, \n", "first problem: a.png: no caption"),
    "noid.csv": ("id,image,caption\n,a.png,x\n", "line 2: the id is empty"),
    "split.csv": (
        "image,caption,split\na.png,x,trian\n",
        r"line 2: unknown split 'trian'\. Did you mean 'train'",
    ),
    "cut.jsonl": ('{"image": "a.png", "caption": "x"}\n{"image": "b', "line 2 cannot be read as JSON"),
    "list.jsonl": ('{"image": "a.png", "caption": "x"}\n["b.png"]\n', "line 2 is not a JSON object"),
    "deep.jsonl": ("[" * 100_000, "line 1 cannot be read as JSON"),
    "latin.jsonl": (b'{"image": "caf\xe9"}', "not UTF-8"),
    "number.jsonl": ('{"image": 5, "caption": "x"}', "line 1: image is int, not a path"),
    "float.jsonl": ('{"id": 1.5, "image": "a.png", "caption": "x"}', "line 1: id is 1.5, a float"),
    "lang.jsonl": (
        '{"image": "a.png", "captions": ["x", "y"], "lang": ["en"]}',
        "line 1: 1 languages for 2 captions",
    ),
    "half.jsonl": ('{"image": "a.png", "caption": "\\ud800"}', "the caption is not valid Unicode"),
    "junk.parquet": (b"PAR1 but not really PAR1", "cannot be read as Parquet"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables_are_named(tmp_path: Path, name: str) -> None:
    content, message = BAD_TABLES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if name == "zero.csv":  # a NUL is a character like another since Python 3.11
        assert captions(read_pairs(tmp_path / name)) == {"a.png#0": "x\0"}
        return
    with pytest.raises(InputError, match=message) as raised:
        read_pairs(tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)


BAD_PARQUET = {
    "truncated": (None, "cannot be read as Parquet"),
    "empty": ({"image": pa.array([], pa.string()), "caption": pa.array([], pa.string())}, "it is empty"),
    "numbers": ({"image": [1.5], "caption": ["x"]}, "column `image` holds double; it must hold paths or"),
    "caption": ({"image": ["a.png"], "words": ["x"]}, "no column `caption` or `captions`"),
    "float captions": ({"image": ["a.png"], "caption": [float("nan")]}, "the caption is float, not text"),
    "bytes captions": ({"image": ["a.png"], "caption": [b"\xe9"]}, "the caption is bytes that are not UTF-8"),
    "float ids": ({"id": [1.5], "image": ["a.png"], "caption": ["x"]}, "row 0: id is 1.5, a float"),
    "latin-1": ({"image": ["a.png"], "caption": pa.array([b"caf\xe9"]).view(pa.string())}, "cannot be read as Parquet"),
    "null ids": ({"id": ["1", None], "image": ["a", "b"], "caption": ["x", "y"]}, "row 1: the id is empty"),
    "repeated": ({"id": [5, 5], "image": ["a", "b"], "caption": ["x", "y"]}, "row 1: the id '5' .* row 0"),
}


@pytest.mark.parametrize("name", BAD_PARQUET)
def test_bad_parquet_is_named(tmp_path: Path, name: str) -> None:
    columns, message = BAD_PARQUET[name]
    path = tmp_path / "bad.parquet"
    if columns is None:
        broken_parquet(path)
    else:
        parquet(path, columns)
    with pytest.raises(InputError, match=message) as raised:
        read_pairs(path)
    assert str(path) in str(raised.value)


def test_a_damaged_row_group_spoils_only_its_own_images(tmp_path: Path) -> None:
    columns = {"image": [os.urandom(5_000) for _ in range(4)], "caption": list("abcd")}
    path = parquet(tmp_path / "p.parquet", columns, row_group_size=2, compression="zstd", use_dictionary=False)
    offset = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(data)
    pairs = read_pairs(path)
    assert pairs.read_bytes(1) == columns["image"][1]
    with pytest.raises(BadImage, match="row group 1 cannot be read"):
        pairs.read_bytes(2)


def test_damaged_saved_datasets_are_named(tmp_path: Path) -> None:
    save_dataset(tmp_path / "set", [1])
    arrow = tmp_path / "set" / "data-00000-of-00001.arrow"
    arrow.write_bytes(b"not arrow at all")
    with pytest.raises(InputError, match=r"data-00000-of-00001\.arrow: cannot be read as an Arrow stream"):
        read_pairs(tmp_path / "set")
    arrow.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        read_pairs(tmp_path / "set")
    (tmp_path / "set" / "state.json").write_text("{}")
    with pytest.raises(InputError, match=r"state\.json"):
        read_pairs(tmp_path / "set")


def test_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no images .* nor tars"):
        read_pairs(tmp_path)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(min_size=1),
            st.lists(st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip), min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda row: row[0],
    )
)
def test_any_id_and_captions_come_back_as_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, list[str]]]
) -> None:
    path = tmp_path_factory.mktemp("round") / "t.parquet"
    parquet(
        path,
        {
            "id": [id for id, _ in rows],
            "image": ["a.png"] * len(rows),
            "captions": [texts for _, texts in rows],
        },
    )
    pairs = read_pairs(path)
    assert ids(pairs) == [id for id, _ in rows]
    expected = {f"{id}#{k}": text.strip() for id, texts in rows for k, text in enumerate(texts)}
    assert captions(pairs) == expected
