"""What a person sees in Python: reprs, pictures in notebooks, lists and data frames in and out, progress."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import isthmus as ist
from isthmus import progress
from isthmus.data.pairs import Pairs
from isthmus.errors import InputError
from isthmus.models.dual_encoder import DualEncoder
from isthmus.store import Store
from tiny_encoders import save_bert, save_dinov2
from toys import picture, pixel_encoder, word_encoder, write_pairs


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def store(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return ist.embed(table, pixel_encoder(), word_encoder(), out=tmp_path_factory.mktemp("notebook") / "store")


@pytest.fixture(scope="module")
def model(store: Store) -> DualEncoder:
    return ist.train(store, recipe="cca").with_encoders(image=pixel_encoder(), text=word_encoder())


def test_only_public_names_are_listed() -> None:
    told = (
        "import isthmus as ist, json; ist.losses, ist.train, ist.DualEncoder\n"
        "print(json.dumps([dir(ist), list(ist.__all__)]))"
    )
    listed, public = json.loads(subprocess.check_output([sys.executable, "-c", told], text=True))
    assert {name for name in listed if not name.startswith("__")} == set(public)
    assert all(getattr(ist, name) is not None for name in public)


def test_pairs_are_looked_at_by_number(table: Path) -> None:
    pairs = ist.read_pairs(table)
    first, last = pairs[0], pairs[-1]
    assert first["id"] == "0-000.png" and first["label"] == "red" and first["split"] == "train"
    assert first["captions"] == ["a dark red square at the left, take 0"] and first["image"].size == (24, 24)
    assert last["id"] == pairs.images["id"][len(pairs) - 1].as_py()
    some = pairs[2:5]
    assert isinstance(some, Pairs) and [one["id"] for one in some] == [pairs[row]["id"] for row in (2, 3, 4)]
    with pytest.raises(IndexError):
        pairs[len(pairs)]
    assert f"{len(pairs)} images" in repr(pairs) and "label" in repr(pairs)


def test_a_notebook_shows_pictures_and_says_which_cannot_be_read(table: Path, tmp_path: Path) -> None:
    picture("red", "dark", "left").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"none")
    (tmp_path / "a.txt").write_text("<b>a & b</b>")
    html = ist.read_pairs(tmp_path, captions="optional")._repr_html_()
    assert html.count("<img") == 1 and "b.png: " in html and "&lt;b&gt;a &amp; b" in html and "<b>" not in html


def test_lists_frames_and_arrays_are_pairs() -> None:
    pixels = np.asarray(picture("blue", "pale", "top"))
    listed = ist.read_pairs([(pixels, "an array"), (Image.fromarray(pixels), ["a picture", "of PIL"])])
    rows = ist.read_pairs([{"image": pixels, "caption": "an array", "label": "blue"}])
    frame = ist.read_pairs(pd.DataFrame({"image": [pixels], "caption": ["an array"], "label": ["blue"]}))
    assert listed[1]["captions"] == ["a picture", "of PIL"] and rows[0]["label"] == "blue"
    for pairs in (listed, rows, frame):
        assert pairs[0]["captions"] == ["an array"]
        np.testing.assert_array_equal(np.asarray(pairs[0]["image"]), pixels)
    alone = ist.read_pairs([pixels, Image.fromarray(pixels)], captions="optional")
    assert len(alone) == 2 and len(alone.captions) == 0
    with pytest.raises(InputError, match="list is empty"):
        ist.read_pairs([])


def test_tables_come_out_as_data_frames(store: Store, model: DualEncoder, table: Path) -> None:
    frame = ist.read_pairs(table).to_pandas()
    assert list(frame["id"][:2]) == ["0-000.png", "0-001.png"] and frame["label"][0] == "red"
    assert store.to_pandas()["caption"].tolist() == frame["caption"].tolist()
    assert store.pairs("test").to_pandas()["split"].unique().tolist() == ["test"]
    found = ist.evaluate(model, "retrieval", store, split="test", bootstrap=10)
    values = found.to_pandas().set_index("metric")["value"]
    assert values["mean_recall@1"] == found["metrics"]["mean_recall@1"]


def test_models_stores_and_results_say_what_they_are(store: Store, model: DualEncoder) -> None:
    assert "callable:pixels (108 → " in repr(model) and "recipe 'cca'" in repr(model)
    assert "192 images" in repr(store) and "callable:words" in store._repr_html_()
    assert len(repr(store.pairs())) < 100
    found = ist.evaluate(model, "retrieval", store, split="test", bootstrap=10)
    assert "mean_recall@10" in repr(found) and "confusion" not in repr(found) and "<table" in found._repr_html_()
    assert json.loads(json.dumps(found))["task"] == "zeroshot_retrieval"


def test_a_page_is_shown_inside_the_cell(store: Store, model: DualEncoder, table: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    found = ist.evaluate(model, "diagnose", table, report=page, bootstrap=10)
    html = found._repr_html_()
    assert html.startswith("<iframe") and "&lt;html" in html and str(page) in html
    page.unlink()
    assert "<table" in found._repr_html_()


def test_search_and_segment_take_arrays_and_show_pictures(model: DualEncoder, table: Path) -> None:
    array = np.asarray(picture("red", "dark", "left"))
    found = ist.search(model, table, array, k=3)
    assert found.hits[0]["id"] == "0-000.png" and found._repr_html_().count("<img") == 3
    assert ist.search(model, [array, 255 - array], array, k=1).hits[0]["id"] == "0"
    labels = ist.classify(model, [array, array], ["red", "blue"])
    assert labels.to_pandas()["p(red)"].between(0, 1).all() and "<td" in labels._repr_html_()


def test_a_trained_model_encodes_at_once(table: Path, tmp_path: Path) -> None:
    encoders = [f"hf:{save_dinov2(tmp_path / 'dino')}", f"hf:{save_bert(tmp_path / 'bert')}"]
    model = ist.train(ist.embed(table, *encoders, out=tmp_path / "store"), recipe="cca", out=tmp_path / "model")
    assert model.encoders == {}
    images, texts = [picture("red", "dark", "left")], ["a red cat"]
    again = ist.load_model(tmp_path / "model")
    np.testing.assert_array_equal(model.encode_image(images), again.encode_image(images))
    np.testing.assert_array_equal(model.truncate(2).encode_text(texts), again.truncate(2).encode_text(texts))
    assert len(ist.search(model, table, "a red cat", k=2).hits) == 2


def test_a_model_over_functions_says_how_it_comes_back(store: Store, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="image encoder callable:pixels and text encoder callable:words: Python"):
        model = ist.train(store, recipe="cca", out=tmp_path / "model")
    for load in (lambda: ist.load_model(tmp_path / "model"), lambda: model.encode_text(["a"])):
        with pytest.raises(InputError, match=r"from_pretrained\(path, encoders=.*from_callable"):
            load()
    whole = model.with_encoders(image=pixel_encoder(), text=[word_encoder()])
    given = {"image": [pixel_encoder()], "text": [word_encoder()]}
    again = DualEncoder.from_pretrained(tmp_path / "model", encoders=given)
    np.testing.assert_allclose(whole.encode_text(["a red square"]), again.encode_text(["a red square"]), atol=1e-6)
    assert model.encoders == {}
    with pytest.raises(InputError, match="is not the encoder"):
        model.with_encoders(text=word_encoder("words-2"))


def test_a_model_over_arrays_says_that_it_has_no_encoder() -> None:
    rng = np.random.default_rng(0)
    arrays = ist.FeaturePairs.from_arrays(*(rng.standard_normal((40, 6)).astype(np.float32) for _ in range(2)))
    with pytest.raises(InputError, match="trained on arrays"):
        ist.train(arrays, recipe="cca").encode_text(["a"])


def test_progress_is_shown_in_a_notebook_and_nowhere_else_unless_asked_for(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def embed(name: str, **options: bool) -> str:
        ist.embed(table, pixel_encoder(), word_encoder(), out=tmp_path / name, **options)
        return capsys.readouterr().err

    assert embed("quiet") == "" and "images" in embed("asked", progress=True)
    kernel = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(config={"IPKernelApp": {}}))
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    assert progress.in_notebook()
    assert "images" in embed("notebook") and embed("silenced", progress=False) == ""
