"""Every kind of pool: ids as written, captions, features by row, and errors that name the file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import isthmus as ist
from isthmus.cli import main
from isthmus.curation.cleaning import Cleaning
from isthmus.curation.encoding import Encoding, load_encoding
from isthmus.curation.metadata import ids_as_text
from isthmus.curation.pools import Pool, side_names
from isthmus.curation.prototypes import Prototypes
from isthmus.curation.sources import open_pool
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.errors import InputError, UsageError
from isthmus.store.clip_retrieval import export_clip_retrieval
from toys import pixel_encoder, word_encoder, write_pairs


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pools") / "data")


@pytest.fixture(scope="module")
def store(table: Path) -> Path:
    out = table.parent.parent / "store"
    ist.embed(table, pixel_encoder(), word_encoder(), out=out)
    return out


@pytest.fixture(scope="module")
def encoding() -> Encoding:
    return load_encoding([word_encoder(), pixel_encoder()])


def embeddings(folder: Path, sizes: tuple[int, ...] = (5, 3), first_id: int = 2**53 + 1) -> Path:
    """clip-retrieval's layout with int64 paths; 2⁵³ + 1 is the first whole number that a float64 lacks."""
    rng, row = np.random.default_rng(0), 0
    for k, size in enumerate(sizes):
        for name in ("text_emb", "img_emb"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            np.save(folder / name / f"{name}_{k}.npy", rng.standard_normal((size, 6)).astype(np.float16))
        (folder / "metadata").mkdir(exist_ok=True)
        ids = pa.array(range(first_id + row, first_id + row + size), pa.int64())
        captions = [f"caption {row + i}" for i in range(size)]
        pq.write_table(
            pa.table({"image_path": ids, "caption": captions}), folder / "metadata" / f"metadata_{k}.parquet"
        )
        row += size
    return folder


def test_a_store_and_its_pairs_and_its_export_are_the_same_pool(
    store: Path, table: Path, encoding: Encoding, tmp_path: Path
) -> None:
    export_clip_retrieval(store, tmp_path / "export", normalize=False)
    pools: list[Pool] = [
        open_pool(store),
        open_pool(ist.open_store(store).pairs()),
        open_pool(table, encoding),
        open_pool(tmp_path / "export"),
    ]
    rows = np.array([3, 100, 17])
    for pool in pools:
        assert len(pool) == 192 and set(pool.widths) == {"caption", "image"}
        assert pool.ids(rows) == pools[0].ids(rows) and pool.captions(rows) == pools[0].captions(rows)
        for side in ("caption", "image"):
            expected = pools[0].features(side, 10, 40)
            assert np.allclose(pool.features(side, 10, 40), expected, atol=2e-3, rtol=2e-3)
            assert np.isfinite(expected).all()


def test_images_of_the_test_split_have_no_features(store: Path) -> None:
    pool = open_pool(store)
    split = dict(zip(*(ist.open_store(store).images[name].to_pylist() for name in ("id", "split")), strict=True))
    missing = np.isnan(pool.features("caption", 0, len(pool))[:, 0])
    assert missing.any()
    assert missing.tolist() == [split[id] == "test" for id in pool.ids(np.arange(len(pool)))]


def test_the_captions_of_one_image_are_one_pair() -> None:
    pairs = FeaturePairs.from_arrays(np.eye(2), np.eye(3, 2) + 1, [1, 0, 1], ids=["a", "b"])
    pool = open_pool(pairs)
    assert pool.units(np.array([0, 1, 2])).tolist() == [1, 0, 1] and pool.ids(np.arange(3)) == ["b", "a", "b"]
    assert pool.features("image", 0, 3).tolist() == [[0, 1], [1, 0], [0, 1]]


def test_ids_beyond_float64_survive(tmp_path: Path) -> None:
    """freeze-align holds ids as float64."""
    pool = open_pool(embeddings(tmp_path))
    assert pool.ids(np.array([7, 0])) == ["9007199254741000", "9007199254740993"]
    assert ids_as_text(pa.chunked_array([[3.0, 12.0]]), "x") == ["3", "12"]
    with pytest.raises(InputError, match="ids are floats"):
        ids_as_text(pa.chunked_array([[2.0**53 + 2]]), "x")
    with pytest.raises(InputError, match="1 of the ids are null"):
        ids_as_text(pa.chunked_array([["a", None]]), "x")


def test_ranges_cross_files(tmp_path: Path) -> None:
    pool = open_pool(embeddings(tmp_path))
    whole = np.concatenate([np.load(path) for path in sorted((tmp_path / "text_emb").iterdir())])
    assert np.array_equal(pool.features("caption", 3, 7), whole[3:7].astype(np.float32))
    assert pool.captions(np.array([6, 4, 5])) == ["caption 6", "caption 4", "caption 5"]


def break_part(folder: Path, how: str) -> str:
    """Damage partition 1 of three; returns what the reason must name."""
    text, image = folder / "text_emb" / "text_emb_1.npy", folder / "img_emb" / "img_emb_1.npy"
    metadata = folder / "metadata" / "metadata_1.parquet"
    if how == "metadata":
        metadata.write_bytes(metadata.read_bytes()[:-20])
    elif how == "array":
        text.write_bytes(text.read_bytes()[:-2])
    elif how == "missing":
        image.unlink()
    elif how == "rows":
        np.save(image, np.ones((4, 6), np.float16))
        return r"img_emb_1\.npy: 4 rows, but metadata_1\.parquet has 3"
    elif how == "width":
        np.save(image, np.ones((3, 5), np.float16))
        return r"image embeddings are 5 wide, those of most 6"
    elif how == "column":
        pq.write_table(pa.table({"caption": ["a", "b", "c"]}), metadata)
        return "no column 'image_path'"
    elif how == "row group":
        whole = metadata.read_bytes()
        metadata.write_bytes(whole[:4] + b"\xff" * 60 + whole[64:])
        return "row group 0 cannot be read"
    return {"metadata": r"metadata_1\.parquet", "array": r"text_emb_1\.npy", "missing": r"img_emb_1\.npy"}[how]


PARTS = ["metadata", "array", "missing", "rows", "width", "column", "row group"]


@pytest.mark.parametrize("how", PARTS)
def test_a_broken_partition_is_left_out_and_listed(tmp_path: Path, how: str) -> None:
    folder = embeddings(tmp_path / "laion", (5, 3, 4), first_id=100)
    said = break_part(folder, how)
    found = ist.curate(folder, Prototypes(["x"], {"caption": np.ones((1, 6), np.float32)}, "x"), per_concept=99)
    assert sorted(found.ids) == [str(100 + row) for row in (0, 1, 2, 3, 4, 8, 9, 10, 11)]
    (skipped,) = found.manifest["skipped"]
    assert skipped[0] == "metadata_1.parquet" and re.search(said, skipped[1])
    captions = dict(zip(*(open_pool(folder).ids(np.array([0, 5])), ["caption 0", "caption 5"]), strict=True))
    assert captions["100"] == "caption 0"
    pool = open_pool(folder)
    last = len(pool) - 1
    assert (pool.ids(np.array([last])), pool.captions(np.array([last]))) == (["111"], ["caption 11"])
    whole = np.load(folder / "text_emb" / "text_emb_2.npy").astype(np.float32)
    assert np.array_equal(pool.features("caption", last - 3, last + 1), whole)
    cleaned = ist.curate(folder, cleaning=Cleaning(dedup=("embedding",), near=1.0))
    assert sorted(cleaned.ids) == sorted(found.ids)


@pytest.mark.parametrize("how", PARTS)
def test_a_broken_partition_ends_no_command(tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = embeddings(tmp_path / "laion", (5, 3, 4), first_id=100)
    break_part(folder, how)
    assert main(["import", str(folder), "--out", str(tmp_path / "store")]) == 3
    assert "skipped metadata_1.parquet: " in capsys.readouterr().err
    store = ist.open_store(tmp_path / "store")
    assert len(store) == 9 and store.skipped["id"].to_pylist() == ["metadata_1.parquet"]
    arguments = ["curate", str(folder), "--dedup", "embedding", "--near", "1", "--out", str(tmp_path / "out")]
    assert main(arguments) == 3
    told = capsys.readouterr()
    assert "9 pairs" in told.out and "skipped metadata_1.parquet: " in told.err


def test_where_no_partition_is_left_the_first_is_named(tmp_path: Path) -> None:
    folder = embeddings(tmp_path / "laion", (5,))
    np.save(folder / "img_emb" / "img_emb_0.npy", np.ones((4, 6), np.float16))
    with pytest.raises(InputError, match=r"img_emb_0\.npy: 4 rows, but .* 5"):
        open_pool(folder)


def test_arrays_without_metadata_are_listed(tmp_path: Path) -> None:
    folder = embeddings(tmp_path / "laion", (5, 3))
    (folder / "metadata" / "metadata_1.parquet").unlink()
    pool = open_pool(folder)
    assert len(pool) == 5
    assert {name for name, _ in pool.skipped} == {"text_emb_1.npy", "img_emb_1.npy"}  # type: ignore[attr-defined]


def test_a_damaged_row_group_of_metadata_spoils_its_own_rows_alone(tmp_path: Path, encoding: Encoding) -> None:
    rows = {"uid": [f"{n:04d}" for n in range(300)], "text": [f"a red square, take {n}" for n in range(300)]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet", row_group_size=100, use_dictionary=False)
    whole = bytearray((tmp_path / "a.parquet").read_bytes())
    told = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(1).column(1)
    whole[told.data_page_offset : told.data_page_offset + 60] = b"\xff" * 60
    (tmp_path / "a.parquet").write_bytes(whole)
    pool = open_pool(tmp_path / "a.parquet", encoding)
    read = np.isfinite(pool.features("caption", 0, 300)[:, 0])
    assert read[:100].all() and not read[100:200].any() and read[200:].all()
    assert pool.skipped[0][0] == "a.parquet" and pool.skipped[0][1].startswith("row group 1 cannot be read")  # type: ignore[attr-defined]
    found = ist.curate(tmp_path / "a.parquet", ["a red square"], encoder=word_encoder(), per_concept=999, floor=None)
    assert sorted(found.ids) == rows["uid"][:100] + rows["uid"][200:] and len(found.manifest["skipped"]) == 1


def test_laion_metadata_is_encoded_as_it_is_read(tmp_path: Path, encoding: Encoding) -> None:
    for part in range(2):
        ids = pa.array([2**53 + 1 + 3 * part + i for i in range(3)], pa.int64())
        texts = pa.array(["a red square", None if part else "", "a blue square"])
        pq.write_table(pa.table({"SAMPLE_ID": ids, "TEXT": texts}), tmp_path / f"part-{part}.parquet")
    pool = open_pool(tmp_path, encoding)
    assert len(pool) == 6 and list(pool.widths) == ["caption"]
    assert pool.ids(np.array([5, 0])) == [str(2**53 + 6), str(2**53 + 1)]
    features = pool.features("caption", 0, 6)
    assert np.isnan(features).all(axis=1).tolist() == [False, True, False] * 2
    assert np.array_equal(features[3], word_encoder().encode(["a red square"])[0])
    with pytest.raises(InputError, match="name a text encoder"):
        open_pool(tmp_path)
    path = tmp_path / "part-1.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    assert [name for name, _ in open_pool(tmp_path, encoding).skipped] == ["part-1.parquet"]


def test_of_img2dataset_only_what_was_downloaded_is_chosen(tmp_path: Path, encoding: Encoding) -> None:
    for shard in ("00000", "00001"):
        columns = {"key": [f"{shard}0000{i}" for i in range(2)], "caption": ["red", "blue"], "url": ["u", "v"]}
        pq.write_table(
            pa.table({**columns, "status": ["success", "failed_to_download"]}), tmp_path / f"{shard}.parquet"
        )
    pool = open_pool(tmp_path, encoding)
    assert np.isnan(pool.features("caption", 0, 4)[:, 0]).tolist() == [False, True, False, True]
    assert pool.ids(np.array([0, 3])) == [
        "00000/0000000000",
        "00001/0000100001",
    ]  # as read_pairs names its tars' members


def test_arrays_with_and_without_ids(tmp_path: Path) -> None:
    np.save(tmp_path / "text.npy", np.eye(4, dtype=np.float32))
    assert open_pool(tmp_path).ids(np.array([3, 0])) == ["3", "0"]
    (tmp_path / "ids.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "captions.txt").write_text("1\n2\n3\n")
    with pytest.raises(InputError, match="3 captions for 4 rows"):
        open_pool(tmp_path)


def test_sides_are_words_and_must_be_there(tmp_path: Path) -> None:
    np.save(tmp_path / "text.npy", np.eye(4, dtype=np.float32))
    pool = open_pool(tmp_path)
    assert side_names(pool, "caption") == ("caption",)
    with pytest.raises(InputError, match="no image features"):
        side_names(pool, "both")
    with pytest.raises(UsageError, match="caption, image or both"):
        side_names(pool, "text")


def test_a_damaged_picture_has_no_features_and_the_others_have(table: Path, tmp_path: Path, encoding: Encoding) -> None:
    """freeze-align: a bare `except` turns it into a constant score."""
    lines = table.read_text().splitlines()[:3]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    for number in range(3):
        name = f"0-{number:03d}.png"
        (tmp_path / name).write_bytes((table.parent / name).read_bytes()[: 40 if number == 1 else None])
    pool = open_pool(tmp_path / "pairs.jsonl", encoding)
    assert np.isnan(pool.features("image", 0, 3)[:, 0]).tolist() == [False, True, False]


def test_two_encoders_of_one_kind_are_refused() -> None:
    with pytest.raises(UsageError, match="Two text encoders"):
        load_encoding([word_encoder(), word_encoder("words-2")])


def test_rows_without_an_id_column_are_called_by_file_and_row(tmp_path: Path, encoding: Encoding) -> None:
    for part in range(2):
        texts = pa.table({"text": [f"red {part} {row}" for row in range(5)]})
        pq.write_table(texts, tmp_path / f"part-{part}.parquet", row_group_size=2)
    pool = open_pool(tmp_path, encoding)
    rows = np.array([9, 0, 4, 5, 3])
    assert pool.ids(rows) == ["part-1:4", "part-0:0", "part-0:4", "part-1:0", "part-0:3"]
    assert pool.captions(rows) == ["red 1 4", "red 0 0", "red 0 4", "red 1 0", "red 0 3"]


def test_datacomp_uids_and_captions_of_other_names_and_types(tmp_path: Path, encoding: Encoding) -> None:
    for number in range(2):
        columns = {"uid": [f"{number}{row}" for row in range(3)], "url": ["http://x"] * 3}
        texts = pa.array([f"a red square {number}{row}".encode() for row in range(3)], pa.binary())
        pq.write_table(pa.table(columns | {"TEXT": texts}), tmp_path / f"{number}.parquet")
    pool = open_pool(tmp_path, encoding)
    assert pool.ids(np.arange(6)) == ["00", "01", "02", "10", "11", "12"]
    assert pool.captions(np.array([4, 0])) == ["a red square 11", "a red square 00"]
    pq.write_table(pa.table({"uid": ["x"], "words": ["y"]}), tmp_path / "2.parquet")
    with pytest.raises(InputError, match=r"2\.parquet: no column 'TEXT', which other files of this set have"):
        open_pool(tmp_path, encoding)


def test_embeddings_of_images_alone_are_a_pool(tmp_path: Path) -> None:
    (tmp_path / "img_emb").mkdir()
    (tmp_path / "metadata").mkdir()
    np.save(tmp_path / "img_emb" / "img_emb_0.npy", np.eye(3, dtype=np.float16))
    pq.write_table(pa.table({"image_path": ["a", "b", "c"]}), tmp_path / "metadata" / "metadata_0.parquet")
    pool = open_pool(tmp_path)
    assert (pool.widths, pool.captions(np.arange(3)), pool.ids(np.arange(2))) == ({"image": 3}, [None] * 3, ["a", "b"])


def test_a_damaged_file_of_metadata_is_left_out_and_listed(tmp_path: Path, encoding: Encoding) -> None:
    for number in range(2):
        pq.write_table(pa.table({"uid": [f"{number}"], "text": ["a red square"]}), tmp_path / f"{number}.parquet")
    (tmp_path / "1.parquet").write_bytes(b"PAR1 half")
    pool = open_pool(tmp_path, encoding)
    assert pool.ids(np.arange(1)) == ["0"] and [name for name, _ in pool.skipped] == ["1.parquet"]
    (tmp_path / "0.parquet").write_bytes(b"PAR1 half")
    with pytest.raises(InputError, match=r"0\.parquet: truncated, or not Parquet"):
        open_pool(tmp_path, encoding)
