"""Scenes whose truth is known, in the public layouts of Winoground, SugarCrepe and What's Up; counts, long captions.

They are composed from cut-outs of drawings, each with captions that say what is there, how many of it and where.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.files import write_json
from isthmus.report.contact_sheet import contact_sheet
from isthmus_demo.scenes import BIG, SMALL, Cutout, Place, beside, compose, names, pick, scatter

SIDE = 288  # pixels of a scene; the encoders see 240
EXAMPLES = 150  # of each kind, each of another pair of things
PAIRS = 100  # pairs of things in all four relations
COUNTS = range(1, 13)
EACH_COUNT = 40
LONG = 25  # scenes of each number of things
UNCOUNTED = ("cherries", "corn", "garlic", "grapes", "ice cream", "scissors")  # no plain plural
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
OPPOSITE = {"left of": "right of", "above": "below"}
PLACES = [f"at the {y} {x}" for y in ("top", "middle", "bottom") for x in ("left", "centre", "right")]


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
