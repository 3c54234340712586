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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import isthmus_demo
import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file
from tabulate import tabulate

import isthmus as ist
from isthmus.contact_sheet import contact_sheet
from isthmus.data.compositional import Files, Question, read_winoground
from isthmus.demo.scenes import BIG, SMALL, Cutout, Place, beside, compose, names, pick, read_cutouts, scatter
from isthmus.evaluation.longtext_report import tick_labels
from isthmus.files import write_json

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "composition_study.json"
PAGE = HERE.parent / "docs" / "composition.md"
SIDE = 288  # pixels of a scene; the encoders see 240
EXAMPLES = 150  # of each kind, each of another pair of things
PAIRS = 100  # pairs of things in all four relations
COUNTS = range(1, 13)
EACH_COUNT = 40
LONG = 25  # scenes of each number of things
UNCOUNTED = ("cherries", "corn", "garlic", "grapes", "ice cream", "scissors")  # no plain plural
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
OPPOSITE = {"left of": "right of", "above": "below"}
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
PLACES = [f"at the {y} {x}" for y in ("top", "middle", "bottom") for x in ("left", "centre", "right")]


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


# --- captions -------------------------------------------------------------------------------------------------


def a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    irregular = {"sheep": "sheep", "fish": "fish", "mouse": "mice"}
    if noun in irregular:
        return irregular[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh", "tomato")) else "s")


def some(count: int, noun: str) -> str:
    return f"{NUMBERS[count - 1]} {noun if count == 1 else plural(noun)}"


# --- scenes in the public layouts -------------------------------------------------------------------------------


def write_all(out: Path, cutouts: list[Cutout]) -> None:
    """Everything that is measured; what is there already is taken as it is."""
    for name, write in (("winoground", winoground), ("whatsup", whatsup), ("counting", counting), ("long", long)):
        if not (out / name / "done").exists():
            (out / name).mkdir(parents=True, exist_ok=True)
            write(out / name, cutouts)
            (out / name / "done").touch()
            print("wrote", out / name, flush=True)


def winoground(out: Path, cutouts: list[Cutout]) -> None:
    """Pairs of scenes that differ in one thing, which the two captions say with the same words; and, of the same
    scenes, SugarCrepe's questions: another noun, another relation, one thing more.
    """
    (out / "images").mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    crepe: dict[str, dict[str, dict[str, str]]] = {}
    sheet = []
    for kind, (first, second), captions, scenes, wrong in examples(cutouts):
        id = len(rows)
        for k, places in enumerate(scenes):
            image = compose(places, names(cutouts), seed=id, side=SIDE).image
            image.save(out / "images" / f"ex_{id}_img_{k}.jpg", quality=92)
            sheet += [(image, captions[k])] if id % EXAMPLES < 2 else []
        tags = {"tag": f"{first.name}, {second.name}", "collapsed_tag": kind}
        named = {
            f"{what}_{k}": (f"ex_{id}_img_{k}", captions[k])[what == "caption"]
            for what in ("image", "caption")
            for k in (0, 1)
        }
        rows.append({"id": id} | named | tags)
        for name, caption in {f"swap_{kind}": captions[1], **wrong}.items():
            asked = crepe.setdefault(name, {})
            asked[str(len(asked))] = {
                "filename": f"ex_{id}_img_0.jpg",
                "caption": captions[0],
                "negative_caption": caption,
            }
    (out / "examples.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (out / "sugarcrepe").mkdir(exist_ok=True)
    for name, asked in crepe.items():
        write_json(out / "sugarcrepe" / f"{name}.json", asked)
    contact_sheet([i for i, _ in sheet], [c for _, c in sheet], columns=4).save(out / "samples.png")


def examples(cutouts: list[Cutout]) -> Iterator[tuple[str, list[Cutout], list[str], list[list[Place]], dict[str, str]]]:
    """Kind, the two things, two captions, the places of two scenes, and wrong captions of the first by their kind."""
    rng = np.random.default_rng(0)
    for kind in ("left-right", "above-below", "size", "count"):
        for one, two in pairs_of(names(cutouts), EXAMPLES, rng):
            things = pick(cutouts, [one, two], rng)
            other = str(rng.choice([name for name in names(cutouts) if name not in (one, two)]))
            if kind in ("left-right", "above-below"):
                relation = {"left-right": "left of", "above-below": "above"}[kind]
                captions = [f"{a(one)} {relation} {a(two)}", f"{a(two)} {relation} {a(one)}"]
                scenes = [beside(*things, relation, rng), beside(*things[::-1], relation, rng)]
                wrong = {
                    "replace_object": f"{a(one)} {relation} {a(other)}",
                    "replace_relation": f"{a(one)} {OPPOSITE[relation]} {a(two)}",
                    "add_object": f"{captions[0]} and {a(other)}",
                }
            elif kind == "size":
                captions = [f"a big {one} and a small {two}", f"a small {one} and a big {two}"]
                scenes = [scatter(things, rng, sizes=sizes) for sizes in ((BIG, SMALL), (SMALL, BIG))]
                wrong = {}
            else:
                many = int(rng.integers(2, 5))
                counts = [(many, 1), (1, many)]
                captions = [f"{some(m, one)} and {some(n, two)}" for m, n in counts]
                scenes = [scatter([things[0]] * m + [things[1]] * n, rng) for m, n in counts]
                wrong = {"replace_count": f"{some(many + (-1) ** id_parity(one), one)} and {some(1, two)}"}
            yield kind, things, captions, scenes, wrong


def id_parity(text: str) -> int:
    return sum(text.encode()) % 2


def pairs_of(nouns: list[str], count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """`count` different unordered pairs of nouns, each in random order."""
    both = [(x, y) for i, x in enumerate(nouns) for y in nouns[i + 1 :]]
    chosen = [both[i] for i in rng.permutation(len(both))[:count]]
    return [pair if rng.random() < 0.5 else pair[::-1] for pair in chosen]


def whatsup(out: Path, cutouts: list[Cutout]) -> None:
    """Two things in all four relations, the same drawings on the same background; four captions to choose from."""
    rng = np.random.default_rng(1)
    (out / "controlled_images").mkdir(exist_ok=True)
    relations = ("left of", "right of", "above", "below")
    rows, sheet = [], []
    for n, (one, two) in enumerate(pairs_of(names(cutouts), PAIRS, rng)):
        things = pick(cutouts, [one, two], rng)
        captions = {relation: f"{a(one)} {relation} {a(two)}" for relation in relations}
        for relation in relations:
            name = "_".join([one.replace(" ", "-"), *relation.split(), two.replace(" ", "-")]) + ".jpeg"
            image = compose(
                beside(*things, relation, np.random.default_rng(n)), names(cutouts), seed=n, side=SIDE
            ).image
            image.save(out / "controlled_images" / name, quality=92)
            wrong = [caption for key, caption in captions.items() if key != relation]
            rows.append(
                {"image_path": f"data/controlled_images/{name}", "caption_options": [captions[relation], *wrong]}
            )
            sheet += [(image, captions[relation])] if n < 3 else []
    write_json(out / "controlled_images_dataset.json", rows)
    contact_sheet([i for i, _ in sheet], [c for _, c in sheet], columns=4).save(out / "samples.png")


def counting(out: Path, cutouts: list[Cutout]) -> None:
    """One to twelve of the same thing; twelve captions to choose from."""
    rng = np.random.default_rng(2)
    rows, sheet = [], []
    for count in COUNTS:
        for n in range(EACH_COUNT):
            noun = str(rng.choice(names(cutouts)))
            places = scatter(pick(cutouts, [noun], rng) * count, rng)
            image = compose(places, names(cutouts), seed=n, side=SIDE).image
            image.save(out / f"{count}_{n}.jpg", quality=92)
            rows.append({"image": f"{count}_{n}.jpg", "noun": noun, "count": count})
            sheet += [(image, some(count, noun))] if n == 0 else []
    write_json(out / "counts.json", rows)
    contact_sheet([i for i, _ in sheet], [c for _, c in sheet], columns=4).save(out / "samples.png")


def long(out: Path, cutouts: list[Cutout]) -> None:
    """One to twelve things each, and a caption that names them one after the other with their places."""
    rng = np.random.default_rng(3)
    rows, sheet = [], []
    for n, count in enumerate(count for count in COUNTS for _ in range(LONG)):
        nouns = [names(cutouts)[i] for i in rng.permutation(len(names(cutouts)))[:count]]
        places = scatter(pick(cutouts, nouns, rng), rng)
        image = compose(places, names(cutouts), seed=n, side=SIDE).image
        image.save(out / f"{n:03d}.jpg", quality=92)
        where = [PLACES[3 * int(3 * min(p.y, 0.999)) + int(3 * min(p.x, 0.999))] for p in places]
        sentences = [f"There is {a(noun)} {at} of the picture." for noun, at in zip(nouns, where, strict=True)]
        rows.append({"image": f"{n:03d}.jpg", "caption": " ".join(sentences)})
        sheet += [(image, " ".join(sentences)[:90])] if n % (3 * LONG) == LONG else []
    (out / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    contact_sheet([i for i, _ in sheet], [c for _, c in sheet], columns=4, size=280).save(out / "samples.png")


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


SHOWN_KINDS = {"left-right": "left of", "above-below": "above", "size": "big, small", "count": "how many of each"}
CHOICES = {
    "replace_object": "another noun",
    "add_object": "a third thing, not there",
    "replace_relation": "the opposite relation",
    "replace_count": "one more or less",
    "swap_left-right": "nouns swapped, left of",
    "swap_above-below": "nouns swapped, above",
    "swap_size": "sizes swapped",
    "swap_count": "counts swapped",
}


def judge(result: dict[str, Any], name: str) -> str:
    """`above`, `below` or `` (not told from) chance, by the 95 % interval."""
    low, high = result["ci95"][name]
    chance = result["chance"][name]
    return "above" if low > chance else "below" if high < chance else ""


def cell(result: dict[str, Any], name: str, compare: bool = True) -> str:
    value, (low, high) = result["metrics"][name], result["ci95"][name]
    word = judge(result, name) if compare else ""
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]{' ' + word if word else ''}"


def grid(rows: list[list[str]], heads: list[str]) -> str:
    return tabulate(rows, headers=heads, tablefmt="github", disable_numparse=True)


def render(found: dict[str, Any]) -> str:
    models = found["models"]
    first = next(iter(models))
    main, others = models[first], [name for name in models if "sugarcrepe" in models[name]]
    draw(main)
    scores = ("text_score", "image_score", "group_score", "matching_score")
    (wino,) = main["winoground"]
    kinds = {row["category"]: row for row in wino["per_category"]}
    winoground = [[shown, *(cell(kinds[kind], score) for score in scores)] for kind, shown in SHOWN_KINDS.items()]
    winoground.append(["all", *(cell(wino, score) for score in scores)])
    heads = [[name, *(cell(models[name]["winoground"][0], score) for score in scores)] for name in others]
    crepe = {name: {one["dataset"].partition("/")[2]: one for one in models[name]["sugarcrepe"]} for name in others}
    choices = [[shown, *(cell(crepe[name][key], "accuracy") for name in others)] for key, shown in CHOICES.items()]
    (whatsup,) = main["whatsup"]
    relations = [[row["category"].replace("_", " "), cell(row, "accuracy")] for row in whatsup["per_category"]]
    relations += [[f"all four, {name}", cell(whatsup, f"{name}_accuracy")] for name in ("pair", "set")]
    (counting,) = main["counting"]
    counts = [[row["category"].strip(), cell(row, "accuracy", compare=False)] for row in counting["per_category"]]
    keys = [f"{way}_retrieval_recall@{k}" for way in ("image", "text") for k in (1, 10)]
    lengths = [
        [str(one["max_tokens"]), str(one["truncated"]), *(cell(one, key, compare=False) for key in keys)]
        for one in main["longtext"]
    ]
    bins = [
        [f"{row['tokens'][0]} to {row['tokens'][1]}", str(row["n"]), *(f"{100 * row[k]:.1f}" for k in keys[:2])]
        for row in main["longtext"][-1]["by_length"]
    ]
    sides = ("captions", "other captions", "pictures", "other pictures")
    alike = [[SHOWN_KINDS[kind], *(f"{row[side]:.3f}" for side in sides)] for kind, row in main["alike"].items()]
    languages = [
        [
            one["language"],
            cell(one, "acc1", compare=False),
            f"{100 * one['reading']['unknown_tokens']:.0f} %",
            f"{one['reading']['characters_per_token']:.1f}",
        ]
        for one in main["languages"]
        if one["task"] == "zeroshot_classification"
    ]
    refused = "\n".join(f"- {reason}" for one in main["languages"] for _, reason in one.get("skipped") or [])
    return PAGE_TEXT.format(
        **found,
        verdict=verdict(main),
        encoders=" × ".join(main["encoders"]),
        first=first,
        winoground=grid(winoground, ["scenes differ in", *(score.replace("_", " ") for score in scores)]),
        heads=grid(heads, ["head", *(score.replace("_", " ") for score in scores)]),
        choices=grid(choices, ["wrong caption", *others]),
        relations=grid(relations, ["truth", "accuracy"]),
        counts=grid(counts, ["things", "accuracy"]),
        all_counts=cell(counting, "accuracy"),
        lengths=grid(
            lengths, ["tokens read", "captions cut", "caption → image, R@1", "R@10", "image → caption, R@1", "R@10"]
        ),
        bins=grid(bins, ["tokens of the caption", "captions", "caption → image, R@1", "R@10"]),
        alike=grid(alike, ["scenes differ in", *sides]),
        languages=grid(languages, ["language", "acc1", "unknown tokens", "characters a token"]),
        refused=refused,
        n_languages=main["languages"][0]["n"]["images"],
    )


def verdict(main: dict[str, Any]) -> str:
    """What the intervals decide, in words."""
    (wino,), (whatsup,), (counting,) = main["winoground"], main["whatsup"], main["counting"]
    crepe = {one["dataset"].partition("/")[2]: one for one in main["sugarcrepe"]}
    long, short = main["longtext"][-1], main["longtext"][0]

    def says(result: dict[str, Any], name: str) -> str:
        where = {"above": "above chance", "below": "below chance", "": "not told from chance"}[judge(result, name)]
        return f"{cell(result, name, compare=False)} %, {where} ({100 * result['chance'][name]:.3g})"

    kinds = [f"{SHOWN_KINDS[row['category']]}: {says(row, 'matching_score')}" for row in wino["per_category"]]
    lines = {
        "What is there": f"Another noun in the caption is refused in {says(crepe['replace_object'], 'accuracy')}.",
        "What is not there": f"A third thing is refused in {says(crepe['add_object'], 'accuracy')}.",
        "Where, how big, how many of which": f"The right matching of two scenes and two captions: {'; '.join(kinds)}.",
        "Winoground's own scores": f"Image: {says(wino, 'image_score')}. Group: {says(wino, 'group_score')}.",
        "Four relations": f"{says(whatsup, 'accuracy')}; all four right: {says(whatsup, 'set_accuracy')}.",
        "Counting to twelve": f"{says(counting, 'accuracy')}.",
        "Long captions": compared(long, short),
    }
    return "\n".join(f"- **{name}.** {line}" for name, line in lines.items())


def compared(long: dict[str, Any], short: dict[str, Any]) -> str:
    """Captions read to their end against their beginnings; a tie where the intervals overlap."""
    key = "image_retrieval_recall@10"
    apart = long["ci95"][key][0] > short["ci95"][key][1] or long["ci95"][key][1] < short["ci95"][key][0]
    few, all_of_it = (f"{cell(one, key, False)} % with {one['max_tokens']} tokens" for one in (short, long))
    return f"R@10 is {few} and {all_of_it}{'' if apart else ': the intervals overlap'}."


def draw(main: dict[str, Any]) -> None:
    """Counting and long captions, as docs/composition_curves.png."""
    from matplotlib.figure import Figure

    figure = Figure((9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = main["counting"][0]["per_category"]
    counts = [int(row["category"]) for row in rows]
    values = np.array([row["metrics"]["accuracy"] for row in rows])
    low, high = np.array([row["ci95"]["accuracy"] for row in rows]).T
    left.errorbar(
        counts, 100 * values, 100 * np.stack([values - low, high - values]), fmt="o", color="#2a9d8f", capsize=2
    )
    left.axhline(100 / len(counts), color="#8d99ae", ls=":")
    left.set(xlabel="things in the picture", ylabel="right number chosen, %", xticks=counts, ylim=(-2, None))
    tokens = [one["max_tokens"] for one in main["longtext"]]
    for colour, way in (("#e08a1e", "image"), ("#3b82f6", "text")):
        key = f"{way}_retrieval_recall@10"
        low, high = 100 * np.array([one["ci95"][key] for one in main["longtext"]]).T
        label = {"image": "caption → image", "text": "image → caption"}[way]
        right.plot(tokens, [100 * one["metrics"][key] for one in main["longtext"]], "o-", color=colour, label=label)
        right.fill_between(tokens, low, high, color=colour, alpha=0.15, lw=0)
    right.axhline(1000 / main["longtext"][0]["n"]["images"], color="#8d99ae", ls=":")
    right.set(xscale="log", xlabel="tokens read of each caption", ylabel="R@10, %", ylim=(0, None))
    right.set_xticks(tokens, tick_labels(tokens))
    right.minorticks_off()
    right.legend(frameon=False, loc="lower right")
    figure.savefig(PAGE.with_name("composition_curves.png"), dpi=110)


PAGE_TEXT = """# What a head on frozen encoders knows of composition

Written by `benchmarks/composition_study.py --render` from `benchmarks/results/composition_study.json`; do not edit.

{verdict}

![Scenes and their captions](composition.png)

Scenes are composed from {cutouts} cut-outs of {nouns} things of the demo's test split, which no model was trained on:
the truth is exact. Two scenes of an example have the same drawings and the same background. The model is the
demo's `{first}` ({encoders}), trained on titles and keywords of single
drawings, never on a scene or a sentence. Brackets are 95 % intervals over examples; as all scenes share {cutouts}
drawings, they are somewhat too narrow. "above" and "below" say on which side of chance an interval lies; without a word
it holds chance.

## Two scenes, two captions (Winoground's layout)
150 examples of each kind. Chance is 25 for text and image score, 16.7 for the group, 50 for the matching.

{winoground}

Chance supposes independent scores. A model that does not see the difference prefers one picture for both captions and
stands below. The matching score takes such preferences out. Other heads on the same encoders:

{heads}

Mean cosines within an example, and between different examples, in the joint space:

{alike}

An example's two captions are nearly one; its pictures differ, most where sizes or counts do. The text encoder's mean
of tokens holds which words there are and hardly their order, and no head can bring back what its input lacks. Why sizes
are matched the wrong way round more often than not, we have not found out.

## One scene, two captions (SugarCrepe's layout)
Chance is 50. A score below it is a preference for the wrong wording ("right" for "left"), whatever the picture.

{choices}

## One scene, four captions (What's Up's layout)
100 pairs of things in four relations; chance is 25, 6.2 for a relation and its opposite, 0.4 for all four.

{relations}

## Counting
One to twelve of one thing, twelve captions; chance is 8.3, which any answer given to all pictures gets too. All:
{all_counts}. Of each number there are 40 pictures; intervals near 0 are rough.

{counts}

## Long captions
300 scenes of one to twelve things; a caption names each with its place in a sentence of its own. The same captions,
cut; chance is 0.3 for R@1 and 3.3 for R@10:

{lengths}

By their own length, all of it read (longer captions have fuller pictures):

{bins}

![Counting, and recall against the tokens that are read](composition_curves.png)

## Languages
{n_languages} labelled drawings of ten categories of unequal size, class names in six languages; a uniform guess gets
10. The text encoder is an English one: this is what an unsuitable encoder looks like.

{languages}

Refused:
{refused}

## To see it for yourself
```
python benchmarks/composition_study.py
isthmus eval out/demo/model winoground out/composition/winoground
isthmus eval out/demo/model sugarcrepe out/composition/winoground/sugarcrepe --images out/composition/winoground/images
isthmus eval out/demo/model whatsup    out/composition/whatsup
isthmus eval out/demo/model longtext   out/composition/long/pairs.jsonl --report lengths.html
```
"""


if __name__ == "__main__":
    main()
