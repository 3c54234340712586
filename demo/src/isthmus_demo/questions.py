"""Scenes with questions whose answers are known: things of the demo's cut-outs, some of them tinted, blurred or turned.

    packs = split_cutouts(read_cutouts(split=None))               # train, val and test from different drawings
    scene = question_scene(packs["train"], np.random.default_rng(0))
    write_question_scenes("out/questions", {"train": 700, "val": 100, "test": 250})

A scene is a grid of 2 × 2 places; one to three kinds of things lie on some of them. Each of `KINDS` gives at most one
question a scene. Statements (`write_statements`) are true, false or undetermined: they name a colour, of a thing that
has it, of one that has another, or of one that is not there. All three are worded alike, so that words alone tell
nothing. Everything is a pure function of the cut-outs and the seed.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageFilter, ImageOps

from isthmus.data.groups import whole_groups
from isthmus.errors import InputError
from isthmus.files import read_cached, write_sealed
from isthmus_demo import PAIRS
from isthmus_demo.scenes import Cutout, Place, compose, names, read_cutouts

Picked = TypeVar("Picked")

SIDE = 224  # pixels of a scene
SHARES = {"train": 0.55, "val": 0.15, "test": 0.3}  # of the drawings of a name
FEWEST = {"train": 5, "val": 1, "test": 3}  # drawings of a name, or it is left out
ALIKE = ("airplane", "ball", "gear", "lemon", "orange")  # the same, or as usual, upside down
NO_SINGULAR = ("cherries", "corn", "garlic", "grapes", "ice cream", "scissors")  # names that a question cannot count
PLURALS = {"fish": "fish", "mouse": "mice", "sheep": "sheep"}
COLOURS = {
    "red": (214, 40, 40),
    "orange": (240, 140, 20),
    "yellow": (235, 210, 30),
    "green": (40, 160, 60),
    "blue": (40, 90, 210),
    "purple": (130, 60, 170),
}
NUMBERS = ("one", "two", "three")
PLACES = ("top left", "top right", "bottom left", "bottom right")
LARGE, SMALL = 0.44, 0.24  # of the scene's side
BLUR = 4.0  # pixels, of a scene of 224
TINTED = 0.6  # share of things
SHARES_OF = (0.4, 0.4, 0.5, 0.5)  # shares of things that are blurred, turned, large, mirrored
GROUND = 0.25  # how colourful the background is: colours are asked of things
LABELS = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class Thing:
    """One kind of thing in a scene. colour: its tint, None for its own colours. cells: where it is, 0 to 3.

    mirrored: left for right, which nothing asks about: there are few drawings of a name.
    """

    name: str
    cutout: Cutout
    colour: str | None
    blurred: bool
    turned: bool
    large: bool
    mirrored: bool
    cells: tuple[int, ...]


@dataclass(frozen=True)
class QuestionScene:
    """image: RGB. absent: names that are not in it."""

    image: Image.Image
    things: tuple[Thing, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True)
class SceneQuestion:
    question: str
    answer: str
    kind: str


def split_cutouts(cutouts: Sequence[Cutout], groups: Mapping[str, str] | None = None) -> dict[str, list[Cutout]]:
    """The cut-outs of each split: no drawing, and no near-duplicate of one, is in two of them.

    groups: of near-duplicates by id; default, those of the demo's table. Drawings of equal pixels go together too.
    Names that are then too rare in a split are left out, as are those without a singular. Raises `InputError` where
    none is left.
    """
    groups = _groups() if groups is None else groups
    pixels = np.unique([content(one) for one in cutouts], return_inverse=True)[1]
    together = whole_groups([groups.get(one.id) for one in cutouts], pixels).tolist()
    by_name: dict[str, dict[int, list[Cutout]]] = {}
    for one, group in zip(cutouts, together, strict=True):
        by_name.setdefault(one.name, {}).setdefault(group, []).append(one)
    found: dict[str, list[Cutout]] = {split: [] for split in SHARES}
    taken: dict[int, str] = {}
    for name in sorted(set(by_name) - {*NO_SINGULAR}):
        parts = _shared(by_name[name], taken)
        if all(len(parts[split]) >= least for split, least in FEWEST.items()):
            for split, some in parts.items():
                found[split] += some
                taken |= {group: split for group, listed in by_name[name].items() if listed[0] in some}
    if not found["train"]:
        raise InputError("No name has enough drawings for scenes of all splits.")
    return found


def content(cutout: Cutout) -> str:
    """A hash of the pixels."""
    return hashlib.blake2b(cutout.image.tobytes(), digest_size=16).hexdigest()


def _shared(groups: Mapping[int, Sequence[Cutout]], taken: Mapping[int, str]) -> dict[str, list[Cutout]]:
    """The groups of one name, the largest first, each to the split that lacks most; one that another name has placed
    stays there."""
    parts: dict[str, list[Cutout]] = {split: [] for split in SHARES}
    for group in sorted(groups, key=lambda group: (-len(groups[group]), _hash(groups[group][0].id))):
        lacking = {split: share - len(parts[split]) / sum(map(len, groups.values())) for split, share in SHARES.items()}
        parts[taken.get(group) or max(lacking, key=lacking.__getitem__)] += groups[group]
    return parts


def _hash(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def _groups() -> dict[str, str]:
    rows = pq.read_table(PAIRS, columns=["id", "group"]).to_pylist()
    return {row["id"]: row["group"] or row["id"] for row in rows}


def question_scene(cutouts: Sequence[Cutout], rng: np.random.Generator, *, side: int = SIDE) -> QuestionScene:
    """A scene of one to three kinds of things, of which one may be there several times."""
    known = names(cutouts)
    count = int(rng.integers(1, 4))
    chosen = [known[i] for i in rng.permutation(len(known))[:count]]
    numbers = [1] * count
    if rng.random() < 0.6:
        numbers[0] = int(rng.integers(1, min(3, 5 - count) + 1))
    cells = [int(cell) for cell in rng.permutation(4)[: sum(numbers)]]
    things, start = [], 0
    for name, number in zip(chosen, numbers, strict=True):
        things.append(_thing(name, cutouts, rng, tuple(cells[start : start + number])))
        start += number
    image = _drawn(things, rng, side)
    absent = [known[i] for i in rng.permutation(len(known)) if known[i] not in chosen]
    return QuestionScene(image, tuple(things), tuple(absent))


def _thing(name: str, cutouts: Sequence[Cutout], rng: np.random.Generator, cells: tuple[int, ...]) -> Thing:
    own = [one for one in cutouts if one.name == name]
    colour = list(COLOURS)[rng.integers(len(COLOURS))] if rng.random() < TINTED else None
    blurred, turned, large, mirrored = (
        bool(draw < share) for draw, share in zip(rng.random(4), SHARES_OF, strict=True)
    )
    return Thing(name, own[rng.integers(len(own))], colour, blurred, turned, large, mirrored, cells)


def _drawn(things: Sequence[Thing], rng: np.random.Generator, side: int) -> Image.Image:
    places = []
    for thing in things:
        cutout = Cutout(thing.cutout.id, thing.name, None, _altered(thing, side))
        size = LARGE if thing.large else SMALL
        room = (0.5 - size) / 2 - 0.01
        for cell in thing.cells:
            x, y = np.array([cell % 2, cell // 2]) / 2 + 0.25 + rng.uniform(-room, room, 2)
            places.append(Place(cutout, float(x), float(y), size))
    known = sorted({thing.name for thing in things})
    return compose(places, known, seed=int(rng.integers(2**31)), colour=GROUND, side=side).image


def _altered(thing: Thing, side: int) -> Image.Image:
    """The cut-out as it is in the scene: tinted by its brightness, turned, blurred."""
    image = thing.cutout.image
    if thing.colour is not None:
        alpha = image.getchannel("A")
        grey = ImageOps.autocontrast(image.convert("L"), cutoff=1)
        rgb = COLOURS[thing.colour]
        dark, light = (tuple(round(c * 0.25) for c in rgb), tuple(round(255 - (255 - c) * 0.45) for c in rgb))
        image = ImageOps.colorize(grey, dark, light, mid=rgb).convert("RGBA")
        image.putalpha(alpha)
    if thing.mirrored:
        image = ImageOps.mirror(image)
    if thing.turned:
        image = image.transpose(Image.Transpose.ROTATE_180)
    if thing.blurred:
        pixels = max(image.size) / (side * (LARGE if thing.large else SMALL))  # of the drawing for one of the scene
        wide = round(2 * BLUR * side / SIDE * pixels)
        image = ImageOps.expand(image, wide, (0, 0, 0, 0))
        image = image.filter(ImageFilter.GaussianBlur(BLUR * side / SIDE * pixels))
    return image


# --- questions --------------------------------------------------------------------------------------------------------


def _colour(scene: QuestionScene, rng: np.random.Generator) -> SceneQuestion | None:
    tinted = [thing for thing in scene.things if thing.colour]
    if not tinted:
        return None
    thing = _one(tinted, rng)
    return SceneQuestion(f"What colour is the {thing.name}?", str(thing.colour), "colour")


def _blur(scene: QuestionScene, rng: np.random.Generator) -> SceneQuestion:
    thing = _one(scene.things, rng)
    return SceneQuestion(f"Is the {thing.name} blurred?", _yes(thing.blurred), "blur")


def _size(scene: QuestionScene, rng: np.random.Generator) -> SceneQuestion:
    thing = _one(scene.things, rng)
    return SceneQuestion(f"Is the {thing.name} large or small?", "large" if thing.large else "small", "size")


def _count(scene: QuestionScene, rng: np.random.Generator) -> SceneQuestion:
    thing = scene.things[0]
    return SceneQuestion(f"How many {plural(thing.name)} are there?", NUMBERS[len(thing.cells) - 1], "count")


def _where(scene: QuestionScene, rng: np.random.Generator) -> SceneQuestion | None:
    single = [thing for thing in scene.things if len(thing.cells) == 1]
    if not single:
        return None
    thing = _one(single, rng)
    return SceneQuestion(f"Where is the {thing.name}?", PLACES[thing.cells[0]], "where")


def _exists(scene: QuestionScene, rng: np.random.Generator) -> SceneQuestion:
    there = bool(rng.random() < 0.5)
    name = _one(scene.things, rng).name if there else scene.absent[0]
    return SceneQuestion(f"Is there {article(name)} {name}?", _yes(there), "exists")


def _left(scene: QuestionScene, rng: np.random.Generator) -> SceneQuestion | None:
    single = [thing for thing in scene.things if len(thing.cells) == 1]
    pairs = [(a, b) for a in single for b in single if a.cells[0] % 2 != b.cells[0] % 2]
    if not pairs:
        return None
    a, b = _one(pairs, rng)
    return SceneQuestion(f"Is the {a.name} left of the {b.name}?", _yes(a.cells[0] % 2 < b.cells[0] % 2), "left of")


def _flip(scene: QuestionScene, rng: np.random.Generator) -> SceneQuestion | None:
    upright = [thing for thing in scene.things if thing.name not in ALIKE]
    if not upright:
        return None
    thing = _one(upright, rng)
    return SceneQuestion(f"Is the {thing.name} upside down?", _yes(thing.turned), "flip")


KINDS: dict[str, Callable[[QuestionScene, np.random.Generator], SceneQuestion | None]] = {
    "colour": _colour,
    "blur": _blur,
    "size": _size,
    "count": _count,
    "where": _where,
    "exists": _exists,
    "left of": _left,
    "flip": _flip,
}


def scene_questions(scene: QuestionScene, rng: np.random.Generator) -> list[SceneQuestion]:
    """At most one question of each kind: of those that the scene has an answer to."""
    return [found for ask in KINDS.values() if (found := ask(scene, rng)) is not None]


def scene_statements(scene: QuestionScene, rng: np.random.Generator) -> list[tuple[str, str]]:
    """A statement with each of `LABELS` about one tinted thing of the scene; none if none is tinted."""
    tinted = [thing for thing in scene.things if thing.colour]
    if not tinted:
        return []
    thing = _one(tinted, rng)
    others = [colour for colour in COLOURS if colour != thing.colour]
    drawn = list(COLOURS)[rng.integers(len(COLOURS))]
    said = ((thing.name, thing.colour), (scene.absent[0], drawn), (thing.name, others[rng.integers(len(others))]))
    return [(f"The {name} is {colour}.", label) for (name, colour), label in zip(said, LABELS, strict=True)]


def plural(name: str) -> str:
    """`dogs`, `buses`, `butterflies`, `mice`."""
    if name in PLURALS:
        return PLURALS[name]
    if name.endswith("y") and name[-2] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}es" if name.endswith(("s", "x", "ch", "sh")) else f"{name}s"


def article(name: str) -> str:
    return "an" if (name[0] in "aeiou" and not name.startswith("u")) or name == "umbrella" else "a"


def _one(some: Sequence[Picked], rng: np.random.Generator) -> Picked:
    return some[int(rng.integers(len(some)))]


def _yes(true: bool) -> str:
    return "yes" if true else "no"


# --- files ------------------------------------------------------------------------------------------------------------


def question_scenes(
    split: str, count: int, *, seed: int = 0, side: int = SIDE
) -> Iterator[tuple[str, QuestionScene, np.random.Generator]]:
    """(name, scene, the generator for its questions) of a split. Scene n is the same however many there are."""
    cutouts = _packaged()[split]
    for number in range(count):
        rng = np.random.default_rng([seed, list(SHARES).index(split), number])
        yield f"{split}-{number:04d}", question_scene(cutouts, rng, side=side), rng


def question_scene_groups(splits: Sequence[str]) -> set[str]:
    """The demo's groups of near-duplicates that drawings of these splits belong to, for others to leave out."""
    groups = _groups()
    return {groups[one.id] for split in splits for one in _packaged()[split]}


@lru_cache(maxsize=1)
def _packaged() -> dict[str, list[Cutout]]:
    return split_cutouts(read_cutouts(split=None))


def write_question_scenes(
    folder: str | Path,
    counts: Mapping[str, int],
    *,
    seed: int = 0,
    side: int = SIDE,
    statements: bool = False,
    table: str = "questions.csv",
) -> Path:
    """Write `images/` and a table (image, question, answer, kind, split), and return the table's path.

    statements: in place of questions, whose answers are `LABELS`. The table is written last but for a note of what was
    asked for; what is there already of the same note is not composed again.
    """
    folder = Path(folder)
    note, told = (
        folder / f"{table}.json",
        {"counts": dict(counts), "seed": seed, "side": side, "statements": statements},
    )
    if (folder / table).exists() and read_cached(note) == told:
        return folder / table
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for split, count in counts.items():
        for name, scene, rng in question_scenes(split, count, seed=seed, side=side):
            image = f"images/{name}.png"
            scene.image.save(folder / image)
            asked = [(one.question, one.answer, one.kind) for one in scene_questions(scene, rng)]
            if statements:
                asked = [(said, label, label) for said, label in scene_statements(scene, rng)]
            rows += [(image, *one, split) for one in asked]
    path = folder / table
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "question", "answer", "kind", "split"))
        writer.writerows(rows)
    write_sealed(note, told)
    return path
