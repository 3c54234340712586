"""Labels and class names fit each other in every way people write them; class folders serve every task alike."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import isthmus as ist
from isthmus.errors import InputError
from isthmus.evaluation.inputs import match_labels
from toys import COLOURS, PLACES, picture, pixel_encoder, word_encoder, write_pairs


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ist.DualEncoder:
    table = write_pairs(tmp_path_factory.mktemp("pairs"))
    store = ist.embed(table, pixel_encoder(), word_encoder(), out=tmp_path_factory.mktemp("store"))
    trained = ist.train(store, recipe="cca")
    trained.encoders = {"image": [pixel_encoder()], "text": [word_encoder()]}
    return trained


def class_folders(root: Path) -> Path:
    """train/ and test/ with a folder of eight pictures for each colour."""
    for split in ("train", "test"):
        for number, colour in enumerate(COLOURS):
            folder = root / split / f"{number:03d}.{colour.title()}"
            folder.mkdir(parents=True)
            for k in range(8):
                image = picture(colour, ("plain", "bright")[k % 2], PLACES[k % 4], seed=k + 100 * (split == "test"))
                image.save(folder / f"{k}.png")
    return root


def test_names_numbers_spellings_and_folders() -> None:
    assert match_labels(["b", None, "a"], []) == (["a", "b"], {"a": 0, "b": 1})
    assert match_labels(["b", "a"], ["b", "c", "a"])[1] | {} == {"b": 0, "c": 1, "a": 2}
    assert match_labels(["0", "2"], ["x", "y", "x"]) == (["x", "y", "x"], {"0": 0, "2": 2})
    assert match_labels(["0", "9"], [str(k) for k in range(10)])[1]["9"] == 9
    assert match_labels(["0.0", "1.0"], ["x", "y"])[1] == {"0.0": 0, "1.0": 1}
    assert match_labels(["grey cat"], ["Dog", "Grey_Cat"])[1] == {"grey cat": 1}
    names, number = match_labels(["n01", "n02"], ["tench", "shark"], folders=["n01", "n02"])
    assert [names[number[label]] for label in ("n02", "n01")] == ["shark", "tench"]
    assert match_labels(["x"], ["x", "x", "y"]) == (["x", "x", "y"], {"x": 0, "y": 2})


def test_labels_that_fit_no_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"Label 3 is no line of the 3 class names"):
        match_labels(["0", "3"], ["a", "b", "c"])
    with pytest.raises(InputError, match=r"Label 'cta' is not among the 2 class names. Did you mean 'cat'"):
        match_labels(["cta"], ["cat", "dog"])
    with pytest.raises(InputError, match=r"needs labels"):
        match_labels([None], ["cat"])


def test_whole_numbers_with_a_list_of_names_mean_its_lines(tmp_path: Path, model: ist.DualEncoder) -> None:
    colours = list(COLOURS)
    rows = [(picture(colour, "plain", place), number) for number, colour in enumerate(colours) for place in PLACES]
    images = []
    for image, _ in rows:
        file = io.BytesIO()
        image.save(file, "PNG")
        images.append(file.getvalue())
    (tmp_path / "names.txt").write_text("\n".join(colours) + "\n\n")
    found = {}
    for kind in (int, float, str):
        columns = {"image": images, "label": [kind(number) for _, number in rows]}
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        result = ist.evaluate(model, "zeroshot", tmp_path / "t.parquet", classes=tmp_path / "names.txt", bootstrap=0)
        found[kind] = result["metrics"]["acc1"]
        assert result["classes"] == colours
    assert len(set(found.values())) == 1 and found[int] > 0.5


def test_class_folders_serve_every_task_alike(tmp_path: Path, model: ist.DualEncoder) -> None:
    root = class_folders(tmp_path / "colours")
    zeroshot = ist.evaluate(model, "zeroshot", root, split="test", templates=["a {} square"], bootstrap=0)
    assert zeroshot["classes"] == sorted(COLOURS)
    assert any("are their labels" in note for note in zeroshot["notes"])
    set_root = tmp_path / "sets"
    set_root.mkdir()
    root.rename(set_root / "colours")
    suite = ist.evaluate(model, "suite", set_root, templates=["a {} square"], bootstrap=0, only_sets=["colours"])
    assert suite[0]["metrics"]["acc1"] == zeroshot["metrics"]["acc1"] > 0.5
    knn = ist.evaluate(model, "knn", set_root / "colours", bootstrap=0)
    assert knn[0]["n"] == {"train": 32, "test": 32, "classes": 4}
    chosen = ist.curate(
        set_root / "colours" / "test", set_root / "colours" / "train", encoder=model, per_concept=2, sides="image"
    )
    assert sorted(chosen.per_concept) == sorted(COLOURS)


def test_names_that_do_not_fit_are_said_before_anything_is_encoded(
    tmp_path: Path, model: ist.DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*_: object, **__: object) -> None:
        raise AssertionError("encoded")

    monkeypatch.setattr(model, "encode_image", encode)
    monkeypatch.setattr(model, "encode_text", encode)
    with pytest.raises(InputError, match=r"is not among the 2 class names"):
        ist.evaluate(model, "zeroshot", class_folders(tmp_path / "c"), classes=["cat", "dog"])


def test_probes_take_tables_and_options_of_reading(tmp_path: Path, model: ist.DualEncoder) -> None:
    root = class_folders(tmp_path / "pictures")
    rows = [
        {"filepath": str(path.relative_to(root)), "kind": path.parent.name, "split": path.relative_to(root).parts[0]}
        for path in sorted(root.rglob("*.png"))
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = ist.evaluate(model, "knn", tmp_path / "t.jsonl", images=root, columns={"label": "kind"}, bootstrap=0)
    assert found[0]["n"] == {"train": 32, "test": 32, "classes": 4}


def test_a_picture_with_several_captions_and_a_data_frame_is_evaluated(model: ist.DualEncoder, tmp_path: Path) -> None:
    import pandas as pd

    images = [picture(colour, "plain", "left") for colour in COLOURS]
    frame = pd.DataFrame({"picture": images, "text": [[f"a plain {c} square at the left", c] for c in COLOURS]})
    found = ist.evaluate(model, "retrieval", frame, bootstrap=0)
    assert (found["n"]["images"], found["n"]["texts"]) == (4, 8)
    assert isinstance(images[0], Image.Image)


@pytest.mark.parametrize("form", ["imagefolder", "parquet"])
def test_labelled_folders_of_tables_serve_probes(tmp_path: Path, model: ist.DualEncoder, form: str) -> None:
    pictures = class_folders(tmp_path / "pictures")
    root = tmp_path / "set"
    for split in ("train", "test"):
        files = sorted((pictures / split).rglob("*.png"))
        (root / split).mkdir(parents=True)
        if form == "parquet":
            columns = {"image": [file.read_bytes() for file in files], "class": [file.parent.name for file in files]}
            pq.write_table(pa.table(columns), root / split / "0.parquet")
            continue
        rows = [{"file_name": f"{number}.png", "label": file.parent.name} for number, file in enumerate(files)]
        for number, file in enumerate(files):
            file.rename(root / split / f"{number}.png")
        (root / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = ist.evaluate(model, "knn", root, bootstrap=0)
    assert found[0]["n"] == {"train": 32, "test": 32, "classes": 4}


def test_a_probe_is_not_tested_on_what_it_saw(tmp_path: Path, model: ist.DualEncoder) -> None:
    with pytest.raises(InputError, match=r"has no split train apart from test"):
        ist.evaluate(model, "knn", class_folders(tmp_path / "c") / "train")


def test_curation_lists_what_reading_left_out(tmp_path: Path, model: ist.DualEncoder) -> None:
    root = class_folders(tmp_path / "pictures")
    (root / "test" / "000.Red" / "raw.cr2").write_bytes(b"x")
    chosen = ist.curate(root / "test", root / "train", encoder=model, per_concept=2, sides="image")
    assert chosen.manifest["skipped"] == [["000.Red/raw.cr2", chosen.manifest["skipped"][0][1]]]
    assert any("are their labels" in note for note in chosen.manifest["notes"])
