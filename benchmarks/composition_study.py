"""Composition, relations, counts and long captions on scenes whose truth is known: docs/composition.md.

    python benchmarks/composition_study.py             # ten minutes on one core
    python benchmarks/composition_study.py --render    # docs/composition.md from the committed JSON

Scenes are composed from cut-outs of the demo's test split, which no model was trained on, and written in the public
layouts, so that `isthmus eval MODEL winoground out/composition/winoground` gives the same numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

import isthmus as ist
import isthmus_demo
from composition_page import PAGE, render
from composition_scenes import COUNTS, SIDE, UNCOUNTED, some, write_all
from isthmus.evaluation.datasets.questions import Files, Question
from isthmus.evaluation.datasets.winoground import read_winoground
from isthmus.files import write_json
from isthmus_demo.scenes import names, read_cutouts

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "composition_study.json"
LABELS = ("bird", "boat", "book", "clock", "fish", "flower", "fruit", "house", "insect", "tree")
LANGUAGES = {  # a template and the names of LABELS
    "en": ("a drawing of a {}", "bird", "boat", "book", "clock", "fish", "flower", "fruit", "house", "insect", "tree"),
    "de": ("Zeichnung: {}", "Vogel", "Boot", "Buch", "Uhr", "Fisch", "Blume", "Obst", "Haus", "Insekt", "Baum"),
    "fr": (
        "dessin : {}",
        "oiseau",
        "bateau",
        "livre",
        "horloge",
        "poisson",
        "fleur",
        "fruit",
        "maison",
        "insecte",
        "arbre",
    ),
    "ru": ("рисунок: {}", "птица", "лодка", "книга", "часы", "рыба", "цветок", "фрукт", "дом", "насекомое", "дерево"),
    "ja": ("{}の絵", "鳥", "船", "本", "時計", "魚", "花", "果物", "家", "昆虫", "木"),
    "am": ("{} ስዕል", "ወፍ", "ጀልባ", "መጽሐፍ", "ሰዓት", "ዓሣ", "አበባ", "ፍራፍሬ", "ቤት", "ነፍሳት", "ዛፍ"),
}


def main() -> None:
    options = parse()
    if options.render:
        PAGE.write_text(render(json.loads(RESULTS.read_text())), encoding="utf-8")
        return
    cutouts = [cutout for cutout in read_cutouts(split="test") if cutout.name not in UNCOUNTED]
    write_all(options.out, cutouts)
    facts = {"cutouts": len(cutouts), "nouns": len(names(cutouts)), "side": SIDE}
    found = {"models": {}, **(json.loads(RESULTS.read_text()) if RESULTS.exists() else {}), **facts}
    for path in options.models:
        name = Path(path).name
        model = Cached.from_pretrained(path).remember(options.out / "features.safetensors")
        done = found["models"].setdefault(name, {})
        done["encoders"] = [record["uri"] for modality in ("image", "text") for record in model.records[modality]]
        shutil.copy(options.out / "winoground" / "samples.png", PAGE.with_name("composition.png"))
        for part, run in PARTS.items():
            if part not in done:
                done[part] = run(model, options.out, options.bootstrap)
                model.keep()
                write_json(RESULTS, found)
                print(name, part, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["out/demo/models/default"])
    parser.add_argument("--out", type=Path, default=Path("out/composition"), help="the scenes, kept for looking at")
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--render", action="store_true")
    return parser.parse_args()


class Cached(ist.DualEncoder):
    """A model that encodes a picture once for all models over the same image encoder."""

    def remember(self, path: Path) -> Cached:
        self.path = path
        self.cache = load_file(path) if path.exists() else {}
        return self

    def keep(self) -> None:
        save_file(self.cache, self.path)

    def encode_image(self, images: Any, *, batch_size: int = 32, as_tensor: bool = False) -> Any:
        keys = [hashlib.blake2b(self.key + image.tobytes(), digest_size=16).hexdigest() for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self.cache}
        if new:
            pictures = list(new.values())
            features = [encoder.encode(pictures, batch_size=batch_size) for encoder in self.encoders["image"]]
            self.cache |= {key: row.copy() for key, row in zip(new, np.concatenate(features, axis=1), strict=True)}
        return self.project("image", np.stack([self.cache[key] for key in keys]), as_tensor=as_tensor)

    @property
    def key(self) -> bytes:
        return "".join(encoder.fingerprint for encoder in self.encoders["image"]).encode()


def run_winoground(model: Cached, out: Path, bootstrap: int) -> Any:
    return ist.evaluate(model, "winoground", out / "winoground", bootstrap=bootstrap)


def run_sugarcrepe(model: Cached, out: Path, bootstrap: int) -> Any:
    images = out / "winoground" / "images"
    return ist.evaluate(model, "sugarcrepe", images.parent / "sugarcrepe", images=images, bootstrap=bootstrap)


def run_whatsup(model: Cached, out: Path, bootstrap: int) -> Any:
    return ist.evaluate(model, "whatsup", out / "whatsup", bootstrap=bootstrap)


def run_counting(model: Cached, out: Path, bootstrap: int) -> Any:
    return ist.evaluate(model, "whatsup", {"counting": count_questions(out / "counting")}, bootstrap=bootstrap)


def run_longtext(model: Cached, out: Path, bootstrap: int) -> Any:
    report = out / "long" / "report.html"
    return ist.evaluate(model, "longtext", out / "long" / "pairs.jsonl", report=report, bootstrap=bootstrap)


def run_alike(model: Cached, out: Path, bootstrap: int) -> dict[str, dict[str, float]]:
    """Mean cosines, by kind, of an example's two captions and two pictures, and of those of different examples."""
    (questions,) = read_winoground(out / "winoground").values()
    found = {}
    for kind in sorted({question.category for question in questions}):
        asked = [question for question in questions if question.category == kind]
        text = np.stack([model.encode_text(list(question.captions)) for question in asked])
        image = np.stack([model.encode_image([picture.load() for picture in question.images]) for question in asked])
        row = {}
        for name, emb in (("captions", text), ("pictures", image)):
            row[name] = float((emb[:, 0] * emb[:, 1]).sum(-1).mean())
            row[f"other {name}"] = float((emb[:, 0] * np.roll(emb[:, 0], 1, axis=0)).sum(-1).mean())
        found[kind] = row
    return found


def run_languages(model: Cached, out: Path, bootstrap: int) -> Any:
    """Labelled drawings of the demo's test split, by class names in six languages."""
    folder = out / "classes"
    folder.mkdir(exist_ok=True)
    for lang, (template, *translated) in LANGUAGES.items():
        naming = {"templates": [template], "classes": dict(zip(LABELS, translated, strict=True))}
        write_json(folder / f"{lang}.json", naming)
    table = pq.read_table(isthmus_demo.PAIRS, columns=["id", "label", "split"]).to_pylist()
    wanted = [row["id"] for row in table if row["split"] == "test" and row["label"] in LABELS]
    pairs = ist.read_pairs(isthmus_demo.PAIRS).subset(wanted)
    found = ist.evaluate(model, "multilingual", pairs, classes=folder, bootstrap=bootstrap)
    return [{**one, "confusion": None, "per_class": None} for one in found]


PARTS = {
    "winoground": run_winoground,
    "sugarcrepe": run_sugarcrepe,
    "whatsup": run_whatsup,
    "counting": run_counting,
    "longtext": run_longtext,
    "alike": run_alike,
    "languages": run_languages,
}


def count_questions(folder: Path) -> list[Question]:
    files = Files(folder)
    questions = []
    for row in json.loads((folder / "counts.json").read_text()):
        right, noun = row["count"], row["noun"]
        counts = [right, *(count for count in COUNTS if count != right)]
        captions = tuple(some(count, noun) for count in counts)
        questions.append(Question(row["image"], (files.picture(row["image"]),), captions, f"{right:2d}", row["image"]))
    return questions


if __name__ == "__main__":
    main()
