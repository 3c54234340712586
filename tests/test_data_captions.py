"""Captions as data sets publish them: COCO, Karpathy's splits, LAVIS, LLaVA, Flickr8k and Flickr30k."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

import isthmus as ist
from isthmus.cli import main
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.errors import InputError
from toys import pixel_encoder, word_encoder


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four pictures in pictures/val2014, of shades 0 to 3."""
    folder = tmp_path / "pictures" / "val2014"
    folder.mkdir(parents=True)
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(png(number))
    return tmp_path / "pictures"


def shown(pairs: Pairs) -> dict[int, list[str]]:
    """The captions by the shade of the picture that they describe."""
    shade = {id: pairs.decode(row).getpixel((0, 0))[0] for row, id in enumerate(pairs.images["id"].to_pylist())}
    found: dict[int, list[str]] = {value: [] for value in shade.values()}
    for row in pairs.captions.to_pylist():
        found[shade[row["id"]]].append(row["caption"])
    return found


def karpathy(split: str = "flickr30k", folder: str | None = None) -> dict:
    splits = ["train", "restval", "val", "test"]
    images = [
        {
            "filename": f"{number}.jpg",
            "imgid": number,
            "sentids": list(range(5)),
            "sentences": [
                {"tokens": ["a"], "raw": f"{number} said {k}", "imgid": number, "sentid": k} for k in range(5)
            ],
            "split": splits[number],
        }
        | ({"filepath": folder} if folder else {})
        for number in range(4)
    ]
    return {"images": images, "dataset": split}


def test_karpathy_split_as_published(tmp_path: Path, images: Path) -> None:
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps(karpathy()))
    for folder in (images / "val2014", str(images / "val2014")):
        pairs = read_pairs(tmp_path / "dataset_flickr30k.json", images=folder)
        assert shown(pairs) == {n: [f"{n} said {k}" for k in range(5)] for n in range(4)}
        assert pairs.images["split"].to_pylist() == ["train", "train", "val", "test"]
    test = read_pairs(tmp_path / "dataset_flickr30k.json", images=images / "val2014", split="test")
    assert shown(test) == {3: [f"3 said {k}" for k in range(5)]}


def test_karpathy_of_coco_names_folders(tmp_path: Path, images: Path) -> None:
    (images / "dataset_coco.json").write_text(json.dumps(karpathy("coco", "val2014")))
    for options in ({}, {"images": images}, {"images": images / "val2014"}):
        assert len(shown(read_pairs(images / "dataset_coco.json", **options))) == 4
    with pytest.raises(InputError, match=r"nowhere: no such folder of images"):
        read_pairs(images / "dataset_coco.json", images=tmp_path / "nowhere")


def coco() -> dict:
    images = [{"id": 10 + n, "file_name": f"{n}.jpg", "height": 8, "width": 8} for n in range(3)]
    said = [(11, "one"), (10, "zero"), (11, "eins"), (99, "of none")]
    annotations = [{"id": row, "image_id": image, "caption": text} for row, (image, text) in enumerate(said)]
    return {"info": {}, "images": images, "annotations": annotations}


def test_coco_captions_are_joined_by_image_id(images: Path) -> None:
    (images / "captions_val2014.json").write_text(json.dumps(coco()))
    pairs = read_pairs(images / "captions_val2014.json")
    assert shown(pairs) == {0: ["zero"], 1: ["one", "eins"]}
    assert pairs.skipped == [("2.jpg", "no caption.")]


def test_coco_boxes_are_no_captions(images: Path) -> None:
    boxes = coco()
    for annotation in boxes["annotations"]:
        annotation["bbox"] = annotation.pop("caption")
    (images / "instances.json").write_text(json.dumps(boxes))
    with pytest.raises(InputError, match=r"its annotations are no captions"):
        read_pairs(images / "instances.json")


LISTS = {
    "lavis train": [
        {"image": "val2014/1.jpg", "caption": "one", "image_id": "coco_1"},
        {"image": "val2014/1.jpg", "caption": "eins", "image_id": "coco_1"},
        {"image": "val2014/0.jpg", "caption": "zero", "image_id": "coco_0"},
    ],
    "lavis test": [
        {"image": "val2014/1.jpg", "caption": ["one", "eins"]},
        {"image": "val2014/0.jpg", "caption": ["zero"]},
    ],
    "llava": [
        {
            "id": "x",
            "image": "1.jpg",
            "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": said}],
        }
        for said in ("one",)
    ],
    "by image": {"1.jpg": ["one", "eins"], "0.jpg": "zero"},
    "below data": {
        "data": [{"file_name": "1.jpg", "captions": ["one", "eins"]}, {"file_name": "0.jpg", "captions": ["zero"]}]
    },
}


@pytest.mark.parametrize("name", LISTS)
def test_json_lists(images: Path, name: str) -> None:
    (images / "list.json").write_text("\ufeff" + json.dumps(LISTS[name]), encoding="utf-8")
    expected = {1: ["one"]} if name == "llava" else {1: ["one", "eins"], 0: ["zero"]}
    assert shown(read_pairs(images / "list.json")) == expected
    assert shown(read_pairs(images / "list.json", images=images / "val2014")) == expected


FLICKR = {
    "results.csv": 'image_name| comment_number| comment\n1.jpg| 0| one "two" , three .\n1.jpg| 1   eins .\n'
    "0.jpg| 0| zero",
    "results_20130124.token": '1.jpg#0\tone "two" , three .\n1.jpg#1\teins .\n0.jpg#0\tzero\n',
    "Flickr8k.token.txt": '1.jpg#0\tone "two" , three .\r\n1.jpg#1\teins .\r\n0.jpg#0\tzero\r\n',
    "captions.txt": 'image,caption\n1.jpg,"one ""two"" , three ."\n1.jpg,eins .\n0.jpg,zero\n',
}


@pytest.mark.parametrize("name", FLICKR)
def test_flickr_files_as_published(images: Path, name: str) -> None:
    (images / name).write_text(FLICKR[name])
    pairs = read_pairs(images / name, images=images / "val2014")
    assert shown(pairs) == {1: ['one "two" , three .', "eins ."], 0: ["zero"]}


@pytest.mark.parametrize("content", ["[1, 2]", '"text"', "{}", '{"images": 5}'])
def test_other_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match=r"x\.json: (expected a list|the table is empty)"):
        read_pairs(tmp_path / "x.json")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ist.DualEncoder:
    from toys import write_pairs

    table = write_pairs(tmp_path_factory.mktemp("pairs"))
    store = ist.embed(table, pixel_encoder(), word_encoder(), out=tmp_path_factory.mktemp("store"))
    encoders = {"image": [pixel_encoder()], "text": [word_encoder()]}
    trained = ist.train(store, recipe="cca")
    trained.encoders = encoders
    return trained


def test_retrieval_on_a_published_split_asks_with_five_captions(
    tmp_path: Path, images: Path, model: ist.DualEncoder
) -> None:
    listed = karpathy()
    for image in listed["images"]:
        image["split"] = "test" if image["imgid"] % 2 else "train"
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps(listed))
    found = ist.evaluate(
        model, "retrieval", tmp_path / "dataset_flickr30k.json", images=images / "val2014", split="test", bootstrap=0
    )
    assert (found["n"]["images"], found["n"]["texts"]) == (2, 10)
    assert found["dataset"] == str(tmp_path / "dataset_flickr30k.json")


def test_the_command_reads_a_published_split(
    tmp_path: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    model: ist.DualEncoder,
) -> None:
    monkeypatch.setattr("isthmus.evaluation.retrieval.fuses", lambda _: False)
    monkeypatch.setattr("isthmus.evaluation.retrieval.opened", lambda *_, **__: (model, "toy"))
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps(karpathy()))
    folder = tmp_path / "model"
    folder.mkdir()
    command = ["eval", str(folder), "retrieval", str(tmp_path / "dataset_flickr30k.json"), "--bootstrap", "0"]
    assert main([*command, "--images", str(images / "val2014"), "--json", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["n"]["texts"] == 20


def test_images_are_found_where_data_sets_keep_them(tmp_path: Path) -> None:
    for name in ("val2017/0.jpg", "flickr8k/Images/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(png(int(name[-5])))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(coco()))
    pairs = read_pairs(tmp_path / "annotations" / "captions_val2017.json").subset(["0.jpg"])
    assert shown(pairs) == {0: ["zero"]}
    (tmp_path / "flickr8k" / "captions.txt").write_text("image,caption\n1.jpg,one\n")
    assert shown(read_pairs(tmp_path / "flickr8k" / "captions.txt")) == {1: ["one"]}
