"""Every snippet of docs/formats/ runs on files of that form, and gives what its page says."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import re
import tarfile
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from isthmus import read_pairs
from isthmus.errors import IsthmusError

PAGES = sorted((Path(__file__).parent.parent / "docs" / "formats").glob("*.md"))
TEXT = "\n".join(page.read_text("utf-8") for page in PAGES)
ROWS = re.findall(r"^\| (.+?) \| `(read_pairs\(.+?\))` \| (\d+) images, (\d+) captions \|$", TEXT, re.M)


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


def put(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_tables(root: Path) -> None:
    for number in (1, 2):
        for folder in ("csv", "csv/pictures", "json", "json/val2014", "parquet"):
            put(root / folder / f"{number}.jpg", png(number))
    put(root / "csv/pairs.csv", 'image,caption\n1.jpg,"one, red"\n2.jpg,two\n')
    (root / "csv/pairs.csv.gz").write_bytes(gzip.compress((root / "csv/pairs.csv").read_bytes()))
    put(root / "csv/captions.txt", "image,caption\n1.jpg,one\n1.jpg,eins\n2.jpg,two\n2.jpg,zwei\n")
    put(root / "csv/train.csv", "filepath\ttitle\n1.jpg\tone\n2.jpg\ttwo\n")
    put(root / "csv/odd.csv", "nr,where,said\n1,1.jpg,one\n2,2.jpg,two\n")
    put(root / "csv/excel.csv", "\ufeffimage;caption\r\n1.jpg;one\r\n2.jpg;two\r\n")
    put(root / "csv/lists.csv", "image,caption\n1.jpg,\"['one', 'eins']\"\n2.jpg,\"['two', 'zwei']\"\n")
    put(root / "csv/names.tsv", "image\tcaption\n1.jpg\tone\nelsewhere/2.jpg\ttwo\n")
    cells = [base64.b64encode(png(number)).decode() for number in (1, 2)]
    put(root / "csv/base64.tsv", f"17\t{cells[0]}\tone\n18\t{cells[1]}\ttwo\n")
    put(
        root / "json/pairs.jsonl",
        '{"image": "1.jpg", "captions": ["one", "eins"]}\n{"image": "2.jpg", "caption": "two"}\n',
    )
    rows = [("val2014/1.jpg", "one"), ("val2014/1.jpg", "eins"), ("val2014/2.jpg", "two")]
    listed = [{"image": image, "caption": caption, "image_id": image[-5:]} for image, caption in rows]
    put(root / "json/coco_karpathy_train.json", json.dumps(listed))
    table = pa.table({"image": [png(1), png(2)], "caption": ["one", "two"]})
    pq.write_table(table, root / "parquet/pairs.parquet")
    (root / "parquet/data").mkdir()
    for number, split in enumerate(("train", "train", "test")):
        pq.write_table(table.slice(number % 2, 1), root / f"parquet/data/{split}-{number:05d}-of-00003.parquet")
    with pa.ipc.new_file(root / "parquet/pairs.arrow", table.schema) as writer:
        writer.write_table(table)


def write_folders(root: Path) -> None:
    for number, said in ((1, "one\neins"), (2, "two")):
        put(root / f"folder/{number}.jpg", png(number))
        put(root / f"folder/{number}.txt", said)
        put(root / f"images/deep/{number}.JPE", png(number))
        put(root / f"imagefolder/train/{number}.jpg", png(number))
    rows = [{"file_name": f"{number}.jpg", "text": said} for number, said in ((1, "one"), (2, "two"))]
    put(root / "imagefolder/train/metadata.jsonl", "\n".join(map(json.dumps, rows)))
    for name in ("train/cat/1.png", "train/dog/2.png", "test/cat/3.png"):
        put(root / "classes" / name, png(1))
    put(root / "saved/state.json", json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    table = pa.table({"image": [{"bytes": png(k), "path": None} for k in (1, 2)], "caption": ["one", "two"]})
    with pa.ipc.new_stream(root / "saved/data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    (root / "tars").mkdir()
    for number in (0, 1):
        with tarfile.open(root / f"tars/{number:05d}.tar", "w") as archive:
            for name, data in ((f"{number}.jpg", png(number)), (f"{number}.txt", b"said"), (f"{number}.json", b"{}")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        put(root / f"tars/{number:05d}_stats.json", "{}")


def write_published(root: Path) -> None:
    for number in (1, 2):
        put(root / f"coco/val2017/{number}.jpg", png(number))
        put(root / f"flickr/flickr30k-images/{number}.jpg", png(number))
    said = [(1, "one"), (1, "eins"), (2, "two")]
    coco = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2)],
        "annotations": [{"id": k, "image_id": image, "caption": caption} for k, (image, caption) in enumerate(said)],
    }
    put(root / "coco/captions_val2017.json", json.dumps(coco))
    put(root / "coco/by_image.json", json.dumps({"1.jpg": ["one", "eins"], "2.jpg": "two"}))
    images = [
        {"filename": f"{n}.jpg", "split": split, "sentences": [{"raw": f"{n} {k}", "tokens": []} for k in range(5)]}
        for n, split in ((1, "train"), (2, "test"))
    ]
    put(root / "flickr/dataset_flickr30k.json", json.dumps({"images": images, "dataset": "flickr30k"}))
    lines = [f"{n}.jpg| {k}| {text} ." for k, (n, text) in enumerate(said)]
    put(root / "flickr/results.csv", "\n".join(["image_name| comment_number| comment", *lines]))
    tokens = [f"{n}.jpg#{k}\t{text} ." for k, (n, text) in enumerate(said)]
    put(root / "flickr/results_20130124.token", "\n".join(tokens))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("formats")
    for write in (write_tables, write_folders, write_published):
        write(root)
    return root


def test_every_snippet_of_the_pages_is_a_row() -> None:
    assert len(ROWS) == TEXT.count("| `read_pairs(") >= 26


@pytest.mark.parametrize(("form", "snippet", "images", "captions"), ROWS, ids=[row[0] for row in ROWS])
def test_snippet(
    examples: Path, monkeypatch: pytest.MonkeyPatch, form: str, snippet: str, images: str, captions: str
) -> None:
    monkeypatch.chdir(examples)
    frame = pd.DataFrame({"file_name": ["csv/1.jpg", "csv/2.jpg"], "text": ["one", "two"]})
    pairs = eval(snippet, {"read_pairs": read_pairs, "frame": frame})  # our own page
    assert (len(pairs), len(pairs.captions)) == (int(images), int(captions))
    assert pairs.skipped == []
    for row in range(len(pairs)):
        pairs.decode(row)


JUNK = (
    b"\0",
    b"\xff",
    b'"',
    b"[",
    b"}",
    b"\n",
    b"\r",
    b"\t",
    b";",
    b"1e999",
    b"NaN",
    b"\\ud800",
    b"://",
    b'"image": 5, ',
)


def test_damaged_files_of_every_format_are_never_a_traceback(tmp_path: Path) -> None:
    for write in (write_tables, write_folders, write_published):
        write(tmp_path)
    draw = random.Random(0)
    for path in sorted(file for file in tmp_path.rglob("*") if file.suffix not in (".jpg", ".JPE", ".png")):
        if path.is_dir():
            continue
        whole = path.read_bytes()
        for _ in range(4):
            damaged = bytearray(whole)
            for _ in range(draw.randint(1, 3)):
                place = draw.randrange(len(damaged) + 1)
                damaged[place : place + draw.randint(0, 8)] = draw.choice(JUNK)
            path.write_bytes(damaged[: draw.choice([len(damaged), draw.randrange(len(damaged) + 1)])])
            for data in (path, path.parent):
                with suppress(IsthmusError):
                    pairs = read_pairs(data, captions="optional")
                    with suppress(IsthmusError):
                        pairs.decode(0)
        path.write_bytes(whole)
