"""`suite`: CLIP_benchmark's layout read, its scores met, missing sets named, nothing done twice."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

import oracles
from isthmus.api import evaluate
from isthmus.cli import main
from isthmus.data.pairs import pairs_from_lists
from isthmus.encoders import from_callable
from isthmus.errors import InputError, UsageError
from isthmus.evaluation.datasets.registry import PUBLIC
from isthmus.evaluation.suite import LISTS, find_sets, open_set, suite
from isthmus.evaluation.suite.sets import canonical, choose_sets
from isthmus.metrics.zeroshot import class_embeddings, load_templates
from isthmus.models.dual_encoder import DualEncoder
from isthmus.projectors import build_projector
from isthmus.segmentation.data import _classes as masked_classes
from toys import COLOURS, PLACES, SHADES, picture, pixel_encoder, png, word_encoder

CLASSES = ["red", "green", "blue", "yellow", "grey"]
TEMPLATES = ["a {c} square.", "{c}"]


def write_tar(path: Path, samples: list[dict[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, sample in enumerate(samples):
            for extension, content in sample.items():
                member = tarfile.TarInfo(f"s{number:07d}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    (path.parent / "nshards.txt").write_text("1\n")


def labelled_set(folder: Path, classes: list[str] = CLASSES, templates: list[str] = TEMPLATES) -> Path:
    """32 squares whose class is their colour, with all of CLIP_benchmark's files."""
    pictures = [(c, s, p) for c in range(4) for s in SHADES for p in PLACES[:2]]
    samples = [{"png": png(picture(list(COLOURS)[c], s, p)), "cls": str(c).encode()} for c, s, p in pictures]
    write_tar(folder / "test" / "0.tar", samples)
    (folder / "classnames.txt").write_text("\n".join(classes) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")
    return folder


def captioned_set(folder: Path) -> Path:
    """12 squares with one to three captions each, no two alike."""
    samples = []
    for number, (colour, shade) in enumerate([(c, s) for c in list(COLOURS)[:3] for s in SHADES]):
        captions = [f"{shade} {colour}", f"a {colour} square, {shade}", f"square {number}"][: 1 + number % 3]
        samples.append({"png": png(picture(colour, shade, "top")), "txt": "\n".join(captions).encode()})
    write_tar(folder / "test" / "0.tar", samples)
    (folder / "dataset_type.txt").write_text("retrieval\n")
    return folder


def toy_model() -> DualEncoder:
    encoders = {"image": [pixel_encoder()], "text": [word_encoder()]}
    torch.manual_seed(10)  # heads for which no score of these squares is near a tie
    heads = [build_projector("linear", [encoders[m][0].width], 16) for m in ("image", "text")]
    records = {m: [encoders[m][0].record()] for m in encoders}
    return DualEncoder(*heads, scale=10.0, records=records, encoders=encoders)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    labelled_set(tmp_path / "data" / "wds_vtab-pets")
    captioned_set(tmp_path / "data" / "wds_flickr30k")
    return tmp_path / "data"


class Tokens(list):
    def to(self, device):
        return self


def peer_model(model: DualEncoder) -> SimpleNamespace:
    """`model` as CLIP_benchmark takes one: images are embeddings already, tokens are the texts."""
    return SimpleNamespace(
        encode_image=lambda images: images, encode_text=lambda texts: torch.from_numpy(model.encode_text(list(texts)))
    )


class Loader(list):
    dataset = SimpleNamespace(classes=CLASSES)


def assert_decided(scores: torch.Tensor, *cuts: int) -> None:
    """No item among a row's first k, for each cut k, is there by rounding: of features in fp16 above all, 2⁻¹¹."""
    best = scores.double().sort(1, descending=True).values
    for k in cuts:
        assert (best[:, k - 1] - best[:, k]).min() > 1e-3


def test_the_scores_are_those_of_clip_benchmark(data: Path) -> None:
    model = toy_model()
    classification, retrieval = suite(model, data, only_sets=["pets", "flickr"], bootstrap=20)
    assert (classification["dataset"], retrieval["dataset"]) == ("pets", "flickr30k")
    assert (classification["task"], retrieval["task"]) == ("zeroshot_classification", "zeroshot_retrieval")
    pets = open_set("pets", find_sets(data)["pets"])
    images = torch.from_numpy(model.encode_image([pets.pairs.decode(i) for i in range(len(pets.pairs))]))
    labels = torch.tensor([int(label) for label in pets.pairs.images["label"].to_pylist()])
    peer = oracles.clip_benchmark("zeroshot_classification")
    peer.float = lambda value: value.item()  # its float(array of one) is an error with this NumPy
    other = peer_model(model)
    assert_decided(images @ peer.zero_shot_classifier(other, Tokens, CLASSES, TEMPLATES, "cpu", amp=False), 1)
    theirs = peer.evaluate(other, Loader([(images, labels)]), Tokens, CLASSES, TEMPLATES, "cpu", amp=False)
    assert 0.1 < theirs["acc1"] < 0.9
    assert classification["metrics"] == pytest.approx(theirs, abs=1e-6)
    flickr = open_set("flickr30k", find_sets(data)["flickr30k"])
    images = torch.from_numpy(model.encode_image([flickr.pairs.decode(i) for i in range(len(flickr.pairs))]))
    rows = flickr.pairs.captions.to_pylist()
    texts = [[c["caption"] for c in rows if c["id"] == id] for id in flickr.pairs.images["id"].to_pylist()]
    scores = images @ torch.from_numpy(model.encode_text([caption for one in texts for caption in one])).T
    assert_decided(scores, 1, 5)
    assert_decided(scores.T, 1, 5)
    peer = oracles.clip_benchmark("zeroshot_retrieval")
    theirs = peer.evaluate(other, [(images, texts)], Tokens, "cpu", amp=False, recall_k_list=[1, 5])
    assert 0 < theirs["image_retrieval_recall@1"] < 1
    assert {key: retrieval["metrics"][key] for key in theirs} == pytest.approx(theirs, abs=1e-6)


def test_of_two_classes_of_one_name_the_first_is_found(tmp_path: Path) -> None:
    """As in the first lists of ImageNet. CLIP_benchmark takes either, as the product of the matrices rounds."""
    twice = [*CLASSES[:4], "red"]
    labelled_set(tmp_path / "once" / "wds_pets", twice[:4])
    labelled_set(tmp_path / "twice" / "wds_pets", twice)
    (once,), (found,) = (
        suite(toy_model(), tmp_path / data, only_sets=["pets"], bootstrap=0) for data in ("once", "twice")
    )
    assert [row[:4] for row in found["confusion"][:4]] == once["confusion"]
    assert np.sum(once["confusion"], axis=0)[0] > 0
    assert found["metrics"]["acc1"] == once["metrics"]["acc1"]
    assert found["per_class"][4]["precision"] is None, "never given: a tie goes to the first"
    assert found["chance"]["acc1"] == 1 / 5


def clip_benchmark_build(files: list[str], output: Path) -> None:
    """CLIP_benchmark's own `build`, whose module imports what is not here: the one function out of its source."""
    source = ast.parse(oracles.file_from_wheel(*oracles.CLIP_BENCHMARK, "clip_benchmark/cli.py").read_text())
    source.body = [node for node in source.body if getattr(node, "name", "") == "main_build"]
    scope = {"json": json, "os": os, "csv": csv}
    exec(compile(source, "clip_benchmark/cli.py", "exec"), scope)
    scope["main_build"](SimpleNamespace(files=files, output=str(output)))


def test_the_files_load_in_clip_benchmark_s_build(data: Path, tmp_path: Path) -> None:
    results = suite(toy_model(), data, out=tmp_path / "out", bootstrap=20)
    clip_benchmark_build([str(tmp_path / "out" / "results")], tmp_path / "all.csv")
    rows = {row["dataset"]: row for row in csv.DictReader((tmp_path / "all.csv").open())}
    assert set(rows) == {"pets", "flickr30k"}
    done = {result["dataset"]: result for result in results if result["metrics"]}
    assert float(rows["pets"]["acc1"]) == done["pets"]["metrics"]["acc1"]
    recall = "image_retrieval_recall@5"
    assert float(rows["flickr30k"][recall]) == done["flickr30k"]["metrics"][recall]
    assert rows["pets"]["model_fullname"] == "isthmus "


def test_missing_sets_have_a_row_and_a_reason(data: Path, capsys, monkeypatch) -> None:
    results = suite(toy_model(), data, bootstrap=0)
    assert [result["dataset"] for result in results] == ["pets", "flickr30k"], "only what is there"
    results = suite(toy_model(), data, only_sets=["imagenet", "pets"], bootstrap=0)
    assert results[0]["skipped"] == [["imagenet1k", "not there"]]
    monkeypatch.setattr("isthmus.models.dual_encoder.DualEncoder.from_pretrained", lambda *a, **k: toy_model())
    for name in ("m", "n"):
        (data / name).mkdir()
    monkeypatch.chdir(data)
    assert main(["eval", "m", "suite", "--data", str(data), "--only-sets", "pets,cars", "--bootstrap", "0"]) == 3
    printed = capsys.readouterr().out
    assert "skipped cars: not there" in printed
    assert "pets" in printed
    assert main(["eval", "m", "suite", str(data), "--only-sets", "pets", "--beside", "n", "--bootstrap", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["m", "n"]
    with pytest.raises(InputError, match=r"nothing could be evaluated; cars: not there"):
        suite(toy_model(), data, only_sets=["cars"])


def test_a_set_is_done_once_and_again_when_anything_changes(data: Path, tmp_path: Path) -> None:
    model, seen = toy_model(), []
    fast = model.encoders["image"][0]._fn
    watched = from_callable(
        lambda items: seen.extend(items) or fast(items), "image", "pixels-1", name="pixels", width=108
    )
    model.encoders["image"] = [watched]
    options = {"out": tmp_path / "out", "only_sets": ["pets"], "bootstrap": 0}
    first = suite(model, data, **options)
    assert len(seen) == 32
    file = tmp_path / "out" / "results" / "pets_isthmus.json"
    written = file.stat().st_mtime_ns
    assert suite(model, data, **options) == first
    assert file.stat().st_mtime_ns == written
    again = suite(model, data, **options, templates=["{}"])
    assert again[0]["key"] != first[0]["key"]
    assert len(seen) == 32, "features come from the store"
    (find_sets(data)["pets"] / "classnames.txt").write_text("green\nred\nblue\nyellow\ngrey\n")
    swapped = suite(model, data, **options)
    assert swapped[0]["classes"][0] == "green"
    with torch.no_grad():
        model.text_projector.blocks[0].linear.weight.neg_()
    assert suite(model, data, **options)[0]["key"] != swapped[0]["key"]


def test_image_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    for folder in ("001.Red_one", "AnnualCrop"):
        for split in ("train", "test"):
            (tmp_path / "eurosat" / split / folder).mkdir(parents=True)
            (tmp_path / "eurosat" / split / folder / "a.png").write_bytes(png(picture("red", "dark", "left")))
    one = open_set("mine", tmp_path / "eurosat")
    assert one.classes == ["red one", "annual crop"]
    assert one.pairs.images["label"].to_pylist() == ["0", "1"]
    assert one.pairs.images["id"].to_pylist() == ["test/001.Red_one/a.png", "test/AnnualCrop/a.png"]
    assert one.pairs.decode(1).size == (24, 24)
    (tmp_path / "eurosat" / "classnames.txt").write_text("a\nb\nc\n")
    with pytest.raises(InputError, match="2 folders of classes for 3 class names"):
        open_set("mine", tmp_path / "eurosat")


def test_a_table_of_captions_or_of_labels_is_a_set(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(picture("red", "dark", "left")))
    (tmp_path / "coco.csv").write_text("image,caption\na.png,a red square\n")
    (tmp_path / "b.png").write_bytes(png(picture("blue", "dark", "left")))
    (tmp_path / "kinds.csv").write_text("image,label\na.png,square\nb.png,circle\n")
    assert open_set("mscoco_captions", find_sets(tmp_path)["mscoco_captions"]).task == "zeroshot_retrieval"
    kinds = open_set("kinds", find_sets(tmp_path)["kinds"])
    assert (kinds.task, kinds.classes) == ("zeroshot_classification", ["circle", "square"])
    assert kinds.templates == load_templates("default")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wds_vtab-caltech101_test", "caltech101"),
        ("wds_imagenet1k", "imagenet1k"),
        ("Fashion-MNIST", "fashion_mnist"),
        ("imagenet-v2", "imagenetv2"),
        ("stanford_cars", "cars"),
        ("my_own", "my_own"),
    ],
)
def test_sets_go_by_several_names(name: str, expected: str) -> None:
    assert canonical(name) == expected


def test_a_paper_s_list_stands_for_its_sets(data: Path) -> None:
    assert set(choose_sets(data, ["sail"])) == set(LISTS["sail"]) <= set(PUBLIC)
    assert set(LISTS["freeze-align"]) <= set(PUBLIC)
    with pytest.raises(UsageError, match="Did you mean 'caltech101'"):
        choose_sets(data, ["caltec101"])


def test_a_folder_that_is_no_set_has_a_remark_and_no_row(data: Path) -> None:
    (data / "notes").mkdir()
    (data / "notes" / "read.me").write_text("hello")
    results = suite(toy_model(), data, bootstrap=0)
    assert [result["dataset"] for result in results] == ["pets", "flickr30k"]
    assert any("notes: no images" in note for note in results[0]["notes"])
    assert not any(result["skipped"] for result in results), "nobody asked for it"
    (skipped,) = [r for r in suite(toy_model(), data, only_sets=["notes", "pets"], bootstrap=0) if r["skipped"]]
    assert skipped["dataset"] == "notes"


def test_half_a_known_set_is_a_gap_that_is_said(data: Path) -> None:
    (data / "food-101" / "meta").mkdir(parents=True)
    (data / "food-101" / "meta" / "classes.txt").write_text("apple_pie\n")
    (gap,) = [result for result in suite(toy_model(), data, bootstrap=0) if result["skipped"]]
    assert gap["dataset"] == "food101"
    assert "meta/test.txt: is missing" in gap["skipped"][0][1]


def test_two_folders_of_one_set_are_refused(data: Path) -> None:
    captioned_set(data / "flickr")
    with pytest.raises(InputError, match=r"flickr and wds_flickr30k both are flickr30k"):
        find_sets(data)


def only(data: Path, name: str = "pets") -> str:
    """Why `suite` skips a set."""
    with pytest.raises(InputError) as error:
        suite(toy_model(), data, only_sets=[name])
    return str(error.value)


def test_what_is_wrong_with_a_set_is_named(data: Path) -> None:
    folder = find_sets(data)["pets"]
    templates = folder / "zeroshot_classification_templates.txt"
    templates.write_text("a {c}\na photo\n")
    assert f"{templates}, line 2: 'a photo' has no {{}}" in only(data)
    labelled_set(folder, classes=["red", "green", "blue"])
    assert "the label '3' of test/0/s0000024 is outside of the 3 classes" in only(data)
    (folder / "classnames.txt").unlink()
    labelled_set(data / "mine").joinpath("classnames.txt").unlink()
    assert "no classnames.txt" in only(data, "mine")
    (folder / "test").rename(folder / "train")
    (folder / "classnames.txt").write_text("red\n")
    assert "has train, but no test" in only(data)


def test_descriptions_are_class_specific_prompts_as_in_clip_benchmark(data: Path, tmp_path: Path) -> None:
    sentences = {"red": ["red like blood", "scarlet", "red"], "green": ["grass green"], "blue": ["sky", "the sea"]}
    sentences |= {"yellow": ["yellow as the sun"], "grey": ["ash"]}
    model, peer = toy_model(), oracles.clip_benchmark("zeroshot_classification")
    theirs = peer.zero_shot_classifier(peer_model(model), Tokens, list(sentences), sentences, "cpu", amp=False).T
    assert class_embeddings(model.encode_text, list(sentences), sentences) == pytest.approx(theirs.numpy(), abs=1e-6)
    file = tmp_path / "vdt.json"
    file.write_text(json.dumps({"pets": sentences, "cars": {"a car": ["wheels"]}}))
    (found,) = suite(model, data, only_sets=["pets"], templates=file, bootstrap=0)
    assert found["templates"] == sentences
    file.write_text(json.dumps({"pets": {"red": ["red"], "grene": ["green"]}}))
    with pytest.raises(InputError, match=r"4 of 5 classes have none.*'green'.*'grene'"):
        suite(model, data, only_sets=["pets"], templates=file)
    file.write_text('{"red": "red"}')
    with pytest.raises(InputError, match="list of sentences"):
        suite(model, data, only_sets=["pets"], templates=file)


def test_damaged_pictures_are_named_and_the_rest_is_scored(tmp_path: Path) -> None:
    samples = [{"png": png(picture("red", s, p)), "cls": b"0"} for s in SHADES for p in PLACES] * 13
    samples = [{**sample, "png": sample["png"] + str(i).encode()} for i, sample in enumerate(samples)]
    write_tar(labelled_set(tmp_path / "wds_pets") / "test" / "0.tar", [*samples, {"png": b"broken", "cls": b"1"}])
    (found,) = suite(toy_model(), tmp_path, only_sets=["pets"], bootstrap=0)
    assert found["n"]["images"] == 208
    assert found["skipped"][0][0] == "test/0/s0000208"
    assert np.sum(found["confusion"]) == 208


def test_a_name_that_is_there_twice_is_legal_for_labels_and_for_masks(tmp_path: Path) -> None:
    classes = ["red", "green", "red", "blue", "yellow"]
    pairs = pairs_from_lists([picture(c, s, "left") for c in COLOURS for s in SHADES])
    labels = pa.array([colour for colour in COLOURS for _ in SHADES], pa.string())
    pairs.images = pairs.images.set_column(pairs.images.column_names.index("label"), "label", labels)
    twice, once = (
        evaluate(toy_model(), "zeroshot", pairs, classes=names, bootstrap=0) for names in (classes, list(COLOURS))
    )
    assert twice["metrics"]["acc1"] == once["metrics"]["acc1"]
    assert masked_classes(classes) == classes
