"""Readers of public data sets: a miniature of each archive, laid out as its authors publish it, and broken ones."""

from __future__ import annotations

import ast
import gzip
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

import oracles
from isthmus.data.labels import check_classes
from isthmus.errors import InputError
from isthmus.evaluation.datasets.eurosat import NAMES as EUROSAT
from isthmus.evaluation.datasets.names import class_names, synsets, templates
from isthmus.evaluation.datasets.registry import PUBLIC, markdown
from isthmus.evaluation.suite import BenchmarkSet, find_sets, open_set

DOCS = Path(__file__).parents[1] / "docs"


def touch(root: Path, names: Iterable[str]) -> None:
    """Files with the bytes of one small picture."""
    from toys import picture, png

    data = png(picture("red", "dark", "left"))
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def write(root: Path, name: str, lines: Iterable[str]) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("".join(f"{line}\n" for line in lines))


def food101(root: Path) -> None:
    """Beside the lists stand JSONs of the same content, which no reader needs."""
    folders = sorted(name.replace(" ", "_") for name in class_names("food101"))
    write(root, "meta/classes.txt", folders)
    for split, first in (("train", 1), ("test", 7)):
        names = [f"{folder}/{100 * i + first}" for i, folder in enumerate(folders)]
        write(root, f"meta/{split}.txt", names)
        touch(root / "images", [f"{name}.jpg" for name in names])


def dtd(root: Path) -> None:
    for split in ("train", "val", "test"):
        names = [f"{name}/{name}_{split}.jpg" for name in reversed(class_names("dtd"))]
        write(root, f"labels/{split}1.txt", names)
        touch(root / "images", names)
    touch(root / "imdb", ["imdb.mat"])


def pets(root: Path) -> None:
    """Cats begin with a capital, dogs do not; numbers are alphabetical without regard to that."""
    cats = {"Abyssinian", "Bengal", "Birman", "Bombay", "British Shorthair", "Egyptian Mau", "Maine Coon", "Persian"}
    cats |= {"Ragdoll", "Russian Blue", "Siamese", "Sphynx"}
    breeds = sorted(class_names("pets"), key=str.lower)
    files = [(b if b in cats else b.lower()).replace(" ", "_") for b in breeds]
    for list_, number in (("trainval", 1), ("test", 201)):
        rows = [f"{name}_{number} {i} {1 if name[0].isupper() else 2} 1" for i, name in enumerate(files, start=1)]
        write(root, f"annotations/{list_}.txt", reversed(rows))
        touch(root / "images", [f"{name}_{number}.jpg" for name in files])


def flowers(root: Path) -> None:
    root.mkdir(parents=True)
    labels = np.repeat(np.arange(1, 103), 2)[None].astype(np.uint8)
    ids = np.arange(1, 205)[None].astype(np.uint16)
    savemat(root / "imagelabels.mat", {"labels": labels})
    savemat(root / "setid.mat", {"tstid": ids[:, ::2], "trnid": ids[:, 1::4], "valid": ids[:, 3::4]})
    touch(root / "jpg", [f"image_{i:05d}.jpg" for i in range(1, 205)])


def cars(root: Path) -> None:
    names = [name.replace("C-V", "C/V") for name in class_names("cars")]
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": np.array(names, object)[None]})
    kinds = [("bbox_x1", "O"), ("bbox_y1", "O"), ("bbox_x2", "O"), ("bbox_y2", "O"), ("class", "O"), ("fname", "O")]
    rows = [(1, 2, 3, 4, 196 - i, f"{i + 1:05d}.jpg") for i in range(196)]
    for split, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        savemat(root / file, {"annotations": np.array(rows, dtype=kinds)[None]})
        touch(root / f"cars_{split}", [row[5] for row in rows])
    unlabelled = [(row[0], row[1], row[2], row[3], row[5]) for row in rows]
    savemat(root / "devkit" / "cars_test_annos.mat", {"annotations": np.array(unlabelled, dtype=kinds[:4] + kinds[5:])})


def fgvc_aircraft(root: Path) -> None:
    write(root, "data/variants.txt", class_names("fgvc_aircraft"))
    for split in ("train", "val", "trainval", "test"):
        rows = [f"{1000000 + i:07d} {name}" for i, name in enumerate(class_names("fgvc_aircraft"))]
        write(root, f"data/images_variant_{split}.txt", reversed(rows))
    touch(root / "data/images", [f"{1000000 + i:07d}.jpg" for i in range(100)])


def cub(root: Path) -> None:
    birds = [f"{i:03d}.Bird_of_kind_{i}" for i in range(1, 201)]
    birds[0] = "001.Black_footed_Albatross"
    files = [f"{bird}/{bird[4:]}_{k:04d}_1.jpg" for bird in birds for k in (0, 1)]
    write(root, "classes.txt", [f"{i} {bird}" for i, bird in enumerate(birds, start=1)])
    write(root, "images.txt", [f"{i} {file}" for i, file in enumerate(files, start=1)])
    write(root, "image_class_labels.txt", [f"{i + 1} {i // 2 + 1}" for i in range(400)])
    write(root, "train_test_split.txt", [f"{i + 1} {1 - i % 2}" for i in range(400)])
    touch(root / "images", files)


def eurosat(root: Path) -> None:
    touch(root / "2750", [f"{folder}/{folder}_{i}.jpg" for folder in EUROSAT for i in (1, 2)])


def caltech101(root: Path) -> None:
    touch(root / "101_ObjectCategories", [f"{name}/image_0001.jpg" for name in caltech_folders()])


def caltech_folders() -> list[str]:
    """The archive's folders, capitals first, from CLIP_benchmark's names in that order."""
    renamed = {
        **{"background": "BACKGROUND_Google", "off-center face": "Faces", "centered face": "Faces_easy"},
        **{"leopard": "Leopards", "motorbike": "Motorbikes", "airplane": "airplanes", "side of a car": "car_side"},
        **{"body of a cougar cat": "cougar_body", "face of a cougar cat": "cougar_face"},
        **{"head of a  crocodile": "crocodile_head", "head of a flamingo": "flamingo_head"},
        **{"snoopy (cartoon beagle)": "snoopy", "yin and yang symbol": "yin_yang", "gramophone": "gramophone"},
    }
    return [renamed.get(name, name.replace(" ", "_").replace("-", "_")) for name in class_names("caltech101")]


def sun397(root: Path) -> None:
    """`/c/church/indoor`: the letter is no part of the name."""
    indoor = ("indoor", "outdoor", "interior", "exterior", "shop", "public", "ice", "vegetation")
    folders = []
    for name in class_names("sun397"):
        *head, last = name.split(" ")
        inner = "_".join(head) + f"/{last}" if head and last in indoor else name.replace(" ", "_")
        folders.append(f"/{name[0]}/{inner}")
    write(root, "ClassName.txt", folders)
    write(root.parent / "Partitions", "Testing_01.txt", [f"{folder}/sun_b.jpg" for folder in folders])
    write(root.parent / "Partitions", "Training_01.txt", [f"{folder}/sun_a.jpg" for folder in folders])
    touch(root, [f"{folder[1:]}/sun_{k}.jpg" for folder in folders for k in "ab"])


def ucf101(root: Path) -> None:
    actions = class_names("ucf101")
    folders = [name.replace(" ", "_") for name in actions]
    tests = [f"{name.replace(' ', '')}/v_{name.replace(' ', '')}_g01_c01.avi" for name in actions]
    trains = [f"{test[:-13]}g08_c01.avi {i}" for i, test in enumerate(tests, start=1)]
    write(root, "ucfTrainTestlist/testlist01.txt", tests)
    write(root, "ucfTrainTestlist/trainlist01.txt", trains)
    videos = [*tests, *(train.split()[0] for train in trains)]
    names = [f"{folder}/{Path(video).stem}.jpg" for folder, video in zip(folders * 2, videos, strict=True)]
    touch(root / "UCF-101-midframes", names)


def fashion_mnist(root: Path) -> None:
    root.mkdir(parents=True)
    for prefix, n in (("train", 30), ("t10k", 20)):
        images = np.arange(n * 28 * 28).reshape(n, 28, 28).astype(np.uint8)
        head = np.array([2051, n, 28, 28], ">u4").tobytes()
        (root / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + images.tobytes()))
        labels = (np.arange(n) % 10).astype(np.uint8)
        head = np.array([2049, n], ">u4").tobytes()
        (root / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(head + labels.tobytes()))


def cifar(name: str, root: Path) -> None:
    classes = class_names(name)
    heads = [[i % 20, i] for i in range(100)] if name == "cifar100" else [[i] for i in range(10)]
    planes = np.stack([np.full((32, 32), value, np.uint8) for value in (200, 100, 50)]).reshape(-1)
    rows = np.stack([np.concatenate([np.array(head, np.uint8), planes]) for head in heads])
    root.mkdir(parents=True)
    for file in ["train.bin", "test.bin"] if name == "cifar100" else [f"data_batch_{i}.bin" for i in range(1, 6)]:
        rows.tofile(root / file)
    if name == "cifar10":
        rows.tofile(root / "test_batch.bin")
    listed = "fine_label_names.txt" if name == "cifar100" else "batches.meta.txt"
    write(root, listed, [*(c.replace(" ", "_") for c in classes), ""])


def imagenet_folders(root: Path) -> None:
    touch(root / "val", [f"{id}/ILSVRC2012_val_{i:08d}.JPEG" for i, id in enumerate(synsets("imagenet1k"), start=1)])


def imagenet_devkit(root: Path) -> None:
    """Pictures in one folder; the devkit's numbers are in no order of synsets, and inner nodes follow the classes."""
    ids = list(reversed(synsets("imagenet1k")))
    touch(root / "ILSVRC2012_img_val", [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 1001)])
    data = root / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    kinds = [(name, "O") for name in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")]
    rows = [(i, id, "a, b", "c", 0) for i, id in enumerate(ids, start=1)] + [(1001, "n00001740", "entity", "", 2)]
    savemat(data / "meta.mat", {"synsets": np.array(rows, dtype=kinds)[:, None]})
    write(data, "ILSVRC2012_validation_ground_truth.txt", [str(i) for i in range(1, 1001)])


def imagenet_kaggle(root: Path) -> None:
    ids = synsets("imagenet1k")
    touch(root / "ILSVRC/Data/CLS-LOC/val", [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 1001)])
    rows = [f"ILSVRC2012_val_{i:08d},{id} 85 1 499 272 " for i, id in enumerate(reversed(ids), start=1)]
    write(root, "LOC_val_solution.csv", ["ImageId,PredictionString", *rows])


def imagenetv2(root: Path) -> None:
    touch(root, [f"{i}/{i:040x}.jpeg" for i in range(1000)])


def synset_folders(name: str, root: Path) -> None:
    write(root, "README.txt", ["a remark"])
    touch(root, [f"{id}/0.jpg" for id in synsets(name)])


def objectnet(root: Path) -> None:
    """Five classes, of which four are ImageNet's; the order is the folders', not the mapping's."""
    labels = {"still_camera": "Still Camera", "air_freshener": "Air freshener", "banana": "Banana", "bench": "Bench"}
    labels["alarm_clock"] = "Alarm clock"
    shared = {"Alarm clock": "analog clock; digital clock", "Banana": "banana", "Bench": "park bench"}
    write(root, "mappings/folder_to_objectnet_label.json", [json.dumps(labels)])
    write(root, "mappings/objectnet_to_imagenet_1k.json", [json.dumps(shared | {"Still Camera": "Polaroid camera"})])
    for folder in labels:
        (root / "images" / folder).mkdir(parents=True)
        framed = np.full((20, 30, 3), (255, 0, 0), np.uint8)
        framed[1:-1, 1:-1] = 90
        Image.fromarray(framed).save(root / "images" / folder / "0a1b2c.png")


def flickr30k(root: Path) -> None:
    touch(root / "flickr30k-images", ["1000092795.jpg", "1007129816.jpg", "1009434119.jpg"])
    rows = [("1007129816.jpg", "test"), ("1000092795.jpg", "train"), ("1009434119.jpg", "test")]
    images = [{"filename": f, "split": s, "sentences": [{"raw": f"{f} {k}"} for k in range(5)]} for f, s in rows]
    write(root, "dataset_flickr30k.json", [json.dumps({"images": images, "dataset": "flickr30k"})])


def flickr30k_lists(root: Path) -> None:
    touch(root, ["1007129816.jpg", "1009434119.jpg"])
    lines = ["1007129816.jpg,A man, with a hat.", "1007129816.jpg,Earrings.", "1009434119.jpg,A dog.jpg, he says."]
    write(root, "flickr30k_test_karpathy.txt", ["image,caption", *lines])


def coco(root: Path) -> None:
    """Ids of captions are in no order of pictures, and six captions are as many as some pictures have."""
    for split, names in (("val2014", ["COCO_val2014_000000000042.jpg", "COCO_val2014_000000000073.jpg"]),
                         ("val2017", ["000000000139.jpg", "000000000285.jpg"])):  # fmt: skip
        touch(root / split, names)
        images = [{"id": int(name[-10:-4]), "file_name": name} for name in reversed(names)]
        notes = [{"id": 99 - k, "image_id": images[k % 2]["id"], "caption": f"caption {99 - k}"} for k in range(12)]
        file = "coco_test_karpathy.json" if split == "val2014" else "annotations/captions_val2017.json"
        write(root, file, [json.dumps({"images": images, "annotations": notes})])


CLASSIFICATION: dict[str, tuple[Callable[[Path], None], str, str | None]] = {  # layout: (made by, folder, split)
    "food101": (food101, "food-101", "test"),
    "dtd": (dtd, "dtd", "test"),
    "pets": (pets, "oxford-iiit-pet", "test"),
    "flowers": (flowers, "flowers-102", "test"),
    "cars": (cars, "stanford_cars", "test"),
    "fgvc_aircraft": (fgvc_aircraft, "fgvc-aircraft-2013b", "test"),
    "cub": (cub, "CUB_200_2011", "test"),
    "eurosat": (eurosat, "EuroSAT", "all"),
    "caltech101": (caltech101, "caltech-101", "all"),
    "sun397": (sun397, "SUN397", "test"),
    "ucf101": (ucf101, "ucf101", "test"),
    "fashion_mnist": (fashion_mnist, "FashionMNIST", "test"),
    "cifar10": (lambda root: cifar("cifar10", root), "cifar-10-batches-bin", "test"),
    "cifar100": (lambda root: cifar("cifar100", root), "cifar-100-binary", "test"),
    "imagenet1k": (imagenet_folders, "imagenet", "test"),
    "imagenet1k devkit": (imagenet_devkit, "ILSVRC2012", "test"),
    "imagenet1k kaggle": (imagenet_kaggle, "imagenet", "test"),
    "imagenetv2": (imagenetv2, "imagenetv2-matched-frequency-format-val", "test"),
    "imagenet-a": (lambda root: synset_folders("imagenet-a", root), "imagenet-a", "test"),
    "imagenet-r": (lambda root: synset_folders("imagenet-r", root), "imagenet-r", "test"),
    "imagenet_sketch": (lambda root: synset_folders("imagenet_sketch", root), "sketch", "test"),
    "objectnet": (objectnet, "objectnet-1.0", "test"),
}
# Of some classes in each set: the name, and a part of the id of a picture of it.
EXPECTED = {
    "food101": {0: ("apple pie", "apple_pie/"), 100: ("waffles", "waffles/")},
    "dtd": {0: ("banded", "banded/"), 46: ("zigzagged", "zigzagged/")},
    "pets": {0: ("Abyssinian", "Abyssinian_"), 1: ("american bulldog", "american_bulldog_"), 5: ("Bengal", "Bengal_")},
    "flowers": {0: ("pink primrose", "image_00001"), 101: ("blackberry lily", "image_00203")},
    "cars": {0: ("AM General Hummer SUV 2000", "00196"), 195: ("smart fortwo Convertible 2012", "00001")},
    "fgvc_aircraft": {0: ("707-320", "1000000"), 99: ("Yak-42", "1000099")},
    "cub": {0: ("Black footed Albatross", "001."), 199: ("Bird of kind 200", "200.")},
    "eurosat": {0: ("annual crop land", "AnnualCrop/"), 2: ("brushland or shrubland", "HerbaceousVegetation/")},
    "caltech101": {0: ("off-center face", "Faces/"), 4: ("accordion", "accordion/"), 5: ("airplane", "airplanes/")},
    "sun397": {0: ("abbey", "a/abbey/"), 9: ("apse indoor", "a/apse/indoor/")},
    "ucf101": {0: ("Apply Eye Makeup", "Apply_Eye_Makeup/"), 100: ("Yo Yo", "Yo_Yo/")},
    "fashion_mnist": {0: ("T-shirt/top", "test/0"), 9: ("Ankle boot", "test/9")},
    "cifar10": {0: ("airplane", "test/0"), 9: ("truck", "test/9")},
    "cifar100": {0: ("apple", "test/0"), 1: ("aquarium fish", "test/1"), 99: ("worm", "test/99")},
    "imagenet1k": {0: ("tench", "n01440764/"), 999: ("toilet paper", "n15075141/")},
    "imagenet1k devkit": {0: ("tench", "val_00001000"), 999: ("toilet paper", "val_00000001")},
    "imagenet1k kaggle": {0: ("tench", "val_00001000"), 999: ("toilet paper", "val_00000001")},
    "imagenetv2": {2: ("great white shark", "2/"), 10: ("brambling", "10/"), 999: ("toilet paper", "999/")},
    "imagenet-a": {0: ("stingray", "n01498041/"), 199: ("acorn", "n12267677/")},
    "imagenet-r": {0: ("goldfish", "n01443537/"), 199: ("acorn", "n12267677/")},
    "imagenet_sketch": {0: ("tench", "n01440764/"), 657: ("missile", "n03773504/"), 744: ("missile", "n04008634/")},
    "objectnet": {0: ("alarm clock", "alarm_clock/"), 3: ("still camera", "still_camera/")},
}


@pytest.mark.parametrize("layout", CLASSIFICATION)
def test_a_miniature_of_the_archive_is_read_in_the_order_of_its_classes(tmp_path: Path, layout: str) -> None:
    make, folder, split = CLASSIFICATION[layout]
    make(tmp_path / folder)
    name = layout.split(" ")[0]
    found = {key: path for key, path in find_sets(tmp_path).items() if key in PUBLIC}
    assert list(found) == [name]
    one = open_set(name, found[name], split)
    ids, labels = one.pairs.images["id"].to_pylist(), one.pairs.images["label"].to_pylist()
    assert set(labels) == {str(i) for i in range(len(one.classes))}, "a picture of every class"
    for number, (classname, part) in EXPECTED[layout].items():
        assert one.classes[number] == classname
        assert any(part in id for id in {i for i, label in zip(ids, labels, strict=True) if label == str(number)})
        assert not any(id.startswith(part) for id, label in zip(ids, labels, strict=True) if label != str(number)
                       and part.endswith("/"))  # fmt: skip
    assert one.templates
    assert one.pairs.decode(0).mode == "RGB"
    assert "papers report on those" in one.notes[0], "a miniature is not the published set"


@pytest.mark.parametrize("name", ["food101", "dtd", "pets", "flowers", "cars", "fgvc_aircraft", "cub", "sun397",
                                  "ucf101", "fashion_mnist", "cifar10"])  # fmt: skip
def test_training_and_test_pictures_differ_and_share_their_classes(tmp_path: Path, name: str) -> None:
    make, folder, _ = CLASSIFICATION[name]
    make(tmp_path / folder)
    train, test = (open_set(name, tmp_path / folder, split) for split in ("train", "test"))
    assert train.classes == test.classes
    if name not in ("cars", "fgvc_aircraft", "cifar10"):  # the miniatures of these use their pictures twice
        assert not set(train.pairs.images["id"].to_pylist()) & set(test.pairs.images["id"].to_pylist())


def captions(one: BenchmarkSet) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {id: [] for id in one.pairs.images["id"].to_pylist()}
    for row in one.pairs.captions.to_pylist():
        found[row["id"]].append(row["caption"])
    return found


def test_captions_of_flickr30k_in_both_forms(tmp_path: Path) -> None:
    flickr30k(tmp_path / "a" / "flickr30k")
    one = open_set("flickr30k", tmp_path / "a" / "flickr30k")
    assert captions(one)["1009434119.jpg"] == [f"1009434119.jpg {k}" for k in range(5)]
    assert list(captions(one)) == ["1007129816.jpg", "1009434119.jpg"]
    flickr30k_lists(tmp_path / "b" / "flickr30k")
    one = open_set("flickr30k", tmp_path / "b" / "flickr30k")
    assert captions(one)["1007129816.jpg"] == ["A man, with a hat.", "Earrings."]
    assert captions(one)["1009434119.jpg"] == ["A dog.jpg, he says."]


def test_captions_of_coco_in_karpathy_s_split_and_of_2017(tmp_path: Path) -> None:
    coco(tmp_path / "coco")
    found = find_sets(tmp_path)
    one = open_set("mscoco_captions", found["mscoco_captions"])
    assert list(captions(one)) == ["COCO_val2014_000000000042.jpg", "COCO_val2014_000000000073.jpg"]
    assert captions(one)["COCO_val2014_000000000073.jpg"][0] == "caption 89", "by id, as in COCO's own reader"
    assert len(one.pairs.captions) == 12
    assert set(captions(open_set("mscoco_captions", found["mscoco_captions"], "val2017"))) == {
        "000000000139.jpg",
        "000000000285.jpg",
    }


def test_objectnet_loses_its_red_frame(tmp_path: Path) -> None:
    objectnet(tmp_path / "objectnet-1.0")
    one = open_set("objectnet", tmp_path / "objectnet-1.0")
    picture = np.asarray(one.pairs.decode(0))
    assert picture.shape == (16, 26, 3)
    assert (picture == 90).all()


def test_colours_of_cifar_stay_in_their_planes(tmp_path: Path) -> None:
    cifar("cifar100", tmp_path / "cifar-100-binary")
    picture = np.asarray(open_set("cifar100", tmp_path / "cifar-100-binary").pairs.decode(3))
    assert picture.shape == (32, 32, 3)
    assert (picture == (200, 100, 50)).all()


def removed(*names: str) -> Callable[[Path], None]:
    return lambda root: [(root / name).unlink() for name in names] and None


def replaced(name: str, text: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_text(text) and None


def emptied(name: str) -> Callable[[Path], None]:
    return lambda root: [file.unlink() for file in (root / name).iterdir()] and None


@pytest.mark.parametrize(
    ("layout", "broken", "message"),
    [
        ("food101", removed("images/waffles/10007.jpg"), r"images/waffles/10007\.jpg: is missing.*meta/test\.txt"),
        ("food101", removed("meta/test.txt"), r"meta/test\.txt: is missing"),
        ("food101", replaced("meta/classes.txt", "apple_pie\nhaggis\n"), r"meta/test\.txt: no class 'baby_back_ribs'"),
        ("dtd", removed("labels/test1.txt"), r"labels/test1\.txt: is missing"),
        ("pets", removed("annotations/test.txt"), r"annotations/test\.txt: is missing"),
        ("pets", replaced("annotations/test.txt", "Abyssinian_201 1 1\n"), r"test\.txt, line 1: expected 4 words"),
        ("pets", replaced("annotations/test.txt", "Abyssinian_201 38 1 1\n"), r"test\.txt.*'38' is no class"),
        ("flowers", removed("imagelabels.mat"), r"imagelabels\.mat: is missing"),
        ("flowers", replaced("setid.mat", "MATLAB 7.3 MAT-file" + 200 * " "), r"setid\.mat: cannot be read"),
        ("cars", removed("cars_test_annos_withlabels.mat"), r"cars_test_annos_withlabels\.mat: is missing"),
        ("fgvc_aircraft", removed("data/variants.txt"), r"variants\.txt: is missing"),
        ("cub", removed("train_test_split.txt"), r"train_test_split\.txt: is missing"),
        ("cub", removed("image_class_labels.txt"), r"image_class_labels\.txt: is missing"),
        ("eurosat", emptied("2750/River"), r"2750/River: no pictures"),
        ("caltech101", emptied("101_ObjectCategories/yin_yang"), r"yin_yang: no pictures"),
        ("sun397", removed("../Partitions/Testing_01.txt"), r"Testing_01\.txt: is missing.*split `all`"),
        ("ucf101", removed("ucfTrainTestlist/testlist01.txt"), r"testlist01\.txt: is missing"),
        ("fashion_mnist", removed("t10k-labels-idx1-ubyte.gz"), r"t10k-labels-idx1-ubyte: is missing"),
        ("fashion_mnist", replaced("t10k-images-idx3-ubyte.gz", "no"), r"t10k-images-idx3-ubyte: cannot be read"),
        ("cifar10", replaced("test_batch.bin", "no"), r"test_batch\.bin: has 2 bytes"),
        ("imagenetv2", emptied("999"), r"999: no pictures"),
        ("imagenet-r", emptied("n12267677"), r"n12267677: no pictures"),
        ("objectnet", removed("mappings/objectnet_to_imagenet_1k.json"), r"objectnet_to_imagenet_1k\.json: is missing"),
    ],
)
def test_a_broken_archive_is_named_by_the_file(tmp_path: Path, layout: str, broken: Callable, message: str) -> None:
    make, folder, split = CLASSIFICATION[layout]
    make(tmp_path / folder)
    broken(tmp_path / folder)
    with pytest.raises(InputError, match=message):
        open_set(layout, tmp_path / folder, split)


def test_a_matlab_file_of_version_7_3_is_refused_in_words(tmp_path: Path) -> None:
    flowers(tmp_path / "flowers")
    head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + bytes([0x00, 0x02]) + b"IM"
    (tmp_path / "flowers" / "setid.mat").write_bytes(head + bytes(512))
    with pytest.raises(InputError, match=r"setid\.mat: is MATLAB 7\.3"):
        open_set("flowers", tmp_path / "flowers")


def test_the_python_version_of_cifar_is_no_pickle_to_open(tmp_path: Path) -> None:
    touch(tmp_path / "cifar-10-batches-py", ["batches.meta", "test_batch", "data_batch_1"])
    with pytest.raises(InputError, match=r"a pickle, which is not read; get cifar-10-binary\.tar\.gz"):
        open_set("cifar10", find_sets(tmp_path)["cifar10"])


def test_half_of_a_set_of_synsets_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "imagenet-a", [f"{id}/0.jpg" for id in synsets("imagenet-a")[:150]])
    with pytest.raises(InputError, match="n04147183: is missing, as are 49 more of the 200 classes"):
        open_set("imagenet-a", tmp_path / "imagenet-a")
    touch(tmp_path / "imagenet-r", [f"{id}/0.jpg" for id in (*synsets("imagenet-r"), "n01440764")])
    with pytest.raises(InputError, match="n01440764: is no class of imagenet-r"):
        open_set("imagenet-r", tmp_path / "imagenet-r")
    touch(tmp_path / "imagenetv2", [f"{i}/0.jpeg" for i in range(700)])
    with pytest.raises(InputError, match="700: is missing, as are 299 more of the 1,000 folders 0 to 999"):
        open_set("imagenetv2", tmp_path / "imagenetv2")


def test_imagenet_without_truth_or_packed_says_what_to_do(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "imagenet", ["val/ILSVRC2012_val_00000001.JPEG"])
    with pytest.raises(InputError, match=r"Put the devkit .* beside the pictures"):
        open_set("imagenet1k", tmp_path / "a" / "imagenet")
    touch(tmp_path / "b" / "imagenet", ["ILSVRC2012_img_val.tar"])
    with pytest.raises(InputError, match=r"ILSVRC2012_img_val\.tar must be extracted"):
        open_set("imagenet1k", tmp_path / "b" / "imagenet")


UNRECOGNISED = sorted(
    {name.split(" ")[0] for name in CLASSIFICATION} - {"fashion_mnist", "cifar10", "cifar100", "ucf101"}
)


@pytest.mark.parametrize("layout", UNRECOGNISED)
def test_an_archive_that_nobody_recognises_is_never_scored(tmp_path: Path, layout: str) -> None:
    """The same layouts under a name that says nothing: no reader is known, and no class is made up."""
    CLASSIFICATION[layout][0](tmp_path / "something")
    if layout in ("imagenet1k", "imagenet_sketch", "imagenet-a", "imagenet-r"):
        found = open_set("something", tmp_path / "something")  # synsets speak for themselves
        assert found.classes == class_names(layout)
        return
    with pytest.raises(InputError):
        open_set("something", tmp_path / "something")


def test_prepared_folders_of_a_known_set_are_matched_by_name(tmp_path: Path) -> None:
    folders = [name.replace(" ", "_") for name in class_names("food101")]
    touch(tmp_path / "food101" / "test", [f"{folder}/1.jpg" for folder in folders])
    assert open_set("food101", tmp_path / "food101").classes == sorted(class_names("food101"))
    (tmp_path / "food101" / "test" / "waffles").rename(tmp_path / "food101" / "test" / "haggis")
    with pytest.raises(InputError, match="no class 'haggis' is known"):
        open_set("food101", tmp_path / "food101")


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (["cat"], True, "only 'cat'"),
        ([], False, "here is none"),
        (["images", "meta"], False, "are folders that hold pictures"),
        (["cars_train", "cars_test"], False, "are folders that hold pictures"),
        (["0", "1", "10"], False, "'0' is an id"),
        (["n01440764", "cat"], True, "'n01440764' is an id"),
    ],
)
def test_names_from_which_no_score_can_come(names: list[str], given: bool, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_classes(names, "here", given=given)


def test_names_that_only_look_odd_pass() -> None:
    check_classes(["bullet train", "train", "car", "boat"], "here")
    check_classes(["0", "1"], "here", given=True)
    check_classes(["747-400", "A380"], "here")
    check_classes(["3", "4"], "here", read=False)


def test_packaged_names_and_prompts_are_those_of_their_sources() -> None:
    scope: dict = {}
    exec(oracles.file_from_wheel(*oracles.OPEN_CLIP, "open_clip/zero_shot_metadata.py").read_text(), scope)
    assert class_names("imagenet1k") == list(scope["IMAGENET_CLASSNAMES"])
    assert templates("imagenet-r") == [template("{}") for template in scope["OPENAI_IMAGENET_TEMPLATES"]]
    folder = "clip_benchmark/datasets"
    theirs = json.loads(oracles.file_from_wheel(*oracles.CLIP_BENCHMARK, f"{folder}/en_classnames.json").read_text())
    for name in ("flowers", "caltech101", "imagenet1k"):
        assert class_names(name) == theirs[name]
    assert sorted(map(str.lower, class_names("pets"))) == sorted(map(str.lower, theirs["pets"]))
    prompts = f"{folder}/en_zeroshot_classification_templates.json"
    theirs = json.loads(oracles.file_from_wheel(*oracles.CLIP_BENCHMARK, prompts).read_text())
    for name in set(theirs) & set(PUBLIC):
        assert templates(name) == [template.replace("{c}", "{}") for template in theirs[name]]
    source = oracles.file_from_wheel(*oracles.CLIP_BENCHMARK, f"{folder}/builder.py").read_text()
    ids = {k: ast.literal_eval(v) for k, v in re.findall(r"(\w+_(?:wnids|ids)) = ([\[{].*?[\]}])\n", source, re.S)}
    assert synsets("imagenet1k") == ids["all_imagenet_wordnet_ids"]
    assert synsets("imagenet-a") == sorted(ids["imagenet_a_wnids"])
    assert synsets("imagenet-r") == sorted(ids["imagenet_r_wnids"])


def test_the_table_of_the_docs_is_that_of_the_readers() -> None:
    assert markdown() in (DOCS / "datasets.md").read_text()
