"""The input of `same_results.py`: toy pictures, random encoders and every layout of data, in miniature, made once.

Run by the tests' own helpers (`tests/toys.py`, `tests/tiny_encoders.py`), so it needs no network and no weights.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

WORDS = "a an the of at photo square take dark pale plain bright red green blue yellow left right top bottom , . 0 1 2"
RECIPE = """description = "A recipe of one's own"
[head]
image = "linear"
text = "mlp"
width = 8
[loss]
name = "sigmoid"
[optim]
batch = 32
epochs = 4
"""


def make_input(root: Path) -> None:
    """Everything that the cases read, below `root`."""
    import toys

    table = toys.write_pairs(root / "pairs")
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    write_lines(root / "pairs" / "few.jsonl", map(json.dumps, rows[:40]))
    toys.write_pairs(root / "bad", copies=1)
    (root / "bad" / "0-000.png").write_bytes(b"")
    (root / "bad" / "0-007.png").write_bytes(b"not a picture")
    make_encoders(root / "encoders")
    make_tables(root, rows)
    make_arrays(root)
    make_texts(root, rows)
    make_labelled(root)
    make_composition(root)
    make_languages(root)


def make_encoders(root: Path) -> None:
    """Random networks in the hub's format: DINOv2, BERT, GPT-2 and a Sentence-Transformers pipeline."""
    import tiny_encoders as tiny

    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS.split()])}
    shape = {**tiny.TEXT, "vocab_size": len(words), "max_position_embeddings": 64}
    tiny.save_dinov2(root / "vit")
    tiny.save_tokenizer(tiny.save_network(root / "bert", "Bert", shape), words=words)
    tiny.save_gpt2(root / "gpt2")
    tiny.save_sentence_pipeline(root / "sentence")


def make_tables(root: Path, rows: list[dict[str, Any]]) -> None:
    """The same pairs as a folder, WebDataset tars, Parquet and CSV; labelled pictures; ids."""
    for number, row in enumerate(rows[:24]):
        photo = root / "photos" / f"p{number:02d}.png"
        write_bytes(photo, (root / "pairs" / row["image"]).read_bytes())
        photo.with_suffix(".txt").write_text(row["caption"])
    samples = [{"png": (root / "pairs" / r["image"]).read_bytes(), "txt": r["caption"].encode()} for r in rows[:20]]
    write_tar(root / "tars" / "00000.tar", samples[:12])
    write_tar(root / "tars" / "00001.tar", samples[12:])
    columns = {name: [row[name] for row in rows[:30]] for name in ("image", "caption", "label", "split")}
    columns["image"] = [f"../pairs/{name}" for name in columns["image"]]
    write_parquet(root / "tables" / "pairs.parquet", **columns, lang=["en", "de", "en"] * 10)
    with (root / "tables" / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *zip(columns["image"], columns["caption"], strict=True)])
    write_parquet(root / "tables" / "labelled.parquet", **{k: columns[k] for k in ("image", "label")})
    write_parquet(root / "only.parquet", id=[row["image"] for row in rows[::2]])


def make_arrays(root: Path) -> None:
    """Features made elsewhere: two arrays, and clip-retrieval's layout in two partitions."""
    draws = np.random.default_rng(0)
    arrays, laion = root / "arrays", root / "laion"
    arrays.mkdir()
    np.save(arrays / "image.npy", draws.standard_normal((60, 8)).astype(np.float32))
    np.save(arrays / "text.npy", draws.standard_normal((60, 6)).astype(np.float32))
    write_lines(arrays / "ids.txt", (f"row {i}" for i in range(60)))
    write_lines(arrays / "captions.txt", (f"a {c} square, take {i}" for i in range(15) for c in COLOURS))
    for part in range(2):
        for name in ("img_emb", "text_emb"):
            (laion / name).mkdir(parents=True, exist_ok=True)
            features = draws.standard_normal((30, 8))
            unit = features / np.linalg.norm(features, axis=1, keepdims=True)
            np.save(laion / name / f"{name}_{part}.npy", unit.astype(np.float16))
        ids = [f"{30 * part + i:09d}" for i in range(30)]
        captions = [f"a {COLOURS[i % 4]} square number {i}" for i in range(30)]
        write_parquet(laion / "metadata" / f"metadata_{part}.parquet", image_path=ids, caption=captions)


COLOURS = ("red", "green", "blue", "yellow")


def make_texts(root: Path, rows: list[dict[str, Any]]) -> None:
    """Class names, descriptions, entries, a recipe, and what cannot be read."""
    write_lines(root / "names.txt", COLOURS)
    write_lines(root / "entries.txt", ["red", "green", "square", "dark blue", "left"])
    described = {name: [f"a {name} square", f"a photo of a {name} square at the left"] for name in COLOURS}
    (root / "descriptions.json").write_text(json.dumps(described))
    write_lines(root / "templates.txt", ["a {} square.", "a photo of a {} square."])
    (root / "own.toml").write_text(RECIPE)
    (root / "broken.toml").write_text("[head\n")
    (root / "nothing.jsonl").write_text("")
    write_lines(root / "no-captions.jsonl", [json.dumps({"picture": rows[0]["image"]})])


def make_labelled(root: Path) -> None:
    """Pictures with masks, and a suite of two data sets in CLIP_benchmark's layout."""
    for number in range(6):
        mask = np.zeros((42, 42), np.uint8)
        mask[:, 14 * (number % 3) : 14 * (number % 3) + 14] = 1
        pixels = np.where(mask[..., None], (220, 30, 30), (30, 60, 200)).astype(np.uint8)
        write_bytes(root / "scenes" / "images" / f"{number}.png", encoded(Image.fromarray(pixels)))
        write_bytes(root / "scenes" / "masks" / f"{number}.png", encoded(Image.fromarray(mask)))
    write_lines(root / "scenes" / "classes.txt", ["blue", "red"])
    pets, flickr = root / "suite" / "wds_vtab-pets", root / "suite" / "wds_flickr30k"
    labelled = [{"png": square(n), "cls": str(n % 4).encode()} for n in range(24)]
    for split in ("train", "test"):
        write_tar(pets / split / "0.tar", labelled)
    write_lines(pets / "classnames.txt", COLOURS)
    write_lines(pets / "zeroshot_classification_templates.txt", ["a {c} square.", "{c}"])
    captioned = [{"png": square(n), "txt": f"a {COLOURS[n % 4]} square\ntake {n % 3}".encode()} for n in range(16)]
    write_tar(flickr / "test" / "0.tar", captioned)
    write_lines(flickr / "dataset_type.txt", ["retrieval"])


def make_composition(root: Path) -> None:
    """Winoground, MMVP, SugarCrepe, ARO and What's Up, a few questions of each."""
    make_winoground_and_mmvp(root)
    for n in range(6):
        for folder in ("sugarcrepe/images", "aro/images"):
            write_bytes(root / folder / f"{n}.png", square(n))
        write_bytes(root / "whatsup" / "val2017" / f"{n:012d}.jpg", square(n, "JPEG"))
    right, wrong = (
        [f"a {COLOURS[n % 4]} square" for n in range(6)],
        [f"a {COLOURS[n % 3 - 1]} square" for n in range(6)],
    )
    crepe = {n: {"filename": f"{n}.png", "caption": right[n], "negative_caption": wrong[n]} for n in range(6)}
    write_json(root / "sugarcrepe" / "add_att.json", crepe)
    box = {f"bbox_{key}": value for key, value in zip("xywh", (2, 2, 18, 18), strict=True)}
    cut = [{"image_path": f"{n}.png", "true_caption": right[n], "false_caption": wrong[n], **box} for n in range(6)]
    write_json(root / "aro" / "visual_genome_relation.json", [{**one, "relation_name": "at"} for one in cut])
    write_json(root / "aro" / "visual_genome_attribution.json", [{**one, "attributes": ["red", "dark"]} for one in cut])
    order = [{"image": f"images/{n}.png", "caption_options": [right[n], wrong[n], "square a"]} for n in range(6)]
    write_json(root / "aro" / "coco_order.json", [{**one, "image": one["image"][7:]} for one in order])
    write_json(root / "whatsup" / "coco_qa_two_obj.json", [[n, f"{right[n]} above it", wrong[n]] for n in range(6)])
    relations = ("left_of", "right_of", "on", "under")
    for n, relation in enumerate(relations):
        write_bytes(root / "whatsup" / "controlled_images" / f"mug_{relation}_table.jpeg", square(n, "JPEG"))
    options = [[f"a mug {name} a table" for name in relations[n:] + relations[:n]] for n in range(4)]
    asked = [
        {"image_path": f"x/mug_{name}_table.jpeg", "caption_options": options[n]} for n, name in enumerate(relations)
    ]
    write_json(root / "whatsup" / "controlled_images_dataset.json", asked)


def make_winoground_and_mmvp(root: Path) -> None:
    examples, statements = [], [("Question ID", "Type", "Statement")]
    for n in range(4):
        example: dict[str, Any] = {"id": n, "tag": "Noun", "collapsed_tag": ("Object", "Relation")[n % 2]}
        for k in range(2):
            write_bytes(root / "winoground" / "images" / f"ex_{n}_img_{k}.png", square(n + 5 * k))
            example |= {f"image_{k}": f"ex_{n}_img_{k}", f"caption_{k}": f"a {COLOURS[(n + k) % 4]} square"}
            write_bytes(root / "mmvp" / "MLLM_VLM Images" / "Colour" / f"{2 * n + k}.jpg", square(n + 5 * k, "JPEG"))
            statements.append((str(2 * n + k), "Colour", f"a {COLOURS[(n + k) % 4]} square"))
        examples.append(example)
    write_lines(root / "winoground" / "examples.jsonl", map(json.dumps, examples))
    with (root / "mmvp" / "Questions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(statements)


def make_languages(root: Path) -> None:
    """Long captions as Urban1k has them, captions in two languages as XTD-10 has them, and the classes' names."""
    for n in range(24):
        write_bytes(root / "urban" / "image" / f"{n:02d}.jpg", square(n, "JPEG"))
        caption = f"a {COLOURS[n % 4]} square at the top, " * (1 + n % 5) + "a photo"
        write_lines(root / "urban" / "caption" / f"{n:02d}.txt", [caption])
    names = [f"{n}.png" for n in range(12)]
    for n, name in enumerate(names):
        write_bytes(root / "xtd" / "images" / name, square(n))
    write_lines(root / "xtd" / "test_image_names.txt", names)
    write_lines(root / "xtd" / "XTD10" / "test_1kcaptions_en.txt", [f"a {COLOURS[n % 4]} square" for n in range(12)])
    write_lines(root / "xtd" / "XTD10" / "test_1kcaptions_de.txt", [f"rot , blau a {n % 3} ." for n in range(12)])
    write_lines(root / "xtd" / "XTD10" / "test_1kcaptions_ko.txt", ["빨간 사각형"] * 12)
    named = {"templates": ["a photo of a {}"], "classes": {name: name for name in COLOURS}}
    write_json(root / "languages" / "en.json", named)


def square(number: int, kind: str = "PNG") -> bytes:
    """One of the toy pictures as an image file."""
    import toys

    picture = toys.picture(COLOURS[number % 4], toys.SHADES[number // 4 % 4], toys.PLACES[number % 3], seed=number)
    return encoded(picture, kind)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_lines(path: Path, lines: Any) -> None:
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, json.dumps(value).encode())


def write_parquet(path: Path, **columns: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def write_tar(path: Path, samples: list[dict[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, sample in enumerate(samples):
            for extension, content in sample.items():
                member = tarfile.TarInfo(f"s{number:07d}.{extension}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
