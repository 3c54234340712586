"""Features made elsewhere: arrays, and clip-retrieval's layout in both directions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isthmus.errors import InputError, UsageError
from isthmus.store import (
    doctor,
    export_clip_retrieval,
    import_arrays,
    import_clip_retrieval,
    import_folder,
    open_store,
)
from store_cases import IMAGE, TEXT, write


def unit(rows: int, width: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(rows, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def laion(folder, sizes=(3, 2), width=4, **changed):
    """What `clip-retrieval inference` writes, and LAION publishes: names padded with zeros, extra columns."""
    embeddings = {"img_emb": [], "text_emb": []}
    row = 0
    for k, size in enumerate(sizes):
        for name, found in embeddings.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            found.append(unit(size, width, seed=k + len(name)))
            np.save(folder / name / f"{name}_{k:04d}.npy", found[-1])
        table = {
            "image_path": [f"{i:09d}" for i in range(row, row + size)],
            "caption": [f"caption {i}" for i in range(row, row + size)],
            "NSFW": ["UNLIKELY"] * size,
            "similarity": [0.31] * size,
            "url": ["http://example.org/a.jpg"] * size,
            **changed,
        }
        (folder / "metadata").mkdir(exist_ok=True)
        pq.write_table(pa.table(table), folder / "metadata" / f"metadata_{k:04d}.parquet")
        row += size
    return {name: np.concatenate(found).astype(np.float32) for name, found in embeddings.items()}


def test_clip_retrieval_is_imported_exactly_with_image_path_as_id(tmp_path):
    embeddings = laion(tmp_path / "laion", sizes=(2,) * 11)  # partition 10 comes after 9, not after 1
    import_clip_retrieval(tmp_path / "laion", tmp_path / "store", model="ViT-L/14")
    store = open_store(tmp_path / "store", verify=True)
    assert store.images["id"].to_pylist() == [f"{i:09d}" for i in range(22)]
    assert [record["uri"] for record in store.encoders] == ["array:ViT-L/14"] * 2
    pairs = store.pairs()
    np.testing.assert_array_equal(pairs.image.gather(np.arange(22)), embeddings["img_emb"])
    np.testing.assert_array_equal(pairs.text.gather(np.arange(22)), embeddings["text_emb"])
    assert pairs.captions[21] == "caption 21" and pairs.image_of.tolist() == list(range(22))
    assert all(finding["ok"] for finding in doctor(tmp_path / "store"))


def test_a_store_survives_export_and_import(tmp_path):
    columns = {"split": ["train", "val", "test"], "group": ["g", "g", None], "label": ["cat", None, "dog"]}
    write(tmp_path / "store", ["007", "b", "c"], **columns)
    rows = export_clip_retrieval(tmp_path / "store", tmp_path / "out", normalize=False, rows_per_file=4)
    assert rows == 6
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in tmp_path.glob("out/*/*"))
    assert names == [f"{part}_{k}.{end}" for part, end in (
        ("img_emb/img_emb", "npy"), ("metadata/metadata", "parquet"), ("text_emb/text_emb", "npy")
    ) for k in (0, 1)]  # fmt: skip
    import_clip_retrieval(tmp_path / "out", tmp_path / "back")
    old, new = open_store(tmp_path / "store"), open_store(tmp_path / "back")
    assert new.images.to_pylist() == [{**row, "signature": None} for row in old.images.to_pylist()]
    assert new.captions.to_pylist() == old.captions.to_pylist()
    for modality, count in (("image", 3), ("text", 6)):
        np.testing.assert_array_equal(
            new.features(modality).gather(np.arange(count)), old.features(modality).gather(np.arange(count))
        )


def test_exported_rows_have_length_one_and_pair_image_with_caption(tmp_path):
    write(tmp_path / "store", ["a", "b"])
    export_clip_retrieval(tmp_path / "store", tmp_path / "out")
    image = np.load(tmp_path / "out/img_emb/img_emb_0.npy")
    text = np.load(tmp_path / "out/text_emb/text_emb_0.npy")
    metadata = pq.read_table(tmp_path / "out/metadata/metadata_0.parquet").to_pylist()
    assert image.dtype == np.float16 and image.shape == (4, 6) and text.shape == (4, 5)
    np.testing.assert_allclose(np.linalg.norm(image.astype(np.float32), axis=1), 1, atol=1e-3)
    assert [(row["image_path"], row["caption"]) for row in metadata] == [
        (i, f"caption {k} of {i}") for i in "ab" for k in (0, 1)
    ]
    raw = open_store(tmp_path / "store").features("image").gather([1])[0]
    np.testing.assert_allclose(image[3], raw / np.linalg.norm(raw), atol=1e-3)


def test_a_path_on_two_rows_is_one_image_with_two_captions(tmp_path):
    laion(tmp_path / "laion", sizes=(2,), image_path=["x", "x"])
    first = np.load(tmp_path / "laion/img_emb/img_emb_0000.npy")[:1]
    np.save(tmp_path / "laion/img_emb/img_emb_0000.npy", np.repeat(first, 2, axis=0))
    import_clip_retrieval(tmp_path / "laion", tmp_path / "store")
    store = open_store(tmp_path / "store")
    assert store.captions["caption_id"].to_pylist() == ["x#0", "x#1"] and len(store) == 1


def test_a_path_that_stands_for_two_pictures_is_refused(tmp_path):
    laion(tmp_path / "laion", sizes=(2,), image_path=["x", "x"])
    with pytest.raises(InputError, match="image_path 'x' has different embeddings on rows 0 and 1"):
        import_clip_retrieval(tmp_path / "laion", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_partitions_that_do_not_match_are_listed_with_both_counts(tmp_path):
    laion(tmp_path)
    rows = len(pq.read_table(tmp_path / "metadata/metadata_0000.parquet"))

    def skipped():
        ((name, reason),) = import_clip_retrieval(tmp_path, tmp_path / f"store{len(list(tmp_path.glob('store*')))}")
        assert name == "metadata_0001.parquet"
        return reason

    np.save(tmp_path / "text_emb/text_emb_0001.npy", unit(7, 4))
    assert skipped().endswith("text_emb_0001.npy: 7 rows, but metadata_0001.parquet has 2.")
    assert open_store(tmp_path / "store0").captions.num_rows == rows
    np.save(tmp_path / "text_emb/text_emb_0001.npy", unit(2, 5))
    assert skipped().endswith("text_emb_0001.npy: text embeddings are 5 wide, those of most 4.")
    (tmp_path / "text_emb/text_emb_0001.npy").unlink()
    assert "text_emb_0001.npy" in skipped()


def test_metadata_without_its_columns_is_refused(tmp_path):
    laion(tmp_path, sizes=(1,), image_path=[None])
    with pytest.raises(InputError, match="image_path holds nulls"):
        import_clip_retrieval(tmp_path, tmp_path / "store")
    pq.write_table(pa.table({"caption": ["a"]}), tmp_path / "metadata/metadata_0000.parquet")
    with pytest.raises(InputError, match="no column 'image_path'"):
        import_clip_retrieval(tmp_path, tmp_path / "store")
    pq.write_table(pa.table({"image_path": ["a"]}), tmp_path / "metadata/metadata_0000.parquet")
    whole = (tmp_path / "metadata/metadata_0000.parquet").read_bytes()
    (tmp_path / "metadata/metadata_0000.parquet").write_bytes(whole[:4] + b"\xff" * 20 + whole[24:])
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        import_clip_retrieval(tmp_path, tmp_path / "store")
    with pytest.raises(InputError, match="no metadata"):
        import_clip_retrieval(tmp_path / "nowhere", tmp_path / "store")


def test_arrays_with_several_captions_per_image(tmp_path):
    image, text = unit(2, 3), unit(3, 4)
    import_arrays(tmp_path, image=image, text=text, ids=["007", "8"], captions=["a", "b", "c"], image_of=[0, 1, 0])
    pairs = open_store(tmp_path).pairs()
    assert pairs.image_ids == ["007", "8"] and pairs.caption_ids == ["007#0", "8#0", "007#1"]
    assert pairs.image_of.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(pairs.text.gather([0, 1, 2]), text.astype(np.float32))


def test_an_array_becomes_another_encoder_of_a_store_that_exists(tmp_path):
    write(tmp_path, ["a", "b"], split=["train", "test"])
    extra = unit(2, 3)
    import_arrays(tmp_path, image=extra, ids=["b", "a"], image_model="mine")
    store = open_store(tmp_path)
    assert sorted(record["uri"] for record in store.encoders) == ["array:mine", "test:dino", "test:minilm"]
    pairs = store.pairs(image=["test:dino", "array:mine"])
    rows = [pairs.image_ids.index(one) for one in ("b", "a")]
    np.testing.assert_array_equal(pairs.image.gather(rows)[:, 6:], extra.astype(np.float32))
    assert pairs.splits == [{"a": "train", "b": "test"}[one] for one in pairs.image_ids]
    assert len(pairs.captions) == 4
    assert IMAGE in store.encoders and TEXT in store.encoders


def test_without_captions_every_text_row_counts_as_another(tmp_path):
    import_arrays(tmp_path, image=unit(2, 3), text=unit(2, 3))
    pairs = open_store(tmp_path).pairs()
    assert pairs.captions is None and pairs.text_group.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": unit(3, 2), "text": unit(2, 2)}, "2 rows of text but 3 images"),
        ({"image": unit(3, 2), "ids": ["a", "b"]}, "2 ids but 3 rows of image"),
        ({"image": unit(2, 2), "ids": ["a", "a"]}, "'a' is there more than once"),
        ({"image": unit(2, 2), "text": unit(2, 2), "captions": ["a"]}, "1 captions but 2 rows of text"),
        ({"image": unit(1, 2), "text": unit(2, 2), "image_of": [0]}, "1 entries in image_of but 2 rows"),
        ({"image": unit(1, 2), "text": unit(1, 2), "image_of": [1]}, "image_of: row 0 names image 1"),
        ({"image": np.ones((2, 2), int)}, "features are floats"),
        ({"image": np.ones(2)}, "features are floats"),
        ({"image": np.full((2, 2), np.nan)}, "NaN or infinity.*image array row 0"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        import_arrays(tmp_path / "store", **given)
    assert not (tmp_path / "store/store.json").exists()


def test_no_array_at_all_is_a_wrong_call(tmp_path):
    with pytest.raises(UsageError, match="image"):
        import_arrays(tmp_path / "store")


def test_nan_in_a_file_is_named_by_file_and_row(tmp_path):
    array = unit(5, 3)
    array[4, 1] = np.inf
    np.save(tmp_path / "image.npy", array)
    with pytest.raises(InputError, match=r"image\.npy row 4"):
        import_folder(tmp_path, tmp_path / "store")


def test_a_folder_of_arrays(tmp_path):
    np.save(tmp_path / "image.npy", unit(2, 3))
    np.save(tmp_path / "text.npy", unit(2, 3).astype(np.float32))
    (tmp_path / "ids.txt").write_text("007\n008\n")
    (tmp_path / "captions.txt").write_text("eine Katze\nein Hund\n")
    import_folder(tmp_path, tmp_path / "store", model="clip")
    pairs = open_store(tmp_path / "store").pairs()
    assert pairs.image_ids == ["007", "008"] and pairs.captions == ["eine Katze", "ein Hund"]
    with pytest.raises(InputError, match=r"no image\.npy"):
        import_folder(tmp_path / "store", tmp_path / "other")


def test_a_folder_of_images_alone_is_imported(tmp_path):
    embeddings = laion(tmp_path / "laion")
    for name in ("metadata_0000", "metadata_0001"):
        path = tmp_path / "laion" / "metadata" / f"{name}.parquet"
        pq.write_table(pq.read_table(path).select(["image_path"]), path)
    for file in (tmp_path / "laion" / "text_emb").iterdir():
        file.unlink()
    (tmp_path / "laion" / "text_emb").rmdir()
    import_folder(tmp_path / "laion", tmp_path / "store", model="x")
    store = open_store(tmp_path / "store")
    assert (len(store), store.captions.num_rows) == (5, 0)
    np.testing.assert_array_equal(store.features("image").gather(np.arange(5)), embeddings["img_emb"])


def test_text_features_without_their_captions_are_imported(tmp_path):
    laion(tmp_path / "laion", sizes=(2,))
    path = tmp_path / "laion" / "metadata" / "metadata_0000.parquet"
    pq.write_table(pq.read_table(path).select(["image_path"]), path)
    import_folder(tmp_path / "laion", tmp_path / "store", model="x")
    assert open_store(tmp_path / "store").captions["caption"].to_pylist() == [None, None]
