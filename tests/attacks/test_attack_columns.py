"""Files of columns, by every door: read in slices, within the means of the file; what is damaged is listed."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

import isthmus as ist
from bounded import cost
from isthmus.curation.sources import open_pool
from isthmus.data import arrow, parquet
from isthmus.data.arrow import ArrowTable
from isthmus.data.parquet import ParquetTable, read_columns, spread_bytes
from isthmus.errors import InputError
from isthmus.files import file_digest, read_sealed, write_sealed
from isthmus.segmentation.data import read_masked_images
from isthmus.store.clip_retrieval import import_clip_retrieval
from isthmus.store.joining import read_ids
from toys import picture, pixel_encoder, png, word_encoder, write_pairs

MIB = 900
ROWS = 1_000_000
TOLD = "equal texts, repeated|rows hold|row 0 holds"


def write_file(table: pa.Table, path: Path, packing: str | None = None, rows: int = 100) -> Path:
    with (
        pa.OSFile(str(path), "wb") as out,
        pa.ipc.new_file(out, table.schema, options=pa.ipc.IpcWriteOptions(compression=packing)) as file,
    ):
        file.write_table(table, max_chunksize=rows)
    return path


def write_stream(table: pa.Table, path: Path, packing: str | None = None, rows: int = 100) -> Path:
    with (
        pa.OSFile(str(path), "wb") as out,
        pa.ipc.new_stream(out, table.schema, options=pa.ipc.IpcWriteOptions(compression=packing)) as file,
    ):
        file.write_table(table, max_chunksize=rows)
    return path


def write_feather(table: pa.Table, path: Path, packing: str | None = None, rows: int = 100) -> Path:
    feather.write_feather(table, str(path), compression=packing or "uncompressed", chunksize=rows)
    return path


WRITERS: dict[str, Callable[..., Path]] = {"file": write_file, "stream": write_stream, "feather": write_feather}


def pairs_table(kind: str) -> pa.Table:
    pictures: Any = [png(picture("red", "pale", "top", number)) for number in range(250)]
    if kind == "struct":
        pictures = [{"bytes": one, "path": None} for one in pictures]
    if kind == "dictionary":
        pictures = pa.array(pictures[:7] * 40)[:250].dictionary_encode()
    captions = pa.array([f"caption {number // 2}" for number in range(250)]).dictionary_encode()
    return pa.table({"image": pictures, "caption": captions, "label": [str(n % 3) for n in range(250)]})


@pytest.mark.parametrize("kind", ["bytes", "struct", "dictionary"])
@pytest.mark.parametrize("packing", [None, "lz4", "zstd"])
@pytest.mark.parametrize("writer", WRITERS)
def test_arrow_is_read_as_parquet_is(tmp_path: Path, writer: str, packing: str | None, kind: str) -> None:
    table = pairs_table(kind)
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=100)
    read = ist.read_pairs(WRITERS[writer](table, tmp_path / "t.arrow", packing))
    same = ist.read_pairs(tmp_path / "t.parquet")
    assert read.images.equals(same.images) and read.captions.equals(same.captions)
    for row in (249, 0, 100, 99, 17, 249):
        assert read.read_bytes(row) == same.read_bytes(row) == table["image"][row].as_py() or kind == "struct"
    assert len(read.reader.kept) <= 3  # type: ignore[attr-defined]


def test_slices_of_arrow_are_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": str(i), "captions": [f"{i} {j}" for j in range(i % 5)]} for i in range(300)]
    table = pa.Table.from_pylist(rows)
    for packing in (None, "zstd"):
        for write in WRITERS.values():
            path = write(table, tmp_path / "t.arrow", packing, rows=70)
            for size in (2**28, 5000, 700):
                monkeypatch.setattr(parquet, "SLICE_BYTES", size)
                parts = ArrowTable(path).slices(["captions", "id"], 64)
                assert [row for part in parts for row in part.to_pylist()] == rows
    read = [row for part in ArrowTable(path).slices(["captions"]) for row in part.to_pylist()]
    assert read[7] == {"captions": ["7 0", "7 1"]}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_batch_that_unpacks_to_much_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    table = pa.table({"image": [bytes(3_000_000)] * 50, "caption": ["a"] * 50})
    path = WRITERS[writer](table, tmp_path / "t.arrow", "zstd")
    del table
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(arrow, "GROUP_BYTES", 10**8)
    spent = cost(lambda: ist.read_pairs(path))
    assert "becomes 150,0" in spent.error and spent.mib < 60, spent


def test_dictionaries_that_unpack_to_much_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = pa.array([bytes([n]) * 3_000_000 for n in range(50)]).dictionary_encode()
    path = write_stream(pa.table({"image": pictures, "caption": ["a"] * 50}), tmp_path / "t.arrow", "zstd")
    del pictures
    monkeypatch.setattr(arrow, "GROUP_BYTES", 10**8)
    spent = cost(lambda: ist.read_pairs(path))
    assert "its dictionaries become 150,0" in spent.error and spent.mib < 60, spent


def test_millions_of_empty_rows_of_arrow_are_refused(tmp_path: Path) -> None:
    nothing = pa.table({"image": pa.nulls(30_000_000), "caption": pa.nulls(30_000_000)})
    for write in WRITERS.values():
        path = write(nothing, tmp_path / "t.arrow", rows=30_000_000)
        spent = cost(lambda path=path: ist.read_pairs(path))  # type: ignore[misc]
        assert "30,000,000 rows in" in spent.error and spent.mib < 60, spent


TEXT = "word " * 800


def repeated(kind: str) -> pa.Array:
    """A million times one text, in every way in which Arrow holds it once."""
    index = np.zeros(ROWS, np.int32)
    if kind == "dictionary":
        return pa.DictionaryArray.from_arrays(pa.array(index), pa.array([TEXT]))
    if kind == "runs":
        return pa.RunEndEncodedArray.from_arrays(pa.array([ROWS], pa.int32()), pa.array([TEXT]))
    if kind == "view":
        views = np.tile(np.frombuffer(pa.array([TEXT], pa.string_view()).buffers()[1], np.uint8), ROWS)
        buffers = [None, pa.py_buffer(views.tobytes()), pa.py_buffer(TEXT.encode())]
        return pa.Array.from_buffers(pa.string_view(), ROWS, buffers)
    if kind == "list of nulls":
        return pa.ListArray.from_arrays(pa.array([0, *[10**9] * ROWS], pa.int32()), pa.nulls(10**9))
    values, offsets = pa.array([TEXT] * 10), pa.array(index)
    return pa.ListViewArray.from_arrays(offsets, pa.array(index + 10), values)  # "list view"


@pytest.mark.parametrize("kind", ["dictionary", "runs", "view", "list of nulls", "list view"])
def test_what_arrow_holds_once_is_measured_for_each(tmp_path: Path, kind: str) -> None:
    table = pa.table({"image": pa.array(["a.png"] * ROWS).dictionary_encode(), "caption": repeated(kind)})
    path = write_stream(table, tmp_path / "t.arrow", "zstd", rows=ROWS)
    del table
    spent = cost(lambda: ist.read_pairs(path))
    assert "equal texts, repeated" in spent.error or "row 0 holds" in spent.error, spent
    assert spent.mib < MIB and spent.seconds < 60, spent


def test_spread_bytes_are_those_of_each_value() -> None:
    texts = ["a", "bb", "bb", "", "ccc"]
    plain, runs = spread_bytes(pa.array(texts)), pa.array([2, 4, 5, 6, 7], pa.int32())
    assert plain == 64 * 5 + 8
    for same in (
        pa.array(texts).dictionary_encode(),
        pa.array(texts, pa.string_view()),
        pa.array(texts, pa.large_string()),
        pa.RunEndEncodedArray.from_arrays(pa.array([1, 3, 4, 5], pa.int32()), pa.array(["a", "bb", "", "ccc"])),
        pa.array(["x", *texts, "y"], pa.string_view()).slice(1, 5),
        pa.array(["x", *texts, "y"]).dictionary_encode().slice(1, 5),
        pa.RunEndEncodedArray.from_arrays(runs, pa.array(["a", "bb", "", "ccc", "y"])).slice(1, 5),
    ):
        assert spread_bytes(same) == plain, same.type
    nested = spread_bytes(pa.array([["a", "bb"], ["bb"], [], ["", "ccc"]]))
    assert nested == 64 * 4 + plain
    view = pa.ListViewArray.from_arrays(
        pa.array([0, 2, 2, 3], pa.int32()), pa.array([2, 1, 0, 2], pa.int32()), pa.array(texts)
    )
    assert spread_bytes(view) == nested
    assert spread_bytes(pa.array([None, "a", None]).dictionary_encode()) == 64 * 3 + 1
    assert spread_bytes(pa.array([[("k", "vv")], []], pa.map_(pa.string(), pa.string())).slice(0, 1)) == 64 + 64 * 2 + 3
    assert spread_bytes(pa.nulls(9)) == spread_bytes(pa.array(range(9))) == 64 * 9


# --- the other doors --------------------------------------------------------------------------------------------------


def bomb(**columns: Any) -> pa.Table:
    """Some kB whose texts would be gigabytes."""
    return pa.table({name: repeated("dictionary") if cells is None else cells for name, cells in columns.items()})


def numbered() -> pa.Array:
    return pa.array(range(ROWS)).cast(pa.string())


def test_ids_are_read_within_the_means_of_their_file(tmp_path: Path) -> None:
    pq.write_table(bomb(id=None), tmp_path / "ids.parquet", store_schema=False)
    spent = cost(lambda: read_ids(tmp_path / "ids.parquet"))
    assert "equal texts, repeated" in spent.error and spent.mib < MIB, spent


def test_a_store_s_tables_are_read_within_the_means_of_their_files(tmp_path: Path) -> None:
    store = tmp_path / "store"
    ist.embed(write_pairs(tmp_path / "data", copies=1), pixel_encoder(), word_encoder(), out=store)
    hashes = pa.array(["0" * 32] * ROWS).dictionary_encode()
    pq.write_table(bomb(id=numbered(), content_hash=hashes, label=None), store / "images.parquet", compression="zstd")
    told = read_sealed(store / "store.json")
    told["tables"]["images"] = {"rows": ROWS, "digest": file_digest(store / "images.parquet")}
    write_sealed(store / "store.json", told)
    spent = cost(lambda: ist.open_store(store))
    assert "equal texts, repeated" in spent.error and spent.mib < 2 * MIB, spent


def clip_retrieval_folder(folder: Path, table: pa.Table) -> Path:
    for name in ("metadata", "text_emb"):
        (folder / name).mkdir(parents=True)
    pq.write_table(table, folder / "metadata" / "metadata_0.parquet", compression="zstd")
    np.save(folder / "text_emb" / "text_emb_0.npy", np.ones((len(table), 2), np.float16))
    return folder


def test_clip_retrieval_is_read_within_the_means_of_its_files(tmp_path: Path) -> None:
    folder = clip_retrieval_folder(tmp_path / "laion", bomb(image_path=numbered(), caption=None))
    spent = cost(lambda: import_clip_retrieval(folder, tmp_path / "store"))
    assert "equal texts, repeated" in spent.error and spent.mib < 2 * MIB, spent
    spent = cost(lambda: open_pool(folder).captions(np.arange(ROWS)))
    assert "rows hold" in spent.error and spent.mib < MIB, spent
    pool = open_pool(folder)
    assert pool.captions(np.array([7, ROWS - 1])) == [TEXT.strip() and TEXT] * 2
    assert pool.ids(np.array([7])) == ["7"]


def test_masks_stay_in_their_file(tmp_path: Path) -> None:
    mask = png(picture("red", "pale", "top").convert("L")) + bytes(900_000)
    masks = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2000, np.int32)), pa.array([mask]))
    table = pa.table({"image": [f"{n}.png" for n in range(2000)], "mask": masks})
    pq.write_table(table, tmp_path / "t.parquet", store_schema=False)
    write_feather(table, tmp_path / "t.feather", "zstd", rows=2000)
    del masks, table
    for name in ("t.parquet", "t.feather"):

        def read(name: str = name) -> None:
            found = read_masked_images(tmp_path / name, [str(n) for n in range(255)])
            assert found.masks[1999][1]() == mask

        spent = cost(read)
        assert not spent.error and spent.mib < MIB, spent


def test_columns_are_read_whole_as_they_are_written(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b", None], "n": [1, 2, 3], "long": pa.array(["x", "y", "x"], pa.large_string())})
    pq.write_table(table, tmp_path / "t.parquet")
    assert read_columns(tmp_path / "t.parquet").equals(table)
    assert read_columns(tmp_path / "t.parquet", ["n", "other"]).equals(table.select(["n"]))
    pq.write_table(table.slice(0, 0), tmp_path / "t.parquet")
    assert read_columns(tmp_path / "t.parquet").num_rows == 0 and len(ParquetTable(tmp_path / "t.parquet")) == 0


# --- damage -----------------------------------------------------------------------------------------------------------


def saved_dataset(folder: Path, shards: int = 3, rows: int = 10) -> Path:
    folder.mkdir()
    for shard in range(shards):
        pictures = [{"bytes": png(picture("red", "pale", "top", rows * shard + n)), "path": None} for n in range(rows)]
        captions = [f"caption {rows * shard + n}" for n in range(rows)]
        write_stream(pa.table({"image": pictures, "caption": captions}), folder / f"data-{shard}.arrow")
    files = [{"filename": f"data-{shard}.arrow"} for shard in range(shards)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))
    return folder


def test_a_damaged_shard_of_a_saved_dataset_is_listed_and_shifts_no_caption(tmp_path: Path) -> None:
    folder = saved_dataset(tmp_path / "set")
    whole = ist.read_pairs(folder)
    (folder / "data-1.arrow").write_bytes((folder / "data-1.arrow").read_bytes()[:200])
    (folder / "data-0.arrow").unlink()
    read = ist.read_pairs(folder)
    assert [name for name, _ in read.skipped] == ["data-0.arrow", "data-1.arrow"]
    assert read.captions["caption"].to_pylist() == whole.captions["caption"].to_pylist()[20:]
    assert [read.read_bytes(row) for row in range(10)] == [whole.read_bytes(row) for row in range(20, 30)]
    (folder / "data-2.arrow").write_bytes(b"ARROW1")
    with pytest.raises(InputError, match="nothing in it can be used"):
        ist.read_pairs(folder)


def test_no_byte_of_an_arrow_file_ends_the_process(tmp_path: Path) -> None:
    """Whatever is flipped: pairs, or a message."""
    table = pairs_table("dictionary").slice(0, 120)
    rng = np.random.default_rng(0)
    for number, (name, write) in enumerate([*WRITERS.items()] * 2):
        packing = "zstd" if number % 2 else None
        whole = write(table, tmp_path / "t.arrow", packing).read_bytes()
        told = [int(one) for one in rng.integers(0, len(whole), 12)] + [
            len(whole) - int(one) for one in range(1, 40, 4)
        ]

        def tried(at: int, whole: bytes = whole) -> None:
            (tmp_path / "d.arrow").write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
            read = ist.read_pairs(tmp_path / "d.arrow", captions="optional")
            for row in range(0, len(read), 50):
                with suppress(InputError):
                    read.read_bytes(row)

        for at in told:
            spent = cost(lambda at=at, tried=tried: tried(at))  # type: ignore[misc]
            assert spent.mib < MIB and spent.seconds < 20, (name, at)


def test_of_several_arrow_files_a_damaged_one_keeps_what_comes_before_the_damage(tmp_path: Path) -> None:
    pictures = [png(picture("red", "pale", "top", number)) for number in range(30)]
    for name, rows in {"a": range(0, 10), "b": range(10, 20), "c": range(20, 30)}.items():
        images = pa.array([pictures[row] for row in rows])
        captions = pa.array([f"caption {row}" for row in rows]).dictionary_encode()
        ids = [str(row) for row in rows]
        write_stream(pa.table({"image": images, "caption": captions, "id": ids}), tmp_path / f"{name}.arrow", rows=5)
    whole = (tmp_path / "b.arrow").read_bytes()
    at = whole.rindex(np.arange(5, 10, dtype=np.int32).tobytes())  # numbers in the dictionary, of the second batch
    (tmp_path / "b.arrow").write_bytes(whole[:at] + b"\x7f" * 20 + whole[at + 20 :])
    read = ist.read_pairs(f"{tmp_path}/*.arrow")
    assert read.images["id"].to_pylist() == [str(row) for row in (*range(15), *range(20, 30))]
    assert [name for name, _ in read.skipped] == ["b.arrow"]
    for row, id in enumerate(read.images["id"].to_pylist()):
        assert read.read_bytes(row) == pictures[int(id)]
        assert read.captions["caption"][row].as_py() == f"caption {id}"
