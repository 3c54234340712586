"""Small files that would become much: pictures, rows of Parquet, lines beside pictures. Each ends within bounds."""

from __future__ import annotations

import base64
import io
import struct
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import isthmus as ist
from bounded import cost
from isthmus.data import budget, pairs, parquet
from isthmus.data.budget import Budget
from isthmus.data.cells import written_list
from isthmus.data.images import BadImage, decode
from isthmus.data.pages import one_page
from isthmus.data.parquet import open_parquet, slices, spread_bytes
from isthmus.data.records import MAX_CAPTIONS, usable_captions
from isthmus.embedding import encode
from isthmus.embedding.encode import joined
from isthmus.encoders import from_callable
from isthmus.errors import InputError
from isthmus.store import open_store
from toys import pixel_encoder, word_encoder, write_pairs

SECONDS, MIB = 20, 600


def encoded(size: tuple[int, int], format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (10, 200, 30)).save(file, format, **options)
    return file.getvalue()


def test_a_budget_is_never_exceeded_and_all_get_through() -> None:
    held = Budget(100)
    most, done = 0, []
    lock = threading.Lock()

    def work(nbytes: int) -> None:
        nonlocal most
        with held.taking(nbytes):
            with lock:
                most = max(most, held.taken)
            time.sleep(0.002)
        done.append(nbytes)

    threads = [threading.Thread(target=work, args=(nbytes,)) for nbytes in [30, 60, 10**9, 5, 100] * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 40 and most <= 100 and held.taken == 0


def test_pictures_that_are_decoded_at_once_share_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget.PICTURES, "size", 2 * 12 * 500 * 500)
    most = 0
    load = Image.Image.load

    def watched(image: Image.Image, *arguments: Any, **options: Any) -> Image.Image:
        nonlocal most
        most = max(most, budget.PICTURES.taken)
        time.sleep(0.01)
        return load(image, *arguments, **options)

    monkeypatch.setattr(Image.Image, "load", watched)
    data = encoded((500, 500))
    threads = [threading.Thread(target=decode, args=(data,)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 < most <= 2 * 12 * 500 * 500 and budget.PICTURES.taken == 0


def test_a_jpeg_of_thousands_of_scans_is_refused_at_once() -> None:
    """Each scan makes the decoder go over the whole picture again; here they are only begun."""
    data = encoded((2000, 2000), "JPEG", progressive=True)
    assert decode(data).size == (2000, 2000)
    start = data.index(b"\xff\xda")
    scan = data[start : data.index(b"\xff\xda", start + 2)]
    spent = cost(lambda: decode(data[:start] + scan * 1000 + data[start:]))
    assert "scans of 2000 × 2000 pixels" in spent.error and spent.seconds < 3


def test_the_scans_of_a_picture_of_several_frames_count(tmp_path: Path) -> None:
    """Pillow takes a JPEG with further frames behind it for a format of its own."""
    file = io.BytesIO()
    frame = Image.new("RGB", (2000, 2000))
    frame.save(file, "MPO", save_all=True, append_images=[frame], progressive=True)
    data = file.getvalue()
    assert Image.open(io.BytesIO(data)).format == "MPO" and decode(data).size == (2000, 2000)
    start = data.index(b"\xff\xda")
    scan = data[start : data.index(b"\xff\xda", start + 2)]
    spent = cost(lambda: decode(data[:start] + scan * 1000 + data[start:]))
    assert "scans of 2000 × 2000 pixels" in spent.error and spent.seconds < 3


def test_a_page_is_refused_on_its_header() -> None:
    file = io.BytesIO()
    Image.new("1", (8_000, 8_000)).save(file, "TIFF", compression="group4")
    assert len(file.getvalue()) < 100_000
    spent = cost(lambda: one_page(file.getvalue(), 0, 50_000_000))
    assert "8000 × 8000 pixels are more than 50,000,000" in spent.error and spent.mib < 7
    assert decode(one_page(file.getvalue(), 0)).size == (8_000, 8_000)


def test_a_tiff_of_one_huge_tile_is_refused() -> None:
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 60_000, 323: 60_000, 324: 200, 325: 16}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    spent = cost(lambda: decode(head.ljust(200, b"\0") + zlib.compress(bytes(256))))
    assert "tiles of 60,000 × 60,000" in spent.error and spent.mib < 50


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1), (201, 1)])
def test_a_picture_like_a_thread_is_listed(tmp_path: Path, size: tuple[int, int]) -> None:
    table = write_pairs(tmp_path / "data", copies=1)
    name = next((tmp_path / "data").rglob("*.png"))
    name.write_bytes(encoded(size))
    done = ist.embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "store")
    (skipped,) = done.skipped.to_pylist()
    assert "200 times the other" in skipped["reason"]


@pytest.mark.parametrize("error", [MemoryError(), ValueError("odd"), ZeroDivisionError("by nothing")])
def test_an_image_that_cannot_be_preprocessed_is_listed_and_the_others_are_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    table = write_pairs(tmp_path / "data", copies=2)
    name = sorted((tmp_path / "data").rglob("*.png"))[3]
    name.write_bytes(encoded((77, 55)))
    encoder, preprocess = pixel_encoder(), type(pixel_encoder()).preprocess

    def choosy(self: Any, items: Any) -> Any:
        if any(getattr(item, "size", None) == (77, 55) for item in items):
            raise error
        return preprocess(self, items)

    monkeypatch.setattr(type(encoder), "preprocess", choosy)
    done = ist.embed(table, encoder, word_encoder(), out=tmp_path / "store")
    (skipped,) = done.skipped.to_pylist()
    assert skipped["reason"].startswith("cannot be preprocessed: ")
    assert len(open_store(tmp_path / "store")) == len(ist.read_pairs(table).images) - 1


def test_running_out_of_memory_while_decoding_lists_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_pairs(tmp_path / "data", copies=1)
    real, calls = pairs.decode, []

    def scarce(data: bytes, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise MemoryError
        return real(data, **options)

    monkeypatch.setattr(pairs, "decode", scarce)
    done = ist.embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "store")
    assert done.skipped["reason"].to_pylist() == ["it takes more memory than there is."]


def test_large_pictures_go_through_in_small_parts_to_the_same_features(tmp_path: Path, monkeypatch) -> None:
    table = write_pairs(tmp_path / "data", copies=2)
    ist.embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "whole")
    most: list[int] = []
    fn = pixel_encoder()._fn

    monkeypatch.setattr(encode, "BATCH_BYTES", 1)
    prepare = encode._prepared

    def watched(network: Any, unit: Any, chosen: list[int], *rest: Any) -> Any:
        most.append(len(chosen))
        return prepare(network, unit, chosen, *rest)

    monkeypatch.setattr(encode, "_prepared", watched)
    again = from_callable(fn, "image", "pixels-1", name="pixels", width=108)
    ist.embed(table, again, word_encoder(), out=tmp_path / "parts")
    both = [open_store(tmp_path / name).features("image") for name in ("whole", "parts")]
    assert np.array_equal(*(one.gather(range(len(one))) for one in both))
    assert 1 in most


def test_parts_of_one_shape_are_joined_and_others_not() -> None:
    import torch

    ones, twos = torch.ones(2, 3), 2 * torch.ones(1, 3)
    parts = [([0, 1], {"x": ones}), ([2], {"x": twos}), ([3], {"x": torch.ones(1, 4)}), ([4], {"y": ones})]
    found = joined(parts)
    assert [chosen for chosen, _ in found] == [[0, 1, 2], [3], [4]]
    assert torch.equal(found[0][1]["x"], torch.cat([ones, twos]))


# --- Parquet ----------------------------------------------------------------------------------------------------------


def written(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "t.parquet", compression="zstd", store_schema=False)
    return folder / "t.parquet"


@pytest.mark.parametrize("kind", ["bytes", "struct"])
def test_one_image_a_thousand_times_over_is_in_memory_once(tmp_path: Path, kind: str) -> None:
    """5 kB that plain reading makes gigabytes of."""
    picture = encoded((64, 64)) + bytes(900_000)
    index = pa.array(np.zeros(2000, np.int32))
    column: Any = pa.DictionaryArray.from_arrays(index, pa.array([picture], pa.binary()))
    if kind == "struct":
        column = pa.StructArray.from_arrays([column, pa.nulls(2000, pa.string())], ["bytes", "path"])
    path = written(tmp_path, image=column, caption=pa.array(["a"] * 2000))

    def read() -> None:
        read = ist.read_pairs(path)
        assert read.read_bytes(1999) == picture and len(read.images) == 2000

    spent = cost(read)
    assert not spent.error and spent.mib < MIB and spent.seconds < SECONDS, spent


def test_a_row_group_that_becomes_too_much_is_a_bad_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [encoded((8, 8)) + bytes([i]) * 50_000 for i in range(40)]
    path = written(tmp_path, image=pa.array(pictures, pa.binary()), caption=pa.array(["a"] * 40))
    assert ist.read_pairs(path).read_bytes(3) == pictures[3]
    monkeypatch.setattr(parquet, "GROUP_BYTES", 10**6)
    with pytest.raises(BadImage, match="becomes more than 1,000,000 bytes"):
        ist.read_pairs(path).read_bytes(3)


@pytest.mark.parametrize("dictionary", [True, False])
def test_lists_of_one_caption_are_read_in_slices(tmp_path: Path, dictionary: bool) -> None:
    """52 kB that plain reading makes gigabytes of."""
    text = "word " * 1000
    captions = pa.array([[text] * 500] * 200)
    table = pa.table({"image": ["a.png"] * 200, "id": [str(i) for i in range(200)], "captions": captions})
    path = tmp_path / "t.parquet"
    pq.write_table(table, path, compression="zstd", use_dictionary=dictionary)
    del table, captions

    def read() -> None:
        for part in slices(path, ["captions"], 1024):
            assert spread_bytes(part) <= parquet.SLICE_BYTES
            part.to_pylist()

    spent = cost(read)
    assert not spent.error and spent.mib < 3 * MIB, spent


@pytest.mark.parametrize("column", ["caption", "captions", "label"])
def test_equal_texts_over_and_over_are_refused_before_they_fill_the_memory(tmp_path: Path, column: str) -> None:
    """Some kB whose texts would be gigabytes, each by itself."""
    index = pa.array(np.zeros(1_000_000, np.int32))
    cells: Any = pa.DictionaryArray.from_arrays(index, pa.array(["word " * 800]))
    if column == "captions":
        cells = pa.ListArray.from_arrays(np.arange(0, 1_000_001, 100, dtype=np.int32), cells)
    count = len(cells)
    pictures = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([encoded((8, 8))]))
    path = written(tmp_path, image=pictures, **({"caption": ["a"] * count} | {column: cells}))
    spent = cost(lambda: ist.read_pairs(path))
    assert "equal texts, repeated" in spent.error and spent.mib < 3 * MIB, spent


def test_pictures_as_text_stay_in_the_file(tmp_path: Path) -> None:
    """In base64, and one a hundred thousand times over."""
    picture = encoded((64, 64))
    text = base64.b64encode(picture + bytes(30_000)).decode()
    index = pa.array(np.zeros(100_000, np.int32))
    cells = pa.DictionaryArray.from_arrays(index, pa.array([text]))
    path = written(tmp_path, image=cells, caption=pa.array(["a"] * 100_000))

    def read() -> None:
        found = ist.read_pairs(path)
        assert found.decode(99_999).size == (64, 64) and len(found) == 100_000

    spent = cost(read)
    assert not spent.error and spent.mib < MIB and spent.seconds < SECONDS, spent


def test_slices_are_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": str(i), "captions": [f"{i} {j}" for j in range(i % 5)]} for i in range(300)]
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=70)
    for size in (2**28, 5000, 700):
        monkeypatch.setattr(parquet, "SLICE_BYTES", size)
        assert [row for part in slices(path, ["id", "captions"], 64) for row in part.to_pylist()] == rows


def test_a_row_that_holds_too_much_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": str(i), "captions": ["x" * 50] * (900 if i == 7 else 1)} for i in range(20)]
    path = tmp_path / "t.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    monkeypatch.setattr(parquet, "SLICE_BYTES", 50_000)
    with pytest.raises(InputError, match="row 7 holds"):
        list(slices(path, ["id", "captions"], 64))


def test_millions_of_empty_rows_are_refused(tmp_path: Path) -> None:
    count = 30_000_000
    path = written(tmp_path, image=pa.nulls(count, pa.string()), caption=pa.nulls(count, pa.string()))
    assert path.stat().st_size < 200_000
    spent = cost(lambda: ist.read_pairs(path))
    assert "30,000,000 rows in" in spent.error and spent.mib < 100 and spent.seconds < SECONDS


def test_an_ordinary_table_is_read_whatever_its_rows(tmp_path: Path) -> None:
    path = written(tmp_path, id=pa.array(range(200_000)))
    assert open_parquet(path).metadata.num_rows == 200_000


def test_a_sidecar_of_absurd_size_is_listed_unread(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded((8, 8)))
    (tmp_path / "b.png").write_bytes(encoded((8, 8)))
    with open(tmp_path / "a.txt", "wb") as file:
        file.truncate(2**30)
    (tmp_path / "b.txt").write_text("one")
    read = ist.read_pairs(tmp_path)
    assert read.images["id"].to_pylist() == ["b.png"] and "more than 16,777,216 bytes" in str(read.skipped)
    assert cost(lambda: ist.read_pairs(tmp_path)).mib < 100


def test_a_list_that_is_almost_one_takes_no_time() -> None:
    for text in ("['a'" + " " * 90_000 + "x]", "['a'" + " 'a'" * 20_000 + "x]", "['" + "\\a" * 40_000 + "]"):
        start = time.perf_counter()
        assert written_list(text) is None
        assert time.perf_counter() - start < 2
    assert written_list("['a'   ,  'b'  , ]") == ["a", "b"]


@pytest.mark.parametrize("depth", [500, 900, 200_000])
def test_captions_in_deep_lists_are_listed(tmp_path: Path, depth: int) -> None:
    deep = "[" * depth + '"x"' + "]" * depth
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(encoded((8, 8)))
    (tmp_path / "a.json").write_text(f'{{"captions": {deep}}}')
    (tmp_path / "b.json").write_text('{"captions": [["one"], [["two"]]]}')
    read = ist.read_pairs(tmp_path)
    assert read.captions["caption"].to_pylist() == ["one", "two"] and read.skipped[0][0] == "a.png"
    (tmp_path / "t.jsonl").write_text(f'{{"image": "a.png", "captions": {deep}}}\n')
    with pytest.raises(InputError, match=r"is list, not text|cannot be read as JSON"):
        ist.read_pairs(tmp_path / "t.jsonl")


def test_a_text_of_millions_of_lines_is_no_list_of_captions(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded((8, 8)))
    (tmp_path / "b.png").write_bytes(encoded((8, 8)))
    (tmp_path / "a.txt").write_text("x\n" * 3_000_000)
    (tmp_path / "b.txt").write_text("one\ntwo")
    found: list[Any] = []
    spent = cost(lambda: found.append(ist.read_pairs(tmp_path)))
    assert not spent.error and spent.seconds < 10 and spent.mib < 200
    read = ist.read_pairs(tmp_path)
    assert len(read.captions) == 2 and f"more than the {MAX_CAPTIONS:,} captions" in str(read.skipped)
    assert usable_captions({"captions": ["a"] * (MAX_CAPTIONS + 1)})[0] == []
